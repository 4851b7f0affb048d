//! PID 1 of the guest. What it does is `ipirig_agent`.
#![cfg_attr(not(test), no_main)]

/// Where the C library enters.
#[cfg(not(test))]
mod start {
    #![expect(unsafe_code, reason = "exports the C entry point")]

    // SAFETY: the one `main` of this program, with C's signature; the arguments are not used.
    #[unsafe(no_mangle)]
    extern "C" fn main(_argc: i32, _argv: *const *const std::ffi::c_char) -> i32 {
        ipirig_agent::init(&ipirig_agent::Honest)
    }
}
