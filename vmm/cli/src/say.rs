//! What is said on standard error while something goes on, or goes wrong.

use std::io::{self, Write};

use ipirig_report::paint::shown;

/// Writes to standard error, without control characters. Nobody is left to tell if that fails.
pub(crate) fn say(text: &str) {
    let _ = io::stderr().lock().write_all(shown(text).as_bytes());
}
