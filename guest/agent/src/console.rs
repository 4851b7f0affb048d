//! One line on the guest's console.

use std::fs::OpenOptions;
use std::io::{self, Write};

/// Prints `ipirig-agent: <line>`. A console that refuses is passed over: there is no other place
/// to complain, and the mailbox has the same text.
pub(crate) fn say(line: &str) {
    let line = format!("ipirig-agent: {line}\n");
    // Opened each time: most guests never print. Before devtmpfs is mounted there may only be
    // what the kernel gave PID 1 as standard error.
    let printed = OpenOptions::new()
        .write(true)
        .open("/dev/console")
        .and_then(|mut console| console.write_all(line.as_bytes()));
    if printed.is_err() {
        let _ = io::stderr().write_all(line.as_bytes());
    }
}
