//! One line on the guest's console.

use std::fs::OpenOptions;
use std::io::{self, Write};

/// Prints `ipirig-agent: <line>` where the first of these takes it: the kernel's log, which prints
/// without interrupts; the console, which does not where the serial port has no interrupt (its
/// writes give EIO); what the kernel gave PID 1 as standard error. If none does there is no other
/// place to complain, and the mailbox has the same text.
pub(crate) fn say(line: &str) {
    // Level 3, an error: shown in spite of `quiet` (Documentation/ABI/testing/dev-kmsg).
    let said = write("/dev/kmsg", &format!("<3>ipirig-agent: {line}\n"));
    let line = format!("ipirig-agent: {line}\n");
    let said = said.or_else(|_| write("/dev/console", &line));
    if said.is_err() {
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

/// Opens the file anew each time: most guests never print.
fn write(path: &str, line: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(line.as_bytes())
}
