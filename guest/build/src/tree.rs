//! A built kernel tree that is kept, so that a kernel with one more patch is a matter of the files
//! that the patch touches.
//!
//! ```text
//! linux/         the source with the series, and all objects
//! journal.json   exists while linux/ is not as it was: what to put back
//! saved/N        what was in the files of the journal
//! ```
//!
//! Contents are put back from copies, not by applying patches backwards, which can fail half way.
//! `make` goes by the time of the last change, so what is put back counts as changed now: whatever
//! was built from the other content is older than that, and is built again. That also holds for
//! what an interrupted build left half written, as only what depends on these files is written.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::patches::Patches;
use crate::{GuestError, Progress, touched};
use ipirig_store::{Bench, Key, Store, Work, make_dir, remove_dir, remove_file, write_json};

/// Longer than the steps in which file systems count time, which is one tick of the kernel: 10 ms
/// at most. What `make` has just written must not look as old as what is written next.
const TICK: Duration = Duration::from_millis(20);

/// How long compilers may go on after an interrupted `make`.
const STRAYS: Duration = Duration::from_secs(30);

/// The kept tree. Ours alone as long as this exists.
#[derive(Debug)]
pub(crate) struct Tree {
    bench: Bench,
}

/// How to undo patches.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Journal {
    /// Files that were there. The N-th is saved as `saved/N`.
    saved: Vec<PathBuf>,
    /// Files and directories that were not there.
    absent: BTreeSet<PathBuf>,
}

/// The files that `patches` touch, if it is safe to apply them to a kept tree and undo them.
pub(crate) fn undoable(patches: &Patches) -> Result<Option<BTreeSet<PathBuf>>, GuestError> {
    let mut all = BTreeSet::new();
    for patch in patches.files() {
        let text = fs::read(patch).map_err(GuestError::io("read", patch))?;
        match touched::files(&String::from_utf8_lossy(&text)) {
            Some(files) if files.iter().all(|file| touched::spares_the_tree(file)) => {
                all.extend(files);
            }
            _ => return Ok(None),
        }
    }
    Ok(Some(all))
}

impl Tree {
    /// The kept tree for `key`. `build` makes it, if need be, in the directory `linux` of the
    /// work's scratch directory.
    pub(crate) fn open(
        store: &Store,
        key: &Key,
        progress: &dyn Progress,
        build: impl Fn(&Work) -> Result<(), GuestError>,
    ) -> Result<Self, GuestError> {
        let open = || -> Result<Self, GuestError> {
            let bench = store.bench("tree", "kernel tree", key, progress, &build)?;
            Ok(Self { bench })
        };
        let tree = open()?;
        match tree.undo_after_others(progress) {
            Ok(()) => Ok(tree),
            Err(error @ GuestError::TreeInUse { .. }) => Err(error),
            Err(_) => {
                tree.bench.spoil()?;
                // The lock is free before it is taken again.
                drop(tree);
                open()
            }
        }
    }

    fn linux(&self) -> PathBuf {
        linux(&self.bench.dir)
    }

    fn journal(&self) -> PathBuf {
        self.bench.dir.join("journal.json")
    }

    fn saved(&self) -> PathBuf {
        self.bench.dir.join("saved")
    }

    /// Lets `change` change `files` of the tree and work there. Afterwards they are as they were.
    pub(crate) fn with_changes(
        &self,
        files: &BTreeSet<PathBuf>,
        progress: &dyn Progress,
        change: impl FnOnce(&Path) -> Result<(), GuestError>,
    ) -> Result<(), GuestError> {
        self.save(files)?;
        thread::sleep(TICK);
        match change(&self.linux()) {
            // What has been made is good. A tree that cannot be put back is made anew.
            Ok(()) => self.undo().or_else(|_| Ok(self.bench.spoil()?)),
            Err(error) => {
                // Should this fail too, the next to open the tree tries again.
                let _ = self.undo_after_others(progress);
                Err(error)
            }
        }
    }

    /// Writes down how to undo changes to `files`, before there are any.
    fn save(&self, files: &BTreeSet<PathBuf>) -> Result<(), GuestError> {
        let (linux, saved) = (self.linux(), self.saved());
        remove_dir(&saved)?;
        make_dir(&saved)?;
        let mut journal = Journal::default();
        for file in files {
            let path = linux.join(file);
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_file() => {
                    let copy = saved.join(journal.saved.len().to_string());
                    fs::copy(&path, &copy).map_err(GuestError::io("create", &copy))?;
                    journal.saved.push(file.clone());
                }
                // `patch` leaves alone what is no regular file.
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    journal.absent.insert(first_absent(&linux, file));
                }
                Err(error) if error.kind() == ErrorKind::NotADirectory => {}
                Err(error) => return Err(GuestError::io("read", path)(error)),
            }
        }
        Ok(write_json(&self.journal(), &journal)?)
    }

    /// Like [`undo`](Self::undo), after a build that may not have ended as a whole.
    fn undo_after_others(&self, progress: &dyn Progress) -> Result<(), GuestError> {
        if self.journal().exists() {
            wait_for_strays(&self.linux(), STRAYS, progress)?;
        }
        self.undo()
    }

    /// Makes the tree as it was, if it is not. May be interrupted and done again.
    fn undo(&self) -> Result<(), GuestError> {
        let (linux, path) = (self.linux(), self.journal());
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(GuestError::io("read", path)(error)),
        };
        let journal: Journal = serde_json::from_slice(&text)
            .map_err(|error| GuestError::io("read", &path)(error.into()))?;
        thread::sleep(TICK);
        for absent in &journal.absent {
            let absent = linux.join(absent);
            if absent.is_dir() {
                remove_dir(&absent)?;
            } else {
                remove_file(&absent)?;
            }
            remove_file(&rejects(&absent))?;
        }
        for (number, file) in journal.saved.iter().enumerate() {
            let copy = self.saved().join(number.to_string());
            let file = linux.join(file);
            if let Some(dir) = file.parent() {
                // `patch` removes a directory when it has removed the last file in it.
                make_dir(dir)?;
            }
            remove_file(&rejects(&file))?;
            fs::copy(&copy, &file).map_err(GuestError::io("create", &file))?;
        }
        remove_file(&path)?;
        Ok(remove_dir(&self.saved())?)
    }
}

/// Where the source is in the directory of a kept tree.
pub(crate) fn linux(dir: &Path) -> PathBuf {
    dir.join("linux")
}

/// The file that `patch` writes when it cannot apply a hunk.
fn rejects(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".rej");
    name.into()
}

/// `file`, or the first of the directories above it that is not there.
fn first_absent(root: &Path, file: &Path) -> PathBuf {
    file.ancestors()
        .take_while(|part| fs::symlink_metadata(root.join(part)).is_err())
        .last()
        .unwrap_or(file)
        .to_owned()
}

/// Waits until no process has its working directory in `tree`. When ipirig is killed, and not the
/// programs it runs, these go on until they next print something.
fn wait_for_strays(
    tree: &Path,
    patience: Duration,
    progress: &dyn Progress,
) -> Result<(), GuestError> {
    let deadline = Instant::now() + patience;
    let mut said = false;
    while let Some(pid) = someone_in(tree) {
        if Instant::now() > deadline {
            let tree = tree.to_owned();
            return Err(GuestError::TreeInUse { tree, pid });
        }
        if !said {
            progress.note("an interrupted kernel build is still at work; waiting for its end");
            said = true;
        }
        // They are not children of ours: there is nothing to wait on, only /proc to look at.
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// A process whose working directory is `dir` or below. Kbuild works in the source tree.
fn someone_in(dir: &Path) -> Option<u32> {
    let dir = dir.canonicalize().ok()?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .find(|pid: &u32| {
            // Not ours to see: not ours to wait for either.
            fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&dir))
        })
}

#[cfg(test)]
mod tests;
