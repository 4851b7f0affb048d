//! What a program that is away from its checkout has inside: the sources that a guest is built from, and the
//! agent, which it is not asked to compile.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use ipirig_archive::Entry;

use crate::{Ingredients, Store, StoreError, make_dir};

/// The agent in an archive.
pub(crate) const AGENT: &str = "agent/ipirig-agent";
/// The directory in an archive that is laid out as `guest` of a checkout is.
pub(crate) const GUEST: &str = "guest";

/// Goes up whenever the steps below would unpack something else from the same archive.
const RECIPE: u32 = 1;
/// The bits of a mode that say what a file is, and those of a regular file.
const FILE_TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;

static PROVIDED: OnceLock<Embedded> = OnceLock::new();

/// An archive (newc cpio) that was compiled into a program.
#[derive(Debug, Clone, Copy)]
pub struct Embedded(&'static [u8]);

impl Embedded {
    /// Has [`Places::find`](crate::Places::find) use `archive` in this process, unless that runs from its checkout.
    /// The archive has the sources that a guest is built from below `guest`, and `agent/ipirig-agent`. The first
    /// one stays.
    pub fn provide(archive: &'static [u8]) {
        let _ = PROVIDED.set(Self(archive));
    }

    pub(crate) fn provided() -> Option<Self> {
        PROVIDED.get().copied()
    }

    /// For tests: without a process to provide it to.
    #[cfg(test)]
    pub(crate) fn of(archive: &'static [u8]) -> Self {
        Self(archive)
    }

    /// The directory in `cache` that has all of the archive. It is named by what is in it, so another version of
    /// the program has another.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the cache; [`StoreError::Io`] also where the archive is damaged.
    pub(crate) fn unpack(self, cache: &Path) -> Result<PathBuf, StoreError> {
        let mut ingredients = Ingredients::of("sources", RECIPE);
        ingredients.bytes("archive", self.0);
        let store = Store::open(cache)?;
        let files = files(self.0).map_err(damaged(cache))?;
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        let slot = store.slot("sources", ingredients.key(), &names, &(), |work| {
            extract(&files, &work.out)
        })?;
        Ok(slot.dir)
    }
}

fn damaged(place: &Path) -> impl FnOnce(io::Error) -> StoreError {
    StoreError::io("unpack what is inside this program into", place)
}

/// The files of `archive`, which holds nothing else.
fn files(archive: &[u8]) -> io::Result<Vec<Entry<'_>>> {
    let files = ipirig_archive::entries(archive)?;
    for Entry { name, mode, .. } in &files {
        let plain = |part| matches!(part, Component::Normal(_));
        if !Path::new(name).components().all(plain) {
            return Err(io::Error::other(format!("`{name}` is not below it")));
        }
        if mode & FILE_TYPE != REGULAR {
            return Err(io::Error::other(format!("`{name}` is no file")));
        }
    }
    Ok(files)
}

/// Writes `files` into `dir`.
fn extract(files: &[Entry<'_>], dir: &Path) -> Result<(), StoreError> {
    for file in files {
        let path = dir.join(&file.name);
        if let Some(parent) = path.parent() {
            make_dir(parent)?;
        }
        fs::write(&path, file.content).map_err(StoreError::io("create", &path))?;
        let permissions = fs::Permissions::from_mode(file.mode & 0o777);
        fs::set_permissions(&path, permissions).map_err(StoreError::io("create", &path))?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::MetadataExt;

    use ipirig_archive::Archive;

    use super::*;

    /// An archive of these files, for the length of the test program.
    pub(crate) fn archive(files: &[(&str, u32, &str)]) -> &'static [u8] {
        let mut archive = Archive::default();
        for (name, mode, content) in files {
            let added = archive.file(name, *mode, content.as_bytes());
            added.expect("added");
        }
        archive.finish().expect("finished").leak()
    }

    #[test]
    fn files_are_where_the_archive_has_them_with_their_modes_and_are_found_the_next_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let embedded = Embedded::of(archive(&[
            ("guest/kernel/config/base.config", 0o644, "CONFIG_A=y\n"),
            (AGENT, 0o755, "agent"),
        ]));
        let root = embedded.unpack(dir.path()).expect("unpacked");
        assert_eq!(root.parent(), Some(&*dir.path().join("sources")));
        let found = |name: &str| {
            let path = root.join(name);
            let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
            (fs::read_to_string(path).expect("text"), mode)
        };
        let written = [
            ("guest/kernel/config/base.config", ("CONFIG_A=y\n", 0o644)),
            (AGENT, ("agent", 0o755)),
        ];
        for (name, (text, mode)) in written {
            assert_eq!(found(name), (text.to_owned(), mode), "{name}");
        }
        // A second time nothing is written: the file is the one that was there.
        let file = || fs::metadata(root.join(AGENT)).expect("there").ino();
        let first = file();
        assert_eq!(embedded.unpack(dir.path()).expect("found"), root);
        assert_eq!(file(), first);
    }

    #[test]
    fn another_archive_is_unpacked_elsewhere() {
        let dir = tempfile::tempdir().expect("a directory");
        let unpack = |text| {
            let files = [("guest/kernel/a", 0o644, text), (AGENT, 0o755, "agent")];
            let embedded = Embedded::of(archive(&files));
            embedded.unpack(dir.path()).expect("unpacked")
        };
        let (one, two) = (unpack("one"), unpack("two"));
        let read = |root: &Path| fs::read_to_string(root.join("guest/kernel/a")).expect("there");
        assert_eq!((&*read(&one), &*read(&two)), ("one", "two"));
    }

    #[test]
    fn a_name_outside_the_directory_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["../a", "/a", "guest/../../a"] {
            let files = [(name, 0o644, ""), (AGENT, 0o755, "agent")];
            let error = Embedded::of(archive(&files)).unpack(dir.path());
            let error = error.expect_err("refused");
            assert!(matches!(error, StoreError::Io { .. }), "{name}: {error}");
        }
    }

    #[test]
    fn an_archive_that_is_cut_short_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let whole = archive(&[("guest/kernel/a", 0o644, "text"), (AGENT, 0o755, "agent")]);
        for length in [0, 50, 112, 130, whole.len() / 2] {
            let error = Embedded::of(&whole[..length]).unpack(dir.path());
            assert!(error.is_err(), "{length} bytes of {}", whole.len());
        }
    }
}
