//! A guest's PID 1 that lies, floods, and breaks its machine: the agent, but for what a word of the kernel's command line
//! has it do, `ipirig.hostile=NAME`. None of it may ever be `held`, and none may cost more time or memory than an
//! honest guest does (`vmm/cli/tests/kvm/hostile.rs`).
#![cfg_attr(not(test), no_main)]
#![cfg_attr(test, allow(dead_code, reason = "there is no entry point in a test"))]

mod behaviour;
mod flood;
mod lapic;
mod ring0;

/// Where the C library enters.
#[cfg(not(test))]
mod start {
    #![expect(unsafe_code, reason = "exports the C entry point")]

    // SAFETY: the one `main` of this program, with C's signature; the arguments are not used.
    #[unsafe(no_mangle)]
    extern "C" fn main(_argc: i32, _argv: *const *const std::ffi::c_char) -> i32 {
        ipirig_agent::init(&crate::behaviour::Hostile)
    }
}
