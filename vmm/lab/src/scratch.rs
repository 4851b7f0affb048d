//! The directory that a lab works in, under the system's for temporary files: gone when the lab ends, and if the lab
//! was killed, when the next one begins.

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use ipirig_terminal::tidy::{Unfinished, remove_behind};
use rustix::process::geteuid;
use tempfile::TempDir;

use crate::LabError;

/// How its name begins.
const PREFIX: &str = "ipirig-lab-";
/// Locked as long as the lab is there.
const LOCK: &str = "lock";
/// A directory without a lock is being made, or is one from before there were locks, whose lab may be there as long
/// as this.
const WITHOUT_LOCK: Duration = Duration::from_secs(24 * 60 * 60);

/// A directory with a lock. Fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: TempDir,
    _lock: File,
    _unfinished: Unfinished,
}

impl Scratch {
    /// Makes one, and removes those of labs that were killed.
    pub(crate) fn new() -> Result<Self, LabError> {
        let temporary = env::temp_dir();
        tidy(&temporary, SystemTime::now());
        Self::new_in(&temporary)
    }

    fn new_in(temporary: &Path) -> Result<Self, LabError> {
        let failed = || LabError::io("make a temporary directory");
        let dir = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(temporary)
            .map_err(failed())?;
        let unfinished = Unfinished::new(dir.path());
        let lock = File::create(dir.path().join(LOCK)).map_err(failed())?;
        lock.lock().map_err(failed())?;
        Ok(Self {
            dir,
            _lock: lock,
            _unfinished: unfinished,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes the directories of labs that are gone. One that cannot be removed is tried again the next time.
fn tidy(temporary: &Path, now: SystemTime) {
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            // Not of what a link leads to.
            && entry.metadata().is_ok_and(|about| about.is_dir() && about.uid() == geteuid().as_raw());
        if ours && is_left(&entry.path(), now).unwrap_or(false) {
            remove_behind(&entry.path());
        }
    }
}

fn is_left(dir: &Path, now: SystemTime) -> io::Result<bool> {
    match File::open(dir.join(LOCK)) {
        Ok(lock) => Ok(lock.try_lock().is_ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = fs::metadata(dir)?.modified()?;
            Ok(now.duration_since(made).is_ok_and(|age| age > WITHOUT_LOCK))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_lab_left_is_removed_and_that_of_a_running_one_is_not() {
        let temporary = tempfile::tempdir().expect("a directory");
        let at = temporary.path();
        let running = Scratch::new_in(at).expect("made");
        for name in ["ipirig-lab-killed", "ipirig-lab-old", "ipirig-other"] {
            fs::create_dir(at.join(name)).expect("made");
        }
        fs::write(at.join("ipirig-lab-killed/lock"), "").expect("written");
        fs::write(at.join("ipirig-lab-file"), "").expect("written");
        let names = || {
            let entries = fs::read_dir(at).expect("listed").flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.path()).collect();
            names.sort();
            names
        };
        let left = |gone: &[&str]| {
            let gone: Vec<_> = gone.iter().map(|name| at.join(name)).collect();
            while gone.iter().any(|path| path.exists()) {
                std::thread::yield_now();
            }
            names()
        };
        let others = ["ipirig-lab-file", "ipirig-other"].map(|name| at.join(name));
        let mut expected = others.to_vec();
        expected.push(running.path().to_owned());
        expected.sort();
        tidy(at, SystemTime::now());
        let old = at.join("ipirig-lab-old");
        assert!(left(&["ipirig-lab-killed"]).contains(&old));
        tidy(at, SystemTime::now() + 2 * WITHOUT_LOCK);
        assert_eq!(left(&["ipirig-lab-old"]), expected);
        drop(running);
        assert_eq!(names(), others);
    }
}
