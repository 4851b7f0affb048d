//! The kernel's tracing files.

use std::fs;
use std::path::{Path, PathBuf};

use crate::interfaces::{Interfaces, write};
use crate::request::StormError;
use ipirig_system::{During, Errno};

/// KiB of each CPU's buffer: a storm's events are nobody's interest, and a large buffer takes a slow
/// kernel long to allocate.
const BUFFER_KB: &str = "64";

/// The mounted tracefs.
#[derive(Debug)]
pub struct Tracefs(PathBuf);

impl Tracefs {
    /// Mounts tracefs where it is not mounted yet. At boot it would cost each guest the time to set
    /// up its files.
    pub fn open(interfaces: &Interfaces<'_>) -> Result<Self, StormError> {
        let dir = interfaces.root.join("sys/kernel/tracing");
        if dir.join("trace").exists() {
            return Ok(Self(dir));
        }
        match (interfaces.mount_tracefs)(&dir) {
            // Without it the directory is missing; or the file system is.
            Err(Errno(libc::ENODEV | libc::ENOENT)) => Err(StormError::Lacking(format!(
                "no CONFIG_TRACING: tracefs cannot be mounted on {}",
                dir.display()
            ))),
            result => {
                result.during(|| format!("mount tracefs on {}", dir.display()))?;
                Ok(Self(dir))
            }
        }
    }

    /// The same of a kernel that has the file `name`, which only exists with `option`.
    pub(crate) fn with(
        interfaces: &Interfaces<'_>,
        name: &str,
        option: &str,
    ) -> Result<Self, StormError> {
        let tracefs = Self::open(interfaces)?;
        tracefs.file(name, option)?;
        Ok(tracefs)
    }

    /// Sets the buffers up: the kernel would do it when the first event is enabled, with a work on
    /// each CPU, isolated ones too (ring_buffer_resize).
    pub(crate) fn set_buffers_up(&self) -> Result<(), StormError> {
        self.file("buffer_size_kb", "CONFIG_TRACING")?;
        self.write("buffer_size_kb", BUFFER_KB)
    }

    /// A trace instance, made if need be: a buffer and switches of its own.
    pub fn instance(&self, name: &str) -> Result<Self, StormError> {
        let instances = self.file("instances", "CONFIG_TRACING")?;
        let dir = instances.join(name);
        match std::fs::create_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            result => result.during(|| format!("create {}", dir.display()))?,
        }
        Ok(Self(dir))
    }

    /// The path of a file that only exists with `option`.
    pub fn file(&self, name: &str, option: &str) -> Result<PathBuf, StormError> {
        let path = self.0.join(name);
        if path.exists() {
            Ok(path)
        } else {
            Err(StormError::Lacking(format!(
                "no {option}: {} is missing",
                path.display()
            )))
        }
    }

    /// Reads a file that exists if the storm came this far.
    pub(crate) fn read(&self, name: impl AsRef<Path>) -> Result<String, StormError> {
        let path = self.0.join(name);
        Ok(fs::read_to_string(&path).during(|| format!("read {}", path.display()))?)
    }

    /// Writes to a file that exists if the storm came this far, in place of what is there.
    pub(crate) fn replace(&self, name: impl AsRef<Path>, value: &str) -> Result<(), StormError> {
        let path = self.0.join(name);
        Ok(fs::write(&path, value).during(|| format!("write {value} to {}", path.display()))?)
    }

    /// Writes to a file that exists if the storm came this far.
    pub fn write(&self, name: impl AsRef<Path>, value: &str) -> Result<(), StormError> {
        Ok(write(&self.0.join(name), value)?)
    }
}
