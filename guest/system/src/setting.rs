//! Files of the kernel's by which it is set up, and which a kernel may lack.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// Writes `value` to a file that is there. One that is missing is passed over.
pub fn write(path: &Path, value: &str) -> io::Result<()> {
    // Not `fs::write`: it would try to create the file.
    match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.and_then(|mut file| file.write_all(value.as_bytes())),
    }
}
