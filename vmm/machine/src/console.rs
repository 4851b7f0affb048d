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

/// How Linux starts the last words of a kernel (kernel/panic.c).
const PANIC: &str = "Kernel panic - not syncing";

/// Where console output goes, besides the lines that are always kept for reports.
#[derive(Clone, Debug, Default)]
pub struct ConsoleSinks {
    /// Also to standard error, as it comes.
    pub terminal: bool,
    /// Also to this file, truncated first.
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
    terminal: bool,
    log: Option<BufWriter<File>>,
    panic: Option<Panic>,
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
            .map(BufWriter::new);
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

    /// Writes out what is buffered for the log.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.lock().log.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut inner = self.lock();
        if inner.terminal {
            // A closed terminal is no reason to stop the guest.
            let _ = io::stderr().write_all(bytes);
        }
        if let Some(log) = &mut inner.log {
            log.write_all(bytes)?;
        }
        for &byte in bytes {
            inner.push(byte);
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
    String::from_utf8_lossy(bytes).replace(|c: char| c.is_control() && c != '\t', "\u{fffd}")
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
}
