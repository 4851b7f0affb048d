//! An initramfs with more in it: the command to observe, and the files that it needs.
//!
//! The kernel unpacks archives that follow one another (init/initramfs.c, `unpack_to_rootfs`), each
//! from a multiple of four bytes on, compressed or not. So nothing of the first is touched.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use ipirig_abi::observe::{COMMAND_FILE, OUTPUT_FILE};
use tempfile::NamedTempFile;

use crate::cpio::Archive;

/// Most bytes of one file. A guest has 3 GiB of memory at most, and unpacking takes some of it twice.
const FILE_MAX: u64 = 1 << 30;

/// A file of the host that the guest is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extra {
    /// Where it is.
    pub host: PathBuf,
    /// Where the guest is to have it; `None`: as `/bin/NAME`, where programs are looked for.
    pub guest: Option<PathBuf>,
}

/// Why a guest cannot have a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OverlayError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is a directory, a device or a pipe, or too big.
    #[error("{} {reason}", path.display())]
    NotTaken {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// It cannot be where it is to be.
    #[error("{} is no place for a file in the guest: {reason}", path.display())]
    Place {
        /// The place.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// The archive cannot be written.
    #[error("cannot write the initramfs")]
    Write(#[source] io::Error),
}

/// What is to be added to an initramfs.
#[derive(Debug)]
pub struct Overlay(Vec<u8>);

impl Overlay {
    /// One with `command` and `extra`.
    ///
    /// # Errors
    ///
    /// See [`OverlayError`].
    pub fn new(command: &[String], extra: &[Extra]) -> Result<Self, OverlayError> {
        overlay(command, extra).map(Self)
    }

    /// A copy of `initramfs` with this behind it. It is removed when the result is dropped.
    ///
    /// # Errors
    ///
    /// [`OverlayError::Read`] and [`OverlayError::Write`].
    pub fn on(&self, initramfs: &Path) -> Result<NamedTempFile, OverlayError> {
        let mut base = File::open(initramfs).map_err(|source| OverlayError::Read {
            path: initramfs.to_owned(),
            source,
        })?;
        let mut whole = NamedTempFile::with_prefix("ipirig-").map_err(OverlayError::Write)?;
        let size = io::copy(&mut base, &mut whole).map_err(OverlayError::Write)?;
        // Zeroes between archives are skipped.
        let padding = size.next_multiple_of(4) - size;
        io::copy(&mut io::repeat(0).take(padding), &mut whole)
            .and_then(|_| whole.write_all(&self.0))
            .and_then(|()| whole.flush())
            .map_err(OverlayError::Write)?;
        Ok(whole)
    }
}

fn overlay(command: &[String], extra: &[Extra]) -> Result<Vec<u8>, OverlayError> {
    let mut archive = Archive::default();
    let mut there = BTreeSet::new();
    let mut make_room = |archive: &mut Archive, file: &str| {
        let parents = file.match_indices('/').filter_map(|(at, _)| file.get(..at));
        for parent in parents {
            if there.insert(parent.to_owned()) {
                archive.directory(parent, 0o755);
            }
        }
    };
    // Programs expect it.
    make_room(&mut archive, "tmp/");
    make_room(&mut archive, OUTPUT_FILE);
    make_room(&mut archive, COMMAND_FILE);
    let words: Vec<u8> = command
        .iter()
        .flat_map(|word| word.bytes().chain([0]))
        .collect();
    archive.file(COMMAND_FILE, 0o644, &words);
    for file in extra {
        let place = place(file)?;
        let (mode, content) = read(&file.host)?;
        make_room(&mut archive, &place);
        archive.file(&place, mode, &content);
    }
    Ok(archive.finish())
}

/// Where the guest is to have a file, below the root.
fn place(file: &Extra) -> Result<String, OverlayError> {
    let wrong = |path: &Path, reason| OverlayError::Place {
        path: path.to_owned(),
        reason,
    };
    let path = match (&file.guest, file.host.file_name()) {
        (Some(guest), _) => guest.clone(),
        (None, Some(name)) => Path::new("/bin").join(name),
        (None, None) => return Err(wrong(&file.host, "it has no name")),
    };
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                parts.push(
                    name.to_str()
                        .ok_or_else(|| wrong(&path, "it is not UTF-8"))?,
                );
            }
            _ => return Err(wrong(&path, "it leads out of a directory")),
        }
    }
    match parts[..] {
        [] => Err(wrong(&path, "it is the root")),
        ["init"] | ["ipirig.ko"] | ["ipirig", ..] => Err(wrong(&path, "ipirig has its own there")),
        ["dev" | "proc" | "sys", ..] => Err(wrong(&path, "the kernel's file systems hide it")),
        _ => Ok(parts.join("/")),
    }
}

fn read(path: &Path) -> Result<(u32, Vec<u8>), OverlayError> {
    let unreadable = |source| OverlayError::Read {
        path: path.to_owned(),
        source,
    };
    let not_taken = |reason| OverlayError::NotTaken {
        path: path.to_owned(),
        reason,
    };
    // First: opening a pipe would wait for a writer.
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(not_taken("is not a regular file"));
    }
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut content))
        .map_err(unreadable)?;
    if content.len() as u64 > FILE_MAX {
        return Err(not_taken("is larger than 1 GiB"));
    }
    Ok((metadata.permissions().mode() & 0o777, content))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn extra(host: &Path, guest: Option<&str>) -> Extra {
        Extra {
            host: host.to_owned(),
            guest: guest.map(PathBuf::from),
        }
    }

    /// What cpio(1) finds in an archive.
    fn listed(archive: &[u8]) -> String {
        let mut cpio = Command::new("cpio")
            .args(["--list", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cpio runs");
        cpio.stdin
            .take()
            .expect("a pipe")
            .write_all(archive)
            .expect("written");
        let output = cpio.wait_with_output().expect("ended");
        String::from_utf8(output.stdout).expect("text")
    }

    #[test]
    fn what_was_there_stays_and_the_rest_follows_at_a_multiple_of_four() {
        let dir = tempfile::tempdir().expect("a directory");
        let (base, program) = (dir.path().join("base"), dir.path().join("prog"));
        fs::write(&base, b"12345").expect("written");
        fs::write(&program, b"#!").expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o750)).expect("set");
        let command = ["prog", "-x"].map(str::to_owned);
        let files = [
            extra(&program, None),
            extra(&program, Some("usr/share/data")),
        ];
        let overlay = Overlay::new(&command, &files).expect("made");
        let whole = overlay.on(&base).expect("written");
        let bytes = fs::read(whole.path()).expect("read");
        assert_eq!(&bytes[..8], b"12345\0\0\0");
        assert_eq!(
            listed(&bytes[8..]),
            "tmp\nipirig\nipirig/observe\nbin\nbin/prog\nusr\nusr/share\nusr/share/data\n"
        );
        let words = b"prog\0-x\0";
        assert!(bytes.windows(words.len()).any(|at| at == words));
        // Mode of a regular file with 0750, in hex.
        assert!(bytes.windows(8).any(|at| at == b"000081e8"));
        let path = whole.path().to_owned();
        drop(whole);
        assert!(!path.exists());
    }

    #[test]
    fn each_place_that_cannot_be_is_refused() {
        let host = Path::new("/etc/hostname");
        for (guest, reason) in [
            ("/", "it is the root"),
            ("/a/../b", "it leads out of a directory"),
            ("/init", "ipirig has its own there"),
            ("ipirig/observe", "ipirig has its own there"),
            ("/proc/x", "the kernel's file systems hide it"),
        ] {
            let error = place(&extra(host, Some(guest))).expect_err(guest);
            let expected = format!("{guest} is no place for a file in the guest: {reason}");
            assert_eq!(error.to_string(), expected);
        }
        assert_eq!(place(&extra(host, None)).expect("fine"), "bin/hostname");
    }

    #[test]
    fn what_is_no_file_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = overlay(&[], &[extra(dir.path(), None)]).expect_err("a directory");
        let expected = format!("{} is not a regular file", dir.path().display());
        assert_eq!(error.to_string(), expected);
        let missing = dir.path().join("missing");
        let error = overlay(&[], &[extra(&missing, None)]).expect_err("missing");
        assert_eq!(
            error.to_string(),
            format!("cannot read {}", missing.display())
        );
    }
}
