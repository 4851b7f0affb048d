//! A directory of the user's in front of an initramfs: what a command needs that is more than a file. The kernel unpacks
//! archives one after the other (Documentation/driver-api/early-userspace/buffer-format.rst), so what the initramfs has
//! of the same name, the agent as `init` above all, comes last and stays.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::{GuestError, Initramfs, Places};
use ipirig_archive::Archive;
use ipirig_store::{Ingredients, Store};

/// Goes up whenever the archive would look different for the same inputs.
const RECIPE: u32 = 1;
const NAME: &str = "initramfs.cpio";
/// Directories that the agent mounts something over: what is in them is of the machine that they come from.
const MOUNTED: [&str; 3] = ["dev", "proc", "sys"];

/// One thing below the directory.
struct Entry {
    /// From the directory on.
    name: String,
    permissions: u32,
    kind: Kind,
}

enum Kind {
    Directory,
    File(PathBuf),
    Link(Vec<u8>),
}

/// Writes, into the cache, an initramfs that has all files, directories and symbolic links below `dir`, and then what
/// `initramfs` has, which must not be compressed. Devices, sockets and pipes are left out. Everything belongs to root.
///
/// # Errors
///
/// [`GuestError`]: something cannot be read, or has a name that is not UTF-8.
pub fn with_root(initramfs: &Path, dir: &Path) -> Result<Initramfs, GuestError> {
    with_root_at(&Places::find()?, initramfs, dir)
}

pub(crate) fn with_root_at(
    places: &Places,
    initramfs: &Path,
    dir: &Path,
) -> Result<Initramfs, GuestError> {
    let mut entries = Vec::new();
    below(dir, "", &mut entries)?;
    let last = fs::read(initramfs).map_err(GuestError::io("read", initramfs))?;
    let mut ingredients = Ingredients::of("root", RECIPE);
    ingredients.bytes("initramfs", &last);
    for Entry {
        name,
        permissions,
        kind,
    } in &entries
    {
        ingredients.add("mode", &format!("{permissions:o}"));
        match kind {
            Kind::Directory => ingredients.add("directory", name),
            Kind::File(path) => ingredients.file(name, path)?,
            Kind::Link(target) => ingredients.bytes(name, target),
        }
    }
    let store = Store::open(&places.cache)?;
    let slot = store.slot("initramfs", ingredients.key(), &[NAME], &(), |work| {
        let path = work.out.join(NAME);
        let mut archive = pack(&entries, &path)?;
        archive.extend(&last);
        fs::write(&path, archive).map_err(GuestError::io("create", path))
    })?;
    Ok(Initramfs {
        path: slot.dir.join(NAME),
        key: slot.key.to_string(),
        fresh: slot.fresh,
    })
}

/// Adds what is below `dir`, which is `name` in the archive: each directory before what is in it, by name.
fn below(dir: &Path, name: &str, entries: &mut Vec<Entry>) -> Result<(), GuestError> {
    let failed = || GuestError::io("list", dir);
    let listed = fs::read_dir(dir).map_err(failed())?;
    let mut paths: Vec<PathBuf> = listed
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()
        .map_err(failed())?;
    paths.sort();
    for path in paths {
        let own = path.file_name().and_then(|name| name.to_str());
        let own = own.ok_or_else(|| {
            GuestError::io("take", &path)(io::Error::other("its name is not UTF-8"))
        })?;
        let name = if name.is_empty() {
            own.to_owned()
        } else {
            format!("{name}/{own}")
        };
        let metadata = path
            .symlink_metadata()
            .map_err(GuestError::io("read", &path))?;
        let kind = if metadata.is_dir() {
            Kind::Directory
        } else if metadata.is_file() {
            Kind::File(path.clone())
        } else if metadata.is_symlink() {
            let target = fs::read_link(&path).map_err(GuestError::io("read", &path))?;
            Kind::Link(target.as_os_str().as_bytes().to_owned())
        } else {
            continue;
        };
        let is_directory = matches!(kind, Kind::Directory);
        let mounted = MOUNTED.contains(&name.as_str());
        entries.push(Entry {
            name: name.clone(),
            permissions: metadata.permissions().mode() & 0o7777,
            kind,
        });
        if is_directory && !mounted {
            below(&path, &name, entries)?;
        }
    }
    Ok(())
}

fn pack(entries: &[Entry], path: &Path) -> Result<Vec<u8>, GuestError> {
    let failed = || GuestError::io("pack", path);
    let mut archive = Archive::default();
    for Entry {
        name,
        permissions,
        kind,
    } in entries
    {
        match kind {
            Kind::Directory => archive.directory(name, *permissions),
            Kind::File(path) => {
                let content = fs::read(path).map_err(GuestError::io("read", path))?;
                archive.file(name, *permissions, &content)
            }
            Kind::Link(target) => archive.symlink(name, target),
        }
        .map_err(failed())?;
    }
    archive.finish().map_err(failed())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use ipirig_archive::entries;

    use super::*;
    use crate::fake::Fake;

    /// A directory as somebody may have it, and an initramfs.
    fn some() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("root");
        for name in ["usr/bin", "proc", "empty"] {
            fs::create_dir_all(root.join(name)).expect("created");
        }
        let write = |name: &str, text: &str, mode| {
            fs::write(root.join(name), text).expect("written");
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(root.join(name), permissions).expect("set");
        };
        write("usr/bin/busybox", "program", 0o755);
        write("proc/cpuinfo", "of another machine", 0o644);
        symlink("usr/bin", root.join("bin")).expect("linked");
        symlink("/nonexistent", root.join("usr/dangling")).expect("linked");
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).expect("bound");
        let initramfs = dir.path().join("initramfs");
        fs::write(&initramfs, "the agent's").expect("written");
        (dir, root, initramfs)
    }

    #[test]
    fn all_that_is_below_comes_before_the_initramfs_but_what_belongs_to_another_machine() {
        let fake = Fake::new();
        let (_dir, root, initramfs) = some();
        let made = with_root_at(&fake.places, &initramfs, &root).expect("packed");
        let bytes = fs::read(made.path).expect("there");
        let (archive, last) = bytes.split_at(bytes.len() - "the agent's".len());
        assert_eq!(last, b"the agent's");
        // The kernel skips zeroes between archives, and begins one at a multiple of four.
        assert_eq!(archive.len() % 4, 0);
        let entry =
            |name: &str, mode, content: &'static str| (name.to_owned(), mode, content.as_bytes());
        let entries = entries(archive).expect("an archive").into_iter();
        let entries: Vec<_> = entries.map(|it| (it.name, it.mode, it.content)).collect();
        assert_eq!(
            entries,
            [
                entry("bin", 0o120_777, "usr/bin"),
                entry("empty", 0o040_755, ""),
                entry("proc", 0o040_755, ""),
                entry("usr", 0o040_755, ""),
                entry("usr/bin", 0o040_755, ""),
                entry("usr/bin/busybox", 0o100_755, "program"),
                entry("usr/dangling", 0o120_777, "/nonexistent"),
            ]
        );
    }

    #[test]
    fn the_same_directory_is_packed_once_and_any_change_packs_it_again() {
        let fake = Fake::new();
        let (_dir, root, initramfs) = some();
        let pack = || with_root_at(&fake.places, &initramfs, &root).expect("packed");
        let first = pack();
        assert!(first.fresh);
        assert_eq!((pack().path, pack().fresh), (first.path.clone(), false));
        let mut keys = vec![first.key];
        fs::write(root.join("usr/bin/busybox"), "another").expect("written");
        keys.push(pack().key);
        let read_only = fs::Permissions::from_mode(0o555);
        fs::set_permissions(root.join("usr/bin/busybox"), read_only).expect("set");
        keys.push(pack().key);
        fs::remove_file(root.join("bin")).expect("removed");
        keys.push(pack().key);
        fs::write(&initramfs, "of another agent").expect("written");
        keys.push(pack().key);
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }

    #[test]
    fn a_directory_that_is_none_is_an_error_that_names_it() {
        let fake = Fake::new();
        let (_dir, root, initramfs) = some();
        let none = root.join("none");
        let error = with_root_at(&fake.places, &initramfs, &none).expect_err("refused");
        assert_eq!(error.to_string(), format!("cannot list {}", none.display()));
    }
}
