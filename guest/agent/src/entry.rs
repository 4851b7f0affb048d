//! Where the C library enters.
//!
//! Not std's `main`: before it, std opens /dev/null in place of closed standard streams and aborts
//! where there is none, as in an initramfs before devtmpfs is mounted.
#![expect(unsafe_code, reason = "exports the C entry point")]

use std::panic;

use ipirig_system::sys;

use crate::{console, end, run, tasks};

// SAFETY: the one `main` of this program, with C's signature; the arguments are not used.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: i32, _argv: *const *const std::ffi::c_char) -> i32 {
    panic::set_hook(Box::new(|panic| {
        // One line: the location comes on a line of its own.
        let said = panic.to_string().replace('\n', " ");
        if std::process::id() == 1 {
            end(&said);
        }
        console::say(&said);
        sys::exit(tasks::PANICKED)
    }));
    end(&run().to_string())
}
