//! Where snapshots of booted guests are kept, one for each kernel, configuration and host, so that a
//! later run of the same need not boot.
//!
//! What a snapshot is and whether it is whole is `ipirig-machine`'s business; here are the directory,
//! the names, and how much is kept. When to save and when to restore is `ipirig-rig`'s.

#![forbid(unsafe_code)]

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ipirig_machine::{Config, Host, MachineError, Snapshot, snapshot_key};
use ipirig_store::{Distrust, Trust};
use ipirig_terminal::tidy::Unfinished;
use tempfile::NamedTempFile;

/// At most so many bytes are kept, of those that were used last: some fifty of the reference kernels.
const BYTES_KEPT: u64 = 1 << 30;
/// Names end in this.
const SUFFIX: &str = ".snapshot";
/// What is being written begins with this, until it is whole.
const UNFINISHED: &str = ".unfinished-";
/// What is unfinished for so long is left over from a process that was killed, where locks do not tell.
const ABANDONED: Duration = Duration::from_secs(3600);
/// Longer than it takes to lock a file that was just made.
const BEGINNING: Duration = Duration::from_secs(1);

/// A snapshot that is being written. It vanishes when this is dropped, and when the process is made to end.
#[derive(Debug)]
pub struct BegunSnapshot {
    file: NamedTempFile,
    unfinished: Unfinished,
}

impl BegunSnapshot {
    /// The file.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }
}

/// The directory of snapshots.
#[derive(Clone, Debug)]
pub struct Snapshots {
    directory: PathBuf,
}

/// Why there is no snapshot to restore although there might be one, or why none was kept. A run
/// boots then, and says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotsError {
    /// The directory or a file in it is at fault.
    #[error("{what} {}", path.display())]
    File {
        /// What could not be done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Somebody else can have written it. It is left alone.
    #[error("not restoring {}", path.display())]
    NotTrusted {
        /// The file.
        path: PathBuf,
        /// Why it is not believed.
        #[source]
        source: Distrust,
    },
    /// A snapshot was thrown away.
    #[error("threw away {}", path.display())]
    Useless {
        /// The file that was.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: MachineError,
    },
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotsError {
    let path = path.to_owned();
    move |source| SnapshotsError::File { what, path, source }
}

impl Snapshots {
    /// Those in `directory`, which is made when one is kept.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Where the snapshot of a machine is to be.
    ///
    /// # Errors
    /// There can be no such machine, or its files cannot be read.
    pub fn place(&self, host: &Host, config: &Config) -> Result<SnapshotPath, MachineError> {
        Ok(SnapshotPath {
            directory: self.directory.clone(),
            key: snapshot_key(host, config)?,
        })
    }
}

/// The place of one snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotPath {
    directory: PathBuf,
    /// Another one for another kernel, configuration or host.
    pub key: String,
}

impl SnapshotPath {
    fn path(&self) -> PathBuf {
        self.directory.join(format!("{}{SUFFIX}", self.key))
    }

    /// The snapshot that is there. One that is damaged or that of something else is thrown away.
    pub fn find(&self) -> Result<Option<Snapshot>, SnapshotsError> {
        let path = self.path();
        let trust = Trust::here();
        // Whoever may put a file there may take one that is believed from elsewhere.
        match trust.directory(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file("cannot open", &self.directory)(error)),
            Ok(Err(source)) => {
                return Err(SnapshotsError::NotTrusted {
                    path: self.directory.clone(),
                    source,
                });
            }
            Ok(Ok(())) => {}
        }
        let snapshot = match trust.open(&path) {
            Ok(Ok(snapshot)) => snapshot,
            Ok(Err(source)) => {
                return Err(SnapshotsError::NotTrusted { path, source });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file("cannot open", &path)(error)),
        };
        // So that those that are used are kept. A directory that cannot be written to will do.
        let _ = snapshot.set_modified(SystemTime::now());
        match Snapshot::open(&snapshot, &self.key) {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(source) => Err(self.throw_away(source.into())),
        }
    }

    /// Removes a snapshot that is of no use, because of `source`.
    pub fn throw_away(&self, source: MachineError) -> SnapshotsError {
        let path = self.path();
        if let Err(error) = fs::remove_file(&path) {
            return file("cannot remove", &path)(error);
        }
        SnapshotsError::Useless { path, source }
    }

    /// A file to write the snapshot to. Until [`SnapshotPath::keep`] it is nobody's, and vanishes.
    pub fn begin(&self) -> Result<BegunSnapshot, SnapshotsError> {
        let directory = &self.directory;
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(file("cannot make", directory))?;
        let begun = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(directory)
            .map_err(file("cannot write in", directory))?;
        // Others know by the lock that somebody is at it. Where there are no locks, they know by the time.
        let _ = begun.as_file().try_lock();
        Ok(BegunSnapshot {
            unfinished: Unfinished::new(begun.path()),
            file: begun,
        })
    }

    /// Makes what was written the snapshot, and makes room.
    pub fn keep(&self, written: BegunSnapshot) -> Result<(), SnapshotsError> {
        let path = self.path();
        written
            .file
            .persist(&path)
            .map_err(|error| file("cannot write", &path)(error.error))?;
        drop(written.unfinished);
        make_room(&self.directory, SystemTime::now(), BYTES_KEPT)
            .map_err(file("cannot tidy up", &self.directory))
    }
}

/// Removes the snapshots that were not used for longest, and what was never finished.
fn make_room(directory: &Path, now: SystemTime, bytes_kept: u64) -> io::Result<()> {
    let mut whole = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let about = match entry.metadata() {
            Ok(about) => about,
            // Somebody else tidies up.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let used = about.modified()?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(SUFFIX) {
            whole.push((used, about.len(), entry.path()));
        } else if name.starts_with(UNFINISHED)
            && is_abandoned(&entry.path(), now.duration_since(used).unwrap_or_default())
        {
            remove(&entry.path())?;
        }
    }
    whole.sort_by_key(|(used, ..)| std::cmp::Reverse(*used));
    let mut bytes = 0_u64;
    for (nth, (_, size, path)) in whole.into_iter().enumerate() {
        bytes = bytes.saturating_add(size);
        if nth > 0 && bytes > bytes_kept {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Whether nobody writes to an unfinished file any more, which was written to last so long ago.
fn is_abandoned(path: &Path, age: Duration) -> bool {
    match Trust::here().open(path) {
        Ok(Ok(file)) => match file.try_lock() {
            Ok(()) => age > BEGINNING,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(_)) => age > ABANDONED,
        },
        // No file that is ours, such as a pipe.
        Ok(Err(_)) | Err(_) => age > ABANDONED,
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use ipirig_evidence::chain;

    use super::*;

    fn place(directory: &Path) -> SnapshotPath {
        SnapshotPath {
            directory: directory.to_owned(),
            key: "k".into(),
        }
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn put(directory: &Path, name: &str, bytes: usize, age_s: u64) {
        let path = directory.join(name);
        fs::write(&path, vec![0; bytes]).unwrap();
        // Whatever the umask.
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let when = SystemTime::now() - Duration::from_secs(age_s);
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(when)
            .unwrap();
    }

    #[test]
    fn where_there_is_none_none_is_found() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            place(&dir.path().join("not there"))
                .find()
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn what_is_no_snapshot_is_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "k.snapshot", 5000, 0);
        let error = place(dir.path()).find().unwrap_err();
        let path = dir.path().join("k.snapshot");
        assert_eq!(
            chain(&error),
            format!(
                "threw away {}: the snapshot is damaged: its header is none",
                path.display()
            )
        );
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn what_others_can_have_written_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "k.snapshot", 5000, 0);
        let path = dir.path().join("k.snapshot");
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        let error = place(dir.path()).find().unwrap_err();
        assert_eq!(
            chain(&error),
            format!(
                "not restoring {}: others may write to it (mode 666; if nobody did: chmod go-w)",
                path.display()
            )
        );
        assert_eq!(names(dir.path()), ["k.snapshot"]);
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("snapshot");
        fs::create_dir(&below).unwrap();
        put(&below, "k.snapshot", 5000, 0);
        fs::set_permissions(&below, Permissions::from_mode(0o777)).unwrap();
        let error = place(&below).find().unwrap_err();
        assert_eq!(
            chain(&error),
            format!(
                "not restoring {}: others may write to it (mode 777; if nobody did: chmod go-w)",
                below.display()
            )
        );
        assert_eq!(names(&below), ["k.snapshot"]);
    }

    #[test]
    fn what_is_not_kept_vanishes_and_what_is_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("new");
        drop(place(&below).begin().unwrap());
        assert!(names(&below).is_empty());
        let begun = place(&below).begin().unwrap();
        assert!(names(&below)[0].starts_with(UNFINISHED));
        place(&below).keep(begun).unwrap();
        assert_eq!(names(&below), ["k.snapshot"]);
    }

    #[test]
    fn those_used_last_are_kept_and_nobody_elses_file_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes, age) in [
            ("a.snapshot", 10, 40),
            ("b.snapshot", 10, 10),
            ("c.snapshot", 10, 30),
            ("d.snapshot", 10, 20),
            ("notes", 10, 9999),
            (".unfinished-1", 10, 5),
            (".unfinished-2", 10, 5),
            (".unfinished-3", 10, 0),
        ] {
            put(dir.path(), name, bytes, age);
        }
        // Somebody writes the first, and has just begun with the third.
        let writer = File::open(dir.path().join(".unfinished-1")).unwrap();
        writer.try_lock().unwrap();
        // No file, at whose other end nobody is.
        let pipe = dir.path().join(".unfinished-4");
        let made = Command::new("mkfifo").arg(pipe).status().unwrap();
        assert!(made.success());
        make_room(dir.path(), SystemTime::now(), 30).unwrap();
        let left = [
            ".unfinished-1",
            ".unfinished-3",
            ".unfinished-4",
            "b.snapshot",
            "c.snapshot",
            "d.snapshot",
            "notes",
        ];
        assert_eq!(names(dir.path()), left);
        make_room(dir.path(), SystemTime::now(), 20).unwrap();
        assert_eq!(
            names(dir.path()),
            [
                ".unfinished-1",
                ".unfinished-3",
                ".unfinished-4",
                "b.snapshot",
                "d.snapshot",
                "notes"
            ]
        );
        // One that is larger than all is of use all the same.
        make_room(dir.path(), SystemTime::now(), 5).unwrap();
        let left = [
            ".unfinished-1",
            ".unfinished-3",
            ".unfinished-4",
            "b.snapshot",
            "notes",
        ];
        assert_eq!(names(dir.path()), left);
    }
}
