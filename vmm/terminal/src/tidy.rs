//! Files and directories that are of no use unless they are finished: removed when the process is made to end in the
//! middle of it. Who finishes or removes them himself drops the [`Unfinished`].

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

static BEGUN: Mutex<Vec<(u64, PathBuf)>> = Mutex::new(Vec::new());

/// Something that was begun.
#[derive(Debug)]
pub struct Unfinished(u64);

impl Unfinished {
    /// Has `path` removed, with all that is in it, if the process is made to end before this is dropped.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        begun().push((number, path.to_owned()));
        Self(number)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        begun().retain(|(number, _)| *number != self.0);
    }
}

fn begun() -> MutexGuard<'static, Vec<(u64, PathBuf)>> {
    BEGUN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what was begun.
pub(crate) fn all() {
    for (_, path) in begun().drain(..) {
        let removed = fs::remove_file(&path);
        if removed.is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
            // A directory.
            remove_behind(&path);
        }
    }
}

/// Removes `path`, with all that is in it, by a program that goes on when this process has ended: a built kernel tree
/// has 85 000 files, which takes minutes where each is discarded on its own (ext4 mounted with `discard` and without a
/// journal). The program, where one could be started.
pub fn remove_behind(path: &Path) -> Option<Child> {
    Command::new("rm")
        .args(["-rf", "--"])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C is not meant for it.
        .process_group(0)
        .spawn()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_is_removed_unless_it_was_finished() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        for name in ["begun", "finished"] {
            fs::write(path(name), "").expect("written");
        }
        fs::create_dir(path("dir")).expect("made");
        fs::write(path("dir/file"), "").expect("written");
        let _begun = ["begun", "dir", "never made"].map(|name| Unfinished::new(&path(name)));
        drop(Unfinished::new(&path("finished")));
        all();
        // Directories go in their own time.
        while path("dir").exists() {
            std::thread::yield_now();
        }
        let left = fs::read_dir(dir.path()).expect("listed");
        let left: Vec<_> = left.map(|entry| entry.expect("one").file_name()).collect();
        assert_eq!(left, ["finished"]);
    }
}
