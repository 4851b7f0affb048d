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
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use ipirig_store::{Ingredients, StoreError};

    use super::*;

    fn open(root: &Path) -> Tree {
        let store = Store::open(root).expect("opened");
        let key = Ingredients::of("tree", 1).key();
        Tree::open(&store, &key, &(), |work| {
            let linux = linux(&work.scratch);
            fs::create_dir_all(linux.join("dir")).expect("created");
            fs::write(linux.join("a"), "old a").expect("written");
            fs::write(linux.join("dir/b"), "old b").expect("written");
            Ok(())
        })
        .expect("opened")
    }

    /// Every file of the tree with its content, and the directories.
    fn listing(tree: &Tree) -> Vec<(PathBuf, Option<String>)> {
        let (mut list, mut dirs) = (Vec::new(), vec![tree.linux()]);
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).expect("listed") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    dirs.push(path.clone());
                }
                let text = fs::read_to_string(&path).ok();
                list.push((path, text));
            }
        }
        list.sort();
        list
    }

    fn files(names: &[&str]) -> BTreeSet<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    /// Changes, removes and adds files, and leaves rejects.
    fn change(linux: &Path) {
        fs::write(linux.join("a"), "new a").expect("written");
        fs::write(linux.join("a.rej"), "rejects").expect("written");
        fs::remove_dir_all(linux.join("dir")).expect("removed");
        fs::create_dir_all(linux.join("x/y")).expect("created");
        fs::write(linux.join("x/y/c"), "new c").expect("written");
        fs::write(linux.join("x/y/c.o"), "object").expect("written");
        fs::write(linux.join("d"), "new d").expect("written");
    }

    const CHANGED: [&str; 5] = ["a", "dir/b", "x/y/c", "d", "never"];

    fn modified(tree: &Tree, file: &str) -> std::time::SystemTime {
        let meta = fs::metadata(tree.linux().join(file)).expect("there");
        meta.modified().expect("known")
    }

    #[test]
    fn tree_is_as_it_was_after_changes_and_what_was_put_back_is_newer() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = open(dir.path());
        let before = listing(&tree);
        let mut built = None;
        tree.with_changes(&files(&CHANGED), &(), |linux| {
            change(linux);
            fs::write(linux.join("a.o"), "object").expect("written");
            built = Some(modified(&tree, "a.o"));
            assert_ne!(listing(&tree), before);
            Ok(())
        })
        .expect("done");
        fs::remove_file(tree.linux().join("a.o")).expect("there");
        assert_eq!(listing(&tree), before);
        assert!(Some(modified(&tree, "a")) > built);
        assert!(Some(modified(&tree, "dir/b")) > built);
        assert!(!tree.journal().exists() && !tree.saved().exists());
    }

    #[test]
    fn changes_that_fail_are_undone_and_the_failure_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = open(dir.path());
        let before = listing(&tree);
        let error = tree
            .with_changes(&files(&CHANGED), &(), |linux| {
                change(linux);
                let what = "changing".to_owned();
                Err(StoreError::Interrupted { what }.into())
            })
            .expect_err("told");
        assert!(
            matches!(error, GuestError::Store(StoreError::Interrupted { .. })),
            "{error:?}"
        );
        assert_eq!(listing(&tree), before);
    }

    #[test]
    fn changes_of_a_killed_run_are_undone_by_the_next() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = open(dir.path());
        let before = listing(&tree);
        tree.save(&files(&CHANGED)).expect("saved");
        change(&tree.linux());
        assert_ne!(listing(&tree), before);
        drop(tree);
        assert_eq!(listing(&open(dir.path())), before);
    }

    #[test]
    fn undoing_may_be_interrupted_anywhere_and_done_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = open(dir.path());
        let before = listing(&tree);
        // A run that was killed before it had written its journal has changed nothing.
        fs::create_dir_all(tree.saved()).expect("created");
        fs::write(tree.saved().join("0"), "half").expect("written");
        tree.undo().expect("nothing to do");
        assert_eq!(listing(&tree), before);
        // One that was killed while it undid.
        tree.save(&files(&CHANGED)).expect("saved");
        change(&tree.linux());
        fs::remove_file(tree.linux().join("d")).expect("there");
        fs::write(tree.linux().join("a"), "ol").expect("written");
        tree.undo().expect("undone");
        assert_eq!(listing(&tree), before);
    }

    #[test]
    fn tree_that_cannot_be_put_back_is_made_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = open(dir.path());
        let before = listing(&tree);
        // A killed run whose journal cannot be read.
        change(&tree.linux());
        fs::write(tree.journal(), "{").expect("written");
        drop(tree);
        let tree = open(dir.path());
        assert_eq!(listing(&tree), before);
        // A directory where a file was.
        tree.with_changes(&files(&["a"]), &(), |linux| {
            fs::remove_file(linux.join("a")).expect("removed");
            fs::create_dir_all(linux.join("a/b")).expect("created");
            Ok(())
        })
        .expect("what was made is good");
        drop(tree);
        assert_eq!(listing(&open(dir.path())), before);
    }

    #[test]
    fn journal_names_the_topmost_directory_that_was_not_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = open(dir.path());
        tree.save(&files(&["a", "a/b", "dir", "dir/b", "dir/x/y", "z"]))
            .expect("saved");
        let text = fs::read(tree.journal()).expect("read");
        let expected = Journal {
            saved: vec!["a".into(), "dir/b".into()],
            absent: files(&["dir/x", "z"]),
        };
        let journal: Journal = serde_json::from_slice(&text).expect("parsed");
        assert_eq!(journal, expected);
    }

    #[test]
    fn process_in_the_tree_is_waited_for_and_then_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = open(dir.path());
        assert_eq!(someone_in(&tree.linux()), None);
        let mut sleep = Command::new("sleep")
            .arg("60")
            .current_dir(tree.linux().join("dir"))
            .spawn()
            .expect("started");
        let error = wait_for_strays(&tree.linux(), Duration::ZERO, &()).expect_err("there");
        let waited = thread::scope(|scope| {
            let waiting = scope.spawn(|| wait_for_strays(&tree.linux(), STRAYS, &()));
            sleep.kill().expect("killed");
            sleep.wait().expect("ended");
            waiting.join().expect("not panicked")
        });
        assert_eq!(
            error.to_string(),
            format!(
                "process {} is at work in {}: end it, then try again",
                sleep.id(),
                tree.linux().display()
            )
        );
        waited.expect("gone");
    }

    /// What a patch or a build does to a file.
    #[derive(Debug, Clone)]
    enum Step {
        Write(&'static str, String),
        Remove(&'static str),
    }

    fn step() -> impl Strategy<Value = Step> {
        let names = ["a", "a.rej", "dir/b", "dir/c", "x", "x/y/d", "x/y/e", "z/f"];
        let name = || prop::sample::select(names.to_vec());
        prop_oneof![
            (name(), "[a-z]{0,3}").prop_map(|(name, text)| Step::Write(name, text)),
            name().prop_map(Step::Remove),
        ]
    }

    impl Step {
        /// What is not possible, as a file in a file, is not done.
        fn go(&self, linux: &Path) {
            match self {
                Self::Write(name, text) => {
                    let path = linux.join(name);
                    let _ = fs::create_dir_all(path.parent().expect("a parent"));
                    let _ = fs::write(path, text);
                }
                Self::Remove(name) => {
                    let path = linux.join(name);
                    let _ = fs::remove_file(&path);
                    // As `patch` does, when it was the last one.
                    let _ = fs::remove_dir(path.parent().expect("a parent"));
                }
            }
        }

        fn name(&self) -> &'static str {
            match self {
                Self::Write(name, _) | Self::Remove(name) => name,
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn any_changes_are_undone_and_what_was_there_is_newer(
            steps in prop::collection::vec(step(), 1..10),
        ) {
            let dir = tempfile::tempdir().expect("a directory");
            let tree = open(dir.path());
            let before = listing(&tree);
            let names: Vec<_> = steps.iter().map(Step::name).collect();
            let object = dir.path().join("object");
            tree.with_changes(&files(&names), &(), |linux| {
                steps.iter().for_each(|step| step.go(linux));
                fs::write(&object, "").expect("written");
                Ok(())
            })
            .expect("done");
            prop_assert_eq!(listing(&tree), before);
            let built = fs::metadata(&object).expect("there").modified().expect("known");
            for name in names {
                if tree.linux().join(name).is_file() {
                    prop_assert!(modified(&tree, name) > built, "{}", name);
                }
            }
        }
    }
}
