//! The port by which the outer half is spoken to.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::{CHANGES, InitError, failed, log};
use crate::wire::{Frame, PORT};

/// How often, a millisecond apart, the port is looked for: it comes a moment after the kernel has
/// started process 1.
const LOOKS: u32 = 10_000;
/// Where the serial port of Bochs' host is.
const SERIAL: &str = "/dev/ttyS1";

/// The way outside.
#[derive(Debug)]
pub(super) struct Port {
    out: Mutex<File>,
    pub(super) into: File,
}

impl Port {
    pub(super) fn open() -> Result<Self, InitError> {
        let path = Self::find()?;
        let open = || File::options().read(true).write(true).open(&path);
        let out = open().map_err(failed(format!("open {}", path.display())))?;
        if rustix::termios::isatty(&out) {
            let raw = tcgetattr(&out).and_then(|mut modes| {
                modes.make_raw();
                tcsetattr(&out, OptionalActions::Now, &modes)
            });
            raw.map_err(|e| failed(format!("set {} up", path.display()))(e.into()))?;
        }
        let into = out
            .try_clone()
            .map_err(failed(format!("share {}", path.display())))?;
        // Until the outer half is heard of, reading would be told of an end.
        for _ in 0..LOOKS {
            let mut polled = [PollFd::new(&into, PollFlags::OUT)];
            let soon = Timespec {
                tv_sec: 0,
                tv_nsec: 1_000_000,
            };
            let _ = poll(&mut polled, Some(&soon));
            if polled
                .iter()
                .any(|fd| !fd.revents().contains(PollFlags::HUP))
            {
                return Ok(Self {
                    out: Mutex::new(out),
                    into,
                });
            }
            thread::sleep(Duration::from_millis(1));
        }
        Err(InitError::NoPort)
    }

    /// The virtio port under QEMU, the second serial port under Bochs.
    fn find() -> Result<PathBuf, InitError> {
        for _ in 0..LOOKS {
            let ports = fs::read_dir("/sys/class/virtio-ports");
            for port in ports.into_iter().flatten().flatten() {
                let name = fs::read_to_string(port.path().join("name")).unwrap_or_default();
                if name.trim() == PORT {
                    return Ok(Path::new("/dev").join(port.file_name()));
                }
            }
            // Only the CD of Bochs' host has a layer over it.
            if Path::new(CHANGES).exists() {
                return Ok(SERIAL.into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Err(InitError::NoPort)
    }

    /// Waits until all that was said has left a serial port, whose buffers a restart would empty. Writes to a
    /// virtio port return when the outside has them.
    pub(super) fn drain(&self) {
        let out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if rustix::termios::isatty(&*out)
            && let Err(error) = rustix::termios::tcdrain(&*out)
        {
            log(&format!("the port: {error}"));
        }
    }

    /// Says something. If nobody listens any more, the listener below has noticed.
    pub(super) fn send(&self, frame: &Frame) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = frame.write(&mut *out) {
            log(&format!("the port: {error}"));
        }
    }
}
