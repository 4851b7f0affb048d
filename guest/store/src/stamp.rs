//! That a slot's files were hashed since this host booted, and which they were: hashing them at each run would cost
//! more than the run's start.
//!
//! A file is taken to be the one that was hashed if its inode, size, time of modification and time of change are the
//! same. The last cannot be set by whoever changes a file. After a boot of the host everything is hashed again: a
//! power cut loses what a file had in it, and leaves its size.

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;

use crate::sums::SUMS;
use crate::trust::Trust;

/// Another one after each boot: random(4).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A stamp has a line a file, of which a slot has few that are looked at.
const BYTES_MAX: u64 = 1 << 16;

/// The stamp of one slot.
#[derive(Debug)]
pub(crate) struct Stamp {
    path: PathBuf,
    /// On an emulated host, whose boots are not the disk's, and whose inodes are another's.
    emulated: bool,
}

impl Stamp {
    pub(crate) fn new(dir: &Path, name: &str, emulated: bool) -> Self {
        let suffix = if emulated { ".lab" } else { "" };
        Self {
            path: dir.join(format!("{name}{suffix}")),
            emulated,
        }
    }

    /// Whether these files of `dir` are those that were hashed.
    pub(crate) fn fits(&self, dir: &Path, files: &[&str], trust: &Trust) -> bool {
        let Ok(Ok(file)) = trust.open(&self.path) else {
            return false;
        };
        let mut found = String::new();
        file.take(BYTES_MAX).read_to_string(&mut found).is_ok()
            && self.state(dir, files).is_some_and(|state| state == found)
    }

    /// Says that files in this state were hashed. Where that cannot be written they are hashed each time.
    pub(crate) fn put(&self, state: &str) {
        let part = self.path.with_extension(format!("{}.part", process::id()));
        if fs::write(&part, state)
            .and_then(|()| fs::rename(&part, &self.path))
            .is_err()
        {
            // It may be there in part.
            let _ = fs::remove_file(&part);
        }
    }

    /// What tells these files of `dir` from changed ones. `None`: something cannot be looked at.
    pub(crate) fn state(&self, dir: &Path, files: &[&str]) -> Option<String> {
        let boot = match self.emulated {
            true => "emulated".to_owned(),
            false => fs::read_to_string(BOOT_ID).ok()?.trim().to_owned(),
        };
        let mut text = format!("boot {boot}\n");
        for name in [SUMS].iter().chain(files) {
            let about = fs::symlink_metadata(dir.join(name)).ok()?;
            let inode = if self.emulated { 0 } else { about.ino() };
            // Owner and mode are in it, as nobody looks at them else.
            writeln!(
                text,
                "{inode} {} {:o} {} {}.{:09} {}.{:09} {name}",
                about.uid(),
                about.mode(),
                about.size(),
                about.mtime(),
                about.mtime_nsec(),
                about.ctime(),
                about.ctime_nsec(),
            )
            .ok()?;
        }
        Some(text)
    }
}
