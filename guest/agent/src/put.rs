//! Writes the files that the rig hands over, part by part.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use ipirig_system::{During, Failure};

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    /// Where the file is, below the root.
    path: &'a Path,
    /// Where in it the part begins.
    from: u64,
    bytes: &'a [u8],
    /// The file's permissions.
    mode: u32,
}

impl<'a> Part<'a> {
    /// The part that [`ipirig_abi::Command::Put`] hands over with these arguments.
    pub(crate) fn of(
        handed: &'a [u8],
        path_len: u64,
        from: u64,
        mode: u64,
    ) -> Result<Self, Failure> {
        let split = usize::try_from(path_len).ok();
        let (path, bytes) = split
            .and_then(|at| handed.split_at_checked(at))
            .ok_or_else(|| {
                Failure::new(format!(
                    "a path of {path_len} bytes does not fit into the {} that were handed over",
                    handed.len()
                ))
            })?;
        Ok(Self {
            path: Path::new(OsStr::from_bytes(path)),
            from,
            bytes,
            mode: (mode & 0o7777) as u32,
        })
    }

    /// Writes it; the file's length in bytes.
    pub(crate) fn write_below(&self, root: &Path) -> Result<u64, Failure> {
        let path = root.join(self.path);
        let first = self.from == 0;
        if let Some(parent) = path.parent().filter(|_| first) {
            fs::create_dir_all(parent)
                .during(|| format!("create the directory {}", parent.display()))?;
        }
        let mut options = OpenOptions::new();
        options.write(true).create(first).truncate(first);
        options
            .open(&path)
            .and_then(|file| {
                if first {
                    file.set_permissions(Permissions::from_mode(self.mode))?;
                }
                file.write_all_at(self.bytes, self.from)?;
                Ok(file.metadata()?.len())
            })
            .during(|| format!("write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, handed: &[u8], args: [u64; 3]) -> Result<u64, String> {
        let [path_len, from, mode] = args;
        Part::of(handed, path_len, from, mode)
            .and_then(|part| part.write_below(root))
            .map_err(|failure| failure.to_string().replace(&root.display().to_string(), ""))
    }

    #[test]
    fn parts_make_a_file_with_its_directories_and_permissions() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("opt/x/prog");
        assert_eq!(put(root.path(), b"opt/x/prog#!", [10, 0, 0o750]), Ok(2));
        assert_eq!(put(root.path(), b"opt/x/prog/bin", [10, 2, 0]), Ok(6));
        assert_eq!(fs::read(&file).unwrap(), b"#!/bin");
        let mode = || fs::metadata(&file).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(), 0o750);
        // Another one of that name takes its place.
        assert_eq!(put(root.path(), b"opt/x/prog", [10, 0, 0o644]), Ok(0));
        assert_eq!((fs::read(&file).unwrap(), mode()), (vec![], 0o644));
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(
            put(root.path(), b"abc", [4, 0, 0]),
            Err("a path of 4 bytes does not fit into the 3 that were handed over".to_owned())
        );
        assert_eq!(
            put(root.path(), b"abc", [3, 7, 0]),
            Err("write /abc: ENOENT (No such file or directory)".to_owned())
        );
        fs::write(root.path().join("file"), "").unwrap();
        assert_eq!(
            put(root.path(), b"file/x", [6, 0, 0]),
            Err("create the directory /file: EEXIST (File exists)".to_owned())
        );
        assert_eq!(
            put(root.path(), b"", [0, 0, 0]),
            Err("write /: EISDIR (Is a directory)".to_owned())
        );
    }
}
