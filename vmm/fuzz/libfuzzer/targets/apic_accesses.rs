#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ipirig_fuzz::feed("apic-accesses", data));
