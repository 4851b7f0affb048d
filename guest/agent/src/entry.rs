//! What `main` does.
//!
//! A program's `main` is C's, not std's: before std's, std opens /dev/null in place of closed standard streams and aborts
//! where there is none, as in an initramfs before devtmpfs is mounted.

use std::panic;

use ipirig_system::sys;

use crate::behaviour::Behaviour;
use crate::{console, end, run, tasks};

/// Is PID 1 from the entry into the program on.
pub fn init(behaviour: &dyn Behaviour) -> ! {
    panic::set_hook(Box::new(|panic| {
        // One line: the location comes on a line of its own.
        let said = panic.to_string().replace('\n', " ");
        if std::process::id() == 1 {
            end(&said);
        }
        console::say(&said);
        sys::exit(tasks::PANICKED)
    }));
    end(&run(behaviour).to_string())
}
