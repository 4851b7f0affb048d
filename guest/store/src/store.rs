//! The cache: slots that are either whole or not there.
//!
//! ```text
//! source/            downloaded packages
//! kernel/KEY/        one finished kernel; module/, agent/, initramfs/, sources/ alike
//! tree/KEY/          the kept kernel tree, owned by whoever holds the lock tree-KEY
//! cargo/CHECKOUT/    Cargo's target directories for the agent
//! work/STAGE-KEY/    a build under way, owned by whoever holds the lock of the same name
//! work/trash-*/      what is being removed
//! lock/STAGE-KEY     empty files that are locked, never removed
//! log/STAGE-KEY      what a build printed, also when it failed
//! verified/STAGE-KEY which files of a slot were hashed since the host booted
//! format             which of these rules the cache follows
//! ```
//!
//! A slot is used only if its files are what was built: `SHA256SUMS` in it has their hashes. It, the directories
//! above it and its files belong to somebody whom [`Trust`] believes, and nobody else may write to them. A kept tree
//! is too large to be hashed at each use: of it only the directory is looked at.

mod leftovers;

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ipirig_terminal::interrupt;
use ipirig_terminal::tidy::Unfinished;
use serde::Serialize;

use crate::key::{Ingredients, Key};
use crate::stamp::Stamp;
use crate::sums::{self, Found, SUMS, Sums, UNHASHED, trusted};
use crate::{Progress, StoreError, Trust};

/// The file that says that a [`Bench`] is whole.
const WHOLE: &str = "whole";

/// The variable by which `ipirig lab` says to what it runs that the host is emulated.
const IN_LAB: &str = "IPIRIG_LAB";

/// The file in the cache that says which rules it follows.
pub const FORMAT: &str = "format";

/// What is in it since slots have hashes.
const VERSION: &str = "2\n";

/// The files in a slot by which it is found to be what was built. It has one of them.
pub const MARKS: [&str; 2] = [SUMS, UNHASHED];

/// How often a lock is tried that somebody else has.
const LOCK_LOOK: Duration = Duration::from_millis(50);

/// The stages that start no program: they only pack and unpack files.
const PACKED: [&str; 2] = ["initramfs", "sources"];

/// The cache directory.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// What emulates this host, if something does.
    emulated: Option<OsString>,
    trust: Trust,
}

/// A finished stage.
#[derive(Debug)]
pub struct Slot {
    /// The directory with its files.
    pub dir: PathBuf,
    /// The hash of what went into it.
    pub key: Key,
    /// Whether it was built by this call rather than found.
    pub fresh: bool,
}

/// What stays where it was built, for others to work in. Ours as long as this exists.
#[derive(Debug)]
pub struct Bench {
    /// The directory.
    pub dir: PathBuf,
    _lock: File,
}

/// What a stage is built in.
#[derive(Debug)]
pub struct Work {
    /// Thrown away afterwards.
    pub scratch: PathBuf,
    /// Becomes the slot.
    pub out: PathBuf,
    /// Where to log what is run.
    pub log: PathBuf,
}

impl Bench {
    /// Has it made again when it is asked for next.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn spoil(&self) -> Result<(), StoreError> {
        remove_file(&self.dir.join(WHOLE))
    }
}

impl Store {
    /// Opens the cache in `root`, which is created when missing.
    ///
    /// # Errors
    ///
    /// [`StoreError::AwkwardCacheDir`], [`StoreError::Io`].
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let awkward = |c: char| c.is_whitespace() || c.is_control() || ":'\"`#$%\\".contains(c);
        if root.to_str().is_none_or(|path| path.contains(awkward)) {
            return Err(StoreError::AwkwardCacheDir {
                path: root.to_owned(),
            });
        }
        let is_new = !root.exists();
        for dir in ["source", "work", "lock", "log", "verified"] {
            make_dir(&root.join(dir))?;
        }
        let this = Self {
            root: root.to_owned(),
            emulated: env::var_os(IN_LAB).filter(|host| !host.is_empty()),
            trust: Trust::here(),
        };
        this.believe(root)?;
        this.sweep();
        let format = root.join(FORMAT);
        if !format.exists() {
            if !is_new {
                mark_unhashed(root)?;
            }
            fs::write(&format, VERSION).map_err(StoreError::io("write", format))?;
        }
        Ok(this)
    }

    /// The directory of downloaded packages.
    #[must_use]
    pub fn source(&self) -> PathBuf {
        self.root.join("source")
    }

    /// Cargo's target directory for `workspace`. Needs the lock `cargo`. Not one for all: Cargo
    /// knows the crates of a workspace by their places in it, and takes another checkout's for its
    /// own.
    #[must_use]
    pub fn cargo_target(&self, workspace: &Path) -> PathBuf {
        let mut place = Ingredients::of("cargo", 1);
        place.add("workspace", &workspace.to_string_lossy());
        self.root.join("cargo").join(place.key().short())
    }

    /// The log of something that has no slot.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("log").join(format!("{name}.log"))
    }

    /// The directory of all slots of a stage.
    #[must_use]
    pub fn stage_dir(&self, stage: &str) -> PathBuf {
        self.root.join(stage)
    }

    /// Finds the slot `stage`/`key`, or has `build` fill it. The slot counts as whole when it has
    /// all of `files`; `build` must put them into [`Work::out`].
    ///
    /// # Errors
    ///
    /// That of `build`, [`StoreError::Product`] if a file was not made, [`StoreError::InLab`], [`StoreError::Io`].
    pub fn slot<E: From<StoreError>>(
        &self,
        stage: &str,
        key: Key,
        files: &[&str],
        progress: &dyn Progress,
        build: impl FnOnce(&Work) -> Result<(), E>,
    ) -> Result<Slot, E> {
        let dir = self.root.join(stage).join(key.to_string());
        match self.look(stage, &key, files, false)? {
            SlotState::Whole => {
                return Ok(Slot {
                    dir,
                    key,
                    fresh: false,
                });
            }
            SlotState::Absent => {}
            SlotState::Damaged(what) => progress.note(&format!(
                "{what}: not using the {stage} in {}",
                dir.display()
            )),
        }
        if let (Some(host), true) = (&self.emulated, !PACKED.contains(&stage)) {
            // Its file locks are not ours, and it would take hours.
            return Err(StoreError::InLab {
                stage: stage.to_owned(),
                host: host.to_string_lossy().into_owned(),
            }
            .into());
        }
        let name = format!("{stage}-{key}");
        let _lock = self.lock(&name, stage, progress)?;
        // Whoever held the lock may have built it.
        if matches!(self.look(stage, &key, files, true)?, SlotState::Whole) {
            return Ok(Slot {
                dir,
                key,
                fresh: false,
            });
        }
        self.sweep();
        let root = self.root.join("work").join(&name);
        self.discard(&root)?;
        let work = Work {
            scratch: root.join("scratch"),
            out: root.join("out"),
            log: self
                .root
                .join("log")
                .join(format!("{stage}-{}.log", key.short())),
        };
        // If it comes to an end in its own way it is discarded below.
        let _unfinished = Unfinished::new(&root);
        make_dir(&work.scratch)?;
        make_dir(&work.out)?;
        remove_file(&work.log)?;

        let done = build(&work).and_then(|()| {
            if let Err(missing) = has_all(&work.out, files) {
                let reason = "was not made".to_owned();
                return Err(StoreError::Product {
                    path: missing,
                    reason,
                    log: work.log.clone(),
                }
                .into());
            }
            Sums::seal(&work.out)?;
            // What is there is not whole: somebody removed parts of it.
            self.discard(&dir)?;
            make_dir(&self.root.join(stage))?;
            fs::rename(&work.out, &dir).map_err(StoreError::io("create", &dir))?;
            Ok(())
        });
        // After a failure too: a kernel tree is big. The log is elsewhere.
        let cleaned = self.discard(&root);
        done?;
        cleaned?;
        Ok(Slot {
            dir,
            key,
            fresh: true,
        })
    }

    /// The slot `stage`/`key` if it is there, with `files` as they were built. Nothing is built.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotTrusted`], [`StoreError::Io`].
    pub fn find(&self, stage: &str, key: Key, files: &[&str]) -> Result<Option<Slot>, StoreError> {
        let found = matches!(self.look(stage, &key, files, false)?, SlotState::Whole);
        Ok(found.then(|| Slot {
            dir: self.root.join(stage).join(key.to_string()),
            key,
            fresh: false,
        }))
    }

    /// Hashes each file of a finished slot, not only those that make it whole: before something is built from them.
    ///
    /// # Errors
    ///
    /// [`StoreError::Changed`], [`StoreError::NotTrusted`], [`StoreError::Io`].
    pub fn verify(&self, dir: &Path) -> Result<(), StoreError> {
        match Sums::check_all(dir, &self.trust)? {
            Found::Built => Ok(()),
            Found::Other(what) => Err(StoreError::Changed {
                path: dir.to_owned(),
                what,
            }),
        }
    }

    /// The SHA-256 of a file in the cache, as lower-case hex. `None`: it is not there.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotTrusted`], [`StoreError::Io`].
    pub fn sha256(&self, path: &Path) -> Result<Option<String>, StoreError> {
        let file = sums::open(path, &self.trust)?;
        let hash = file.map(|file| sums::hash(&file).map_err(StoreError::io("read", path)));
        hash.transpose()
    }

    fn stamp(&self, name: &str) -> Stamp {
        Stamp::new(&self.root.join("verified"), name, self.emulated.is_some())
    }

    fn believe(&self, dir: &Path) -> Result<(), StoreError> {
        trusted(dir, self.trust.directory(dir))
    }

    /// Looks whether a slot is there, and whether it is what was built. `locked`: its lock is ours.
    fn look(
        &self,
        stage: &str,
        key: &Key,
        files: &[&str],
        locked: bool,
    ) -> Result<SlotState, StoreError> {
        let stage_dir = self.root.join(stage);
        let dir = stage_dir.join(key.to_string());
        if fs::symlink_metadata(&dir).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(SlotState::Absent);
        }
        self.believe(&stage_dir)?;
        self.believe(&dir)?;
        for name in files {
            // Those above a file that lies deeper.
            let above = Path::new(name).ancestors().skip(1);
            for above in above.filter(|above| !above.as_os_str().is_empty()) {
                let above = dir.join(above);
                if above.exists() {
                    self.believe(&above)?;
                }
            }
        }
        let stamp = self.stamp(&format!("{stage}-{key}"));
        if stamp.fits(&dir, files, &self.trust) {
            return Ok(SlotState::Whole);
        }
        let unhashed = dir.join(UNHASHED);
        if unhashed.exists() {
            if let Err(missing) = has_all(&dir, files) {
                let what = format!("{} is missing", missing.display());
                return Ok(SlotState::Damaged(what));
            }
            let lock = || self.lock(&format!("{stage}-{key}"), stage, &());
            let _lock = (!locked).then(lock).transpose()?;
            // Whoever held the lock may have done it.
            if unhashed.exists() {
                Sums::seal(&dir)?;
                remove_file(&unhashed)?;
            }
        }
        // As they are before they are hashed: what is changed meanwhile does not fit.
        let state = stamp.state(&dir, files);
        match Sums::check(&dir, files, &self.trust)? {
            Found::Built => {
                if let Some(state) = state {
                    stamp.put(&state);
                }
                Ok(SlotState::Whole)
            }
            Found::Other(what) => Ok(SlotState::Damaged(what)),
        }
    }

    /// Locks the directory `stage`/`key`, and has `build` fill it if that was not done. `build`
    /// works in the place itself, for what cannot be moved; it is whole when it has the file
    /// `WHOLE`, which comes last. There is one bench a stage: others are removed when a new one is
    /// made, unless they are in use.
    ///
    /// # Errors
    ///
    /// That of `build`, and [`StoreError::Io`].
    pub fn bench<E: From<StoreError>>(
        &self,
        stage: &str,
        what: &str,
        key: &Key,
        progress: &dyn Progress,
        build: impl FnOnce(&Work) -> Result<(), E>,
    ) -> Result<Bench, E> {
        let name = format!("{stage}-{key}");
        let lock = self.lock(&name, what, progress)?;
        let dir = self.root.join(stage).join(key.to_string());
        let whole = dir.join(WHOLE);
        if dir.exists() {
            self.believe(&dir)?;
        }
        if !whole.exists() {
            self.sweep();
            self.discard_unlocked(&self.root.join(stage), &format!("{stage}-"));
            self.discard(&dir)?;
            let _unfinished = Unfinished::new(&dir);
            make_dir(&dir)?;
            let log = self.log(&format!("{stage}-{}", key.short()));
            remove_file(&log)?;
            let work = Work {
                scratch: dir.clone(),
                out: dir.clone(),
                log,
            };
            let done = build(&work).and_then(|()| {
                fs::write(&whole, "").map_err(StoreError::io("create", &whole))?;
                Ok(())
            });
            if let Err(error) = done {
                // What cannot be removed now is not whole, and removed by the next build.
                let _ = self.discard(&dir);
                return Err(error);
            }
        }
        Ok(Bench { dir, _lock: lock })
    }

    /// Waits for the lock `name`. It is free again when the file is dropped, or the process dies.
    ///
    /// # Errors
    ///
    /// [`StoreError::Interrupted`], [`StoreError::Io`].
    pub fn lock(
        &self,
        name: &str,
        what: &str,
        progress: &dyn Progress,
    ) -> Result<File, StoreError> {
        let (file, path) = self.lock_file(name)?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", path)(error)),
        }
        progress.note(&format!(
            "another ipirig is at work on the {what}; waiting for it"
        ));
        // Not by waiting in the kernel: a signal is to end it.
        loop {
            if interrupt::requested() {
                let what = format!("waiting for another ipirig at work on the {what}");
                return Err(StoreError::Interrupted { what });
            }
            thread::sleep(LOCK_LOOK);
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", path)(error)),
            }
        }
    }

    fn lock_file(&self, name: &str) -> Result<(File, PathBuf), StoreError> {
        let path = self.root.join("lock").join(name);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        Ok((file.map_err(StoreError::io("open", &path))?, path))
    }
}

/// What [`Store::look`] found.
#[derive(Debug, PartialEq, Eq)]
enum SlotState {
    Whole,
    Absent,
    /// What is wrong.
    Damaged(String),
}

/// Marks the slots of a cache from before slots had hashes: they are taken as they are, once, and hashed when they
/// are first used. From then on a slot without hashes is none.
fn mark_unhashed(root: &Path) -> Result<(), StoreError> {
    let list = |dir: &Path| {
        let entries = fs::read_dir(dir).map_err(StoreError::io("list", dir))?;
        Ok::<_, StoreError>(entries.flatten().map(|entry| entry.path()))
    };
    // A slot has the whole of its key as its name; nothing else has.
    let is_key = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    for stage in list(root)?.filter(|stage| stage.is_dir()) {
        for slot in list(&stage)?.filter(is_key) {
            // A bench.
            if slot.join(WHOLE).exists() || slot.join(SUMS).exists() {
                continue;
            }
            let mark = slot.join(UNHASHED);
            fs::write(&mark, "").map_err(StoreError::io("write", mark))?;
        }
    }
    Ok(())
}

/// `Err` has the first of `files` that is missing in `dir`.
fn has_all(dir: &Path, files: &[&str]) -> Result<(), PathBuf> {
    files
        .iter()
        .map(|name| dir.join(name))
        .try_for_each(|path| if path.exists() { Ok(()) } else { Err(path) })
}

/// Makes a directory, with those above it, unless it is there.
///
/// # Errors
///
/// [`StoreError::Io`].
pub fn make_dir(path: &Path) -> Result<(), StoreError> {
    // Nobody else is to write to it, whatever the umask.
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(StoreError::io("create", path))
}

/// Removes a directory with all that is in it, if it is there.
///
/// # Errors
///
/// [`StoreError::Io`].
pub fn remove_dir(path: &Path) -> Result<(), StoreError> {
    ignore_absent(fs::remove_dir_all(path)).map_err(StoreError::io("remove", path))
}

/// Writes a JSON file that is either whole or not there.
///
/// # Errors
///
/// [`StoreError::Io`].
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    let part = path.with_extension("part");
    let json = serde_json::to_vec_pretty(value).map_err(io::Error::from);
    json.and_then(|json| fs::write(&part, json))
        .map_err(StoreError::io("write", &part))?;
    fs::rename(&part, path).map_err(StoreError::io("create", path))
}

/// Removes a file, if it is there.
///
/// # Errors
///
/// [`StoreError::Io`].
pub fn remove_file(path: &Path) -> Result<(), StoreError> {
    ignore_absent(fs::remove_file(path)).map_err(StoreError::io("remove", path))
}

fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
