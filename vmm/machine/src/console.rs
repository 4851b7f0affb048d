//! The serial console: what the guest says, kept, shown, logged, and watched for a panic.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock;

/// Lines kept in memory. A guest can say more, but not make the machine keep more.
const LINES_KEPT: usize = 512;
/// Longest line kept whole; the rest of a longer one starts a new line.
const LINE_BYTES: usize = 1024;

/// The largest log. What a guest says beyond is not written down.
const LOG_BYTES: u64 = 64 << 20;

/// How Linux starts the last words of a kernel (kernel/panic.c).
const PANIC: &str = "Kernel panic - not syncing";

/// How console output is shown on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleStyle {
    /// Line by line, with no control character of the guest's.
    Text,
    /// As it comes. A guest can then do with the terminal what it likes.
    Raw,
}

/// Where console output goes, besides the lines that are always kept for reports.
#[derive(Clone, Debug, Default)]
pub struct ConsoleSinks {
    /// Also to standard error.
    pub terminal: Option<ConsoleStyle>,
    /// Also to this file, truncated first. At most 64 MiB of it; a file that cannot be written to any more is told
    /// by [`crate::Machine::log_fault`].
    pub log: Option<PathBuf>,
}

/// The console's reader side; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Console {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: VecDeque<String>,
    partial: Vec<u8>,
    terminal: Option<ConsoleStyle>,
    log: Option<Log>,
    panic: Option<Panic>,
}

#[derive(Debug)]
struct Log {
    file: BufWriter<File>,
    /// What may still be written.
    left: u64,
    /// Why nothing is written any more.
    fault: Option<String>,
}

impl Log {
    /// Writes down what it can; never an error of the guest's console.
    fn write(&mut self, bytes: &[u8]) {
        if self.fault.is_some() {
            return;
        }
        let length = bytes.len() as u64;
        let Some(left) = self.left.checked_sub(length) else {
            self.fault = Some(format!("it is full ({} MiB)", LOG_BYTES >> 20));
            return;
        };
        self.left = left;
        if let Err(error) = self.file.write_all(bytes) {
            self.fault = Some(error.to_string());
        }
    }

    fn flush(&mut self) {
        if let (Err(error), None) = (self.file.flush(), &self.fault) {
            self.fault = Some(error.to_string());
        }
    }
}

/// A kernel panic seen on the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Panic {
    /// The line, without a time stamp.
    pub(crate) line: String,
    /// When, in nanoseconds of [`clock::now`].
    pub(crate) at: u64,
}

impl Console {
    /// # Errors
    /// The log file cannot be created.
    pub(crate) fn new(sinks: &ConsoleSinks) -> io::Result<Self> {
        let log = sinks
            .log
            .as_ref()
            .map(File::create)
            .transpose()?
            .map(|file| Log {
                file: BufWriter::new(file),
                left: LOG_BYTES,
                fault: None,
            });
        let inner = Inner {
            terminal: sinks.terminal,
            log,
            ..Inner::default()
        };
        Ok(Self {
            inner: Arc::new(Mutex::new(inner)),
        })
    }

    // A writer that panicked leaves lines that are still worth reading.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last `count` lines, oldest first, with the unfinished one.
    pub(crate) fn tail(&self, count: usize) -> Vec<String> {
        let inner = self.lock();
        let partial = (!inner.partial.is_empty()).then(|| text(&inner.partial));
        let mut lines: Vec<_> = inner.lines.iter().cloned().chain(partial).collect();
        lines.drain(..lines.len().saturating_sub(count));
        lines
    }

    /// The first panic, if there was one.
    pub(crate) fn panic(&self) -> Option<Panic> {
        self.lock().panic.clone()
    }

    /// Says again what was said before a snapshot was taken, so that the log and reports begin at
    /// the boot.
    pub(crate) fn replay(&self, lines: &[String]) {
        let mut console = self.clone();
        for line in lines {
            // Errors of the log are the log's loss, as they are for the guest's own words.
            let _ = console.write_all(line.as_bytes());
            let _ = console.write_all(b"\n");
        }
    }

    /// Writes out what is buffered for the log, and shows the line that the guest has not ended.
    pub(crate) fn finish(&self) {
        let mut inner = self.lock();
        if !inner.partial.is_empty() {
            inner.end_line();
        }
        if let Some(log) = &mut inner.log {
            log.flush();
        }
    }

    /// Why the log is not whole, if it is not.
    pub(crate) fn log_fault(&self) -> Option<String> {
        self.lock().log.as_ref().and_then(|log| log.fault.clone())
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut inner = self.lock();
        // First what a panic is seen by: whatever becomes of the rest, it is known.
        for &byte in bytes {
            inner.push(byte);
        }
        if inner.terminal == Some(ConsoleStyle::Raw) {
            // A closed terminal is no reason to stop the guest.
            let _ = io::stderr().write_all(bytes);
        }
        if let Some(log) = &mut inner.log {
            log.write(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Inner {
    fn push(&mut self, byte: u8) {
        match byte {
            b'\n' => self.end_line(),
            b'\r' => {}
            _ => {
                self.partial.push(byte);
                if self.partial.len() == LINE_BYTES {
                    self.end_line();
                }
            }
        }
    }

    fn end_line(&mut self) {
        let line = text(&self.partial);
        self.partial.clear();
        if self.terminal == Some(ConsoleStyle::Text) {
            // A closed terminal is no reason to stop the guest.
            let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
        }
        if self.panic.is_none()
            && let Some(at) = line.find(PANIC)
        {
            let line = line.get(at..).unwrap_or_default().to_owned();
            self.panic = Some(Panic {
                line,
                at: clock::now(),
            });
        }
        if self.lines.len() == LINES_KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

/// Guest bytes as text that cannot move a terminal's cursor.
fn text(bytes: &[u8]) -> String {
    ipirig_terminal::text::line(&String::from_utf8_lossy(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_lines_with_the_unfinished_one() {
        let mut console = Console::new(&ConsoleSinks::default()).unwrap();
        console.write_all(b"one\r\ntwo\r\nthr").unwrap();
        assert_eq!(console.tail(2), ["two", "thr"]);
        assert_eq!(console.tail(9), ["one", "two", "thr"]);
    }

    #[test]
    fn a_panic_is_seen_without_its_time_stamp_and_the_first_one_stays() {
        let mut console = Console::new(&ConsoleSinks::default()).unwrap();
        console.write_all(b"[    1.0] all is well\n").unwrap();
        assert_eq!(console.panic(), None);
        console
            .write_all(b"[    1.2] Kernel panic - not syncing: VFS\n")
            .unwrap();
        console
            .write_all(b"Kernel panic - not syncing: again\n")
            .unwrap();
        assert_eq!(
            console.panic().unwrap().line,
            "Kernel panic - not syncing: VFS"
        );
    }

    #[test]
    fn a_guest_cannot_grow_the_console_or_steer_the_terminal() {
        let mut console = Console::new(&ConsoleSinks::default()).unwrap();
        console
            .write_all(&vec![b'x'; LINE_BYTES * (LINES_KEPT + 10)])
            .unwrap();
        let lines = console.tail(usize::MAX);
        assert_eq!(lines.len(), LINES_KEPT);
        assert!(lines.iter().all(|line| line.len() == LINE_BYTES));
        console.write_all(b"\x1b[2Jhi\n").unwrap();
        assert_eq!(console.tail(1), ["\u{fffd}[2Jhi"]);
    }

    fn logged(path: &str) -> Console {
        Console::new(&ConsoleSinks {
            terminal: None,
            log: Some(path.into()),
        })
        .unwrap()
    }

    #[test]
    fn a_panic_is_seen_and_lines_are_kept_whatever_becomes_of_the_log() {
        let mut console = logged("/dev/full");
        // Twice what is buffered.
        let noise = vec![b'x'; 16 << 10];
        console.write_all(&noise).unwrap();
        console
            .write_all(b"\nKernel panic - not syncing: VFS\n")
            .unwrap();
        assert_eq!(
            console.panic().unwrap().line,
            "Kernel panic - not syncing: VFS"
        );
        assert_eq!(console.tail(1), ["Kernel panic - not syncing: VFS"]);
        console.finish();
        let full = io::Error::from_raw_os_error(libc::ENOSPC).to_string();
        assert_eq!(console.log_fault(), Some(full));
    }

    #[test]
    fn a_log_that_is_lost_at_its_end_is_told() {
        let mut console = logged("/dev/full");
        console.write_all(b"short\n").unwrap();
        assert_eq!(console.log_fault(), None);
        console.finish();
        assert!(console.log_fault().is_some());
    }

    #[test]
    fn a_guest_cannot_fill_the_disk() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut console = logged(file.path().to_str().unwrap());
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..70 {
            console.write_all(&piece).unwrap();
        }
        console.finish();
        assert_eq!(file.as_file().metadata().unwrap().len(), LOG_BYTES);
        assert_eq!(console.log_fault(), Some("it is full (64 MiB)".to_owned()));
        assert_eq!(console.tail(usize::MAX).len(), LINES_KEPT);
    }
}
