//! The files that a guest is to have for an observation: the command, and what it needs.
//!
//! They are handed over once the guest has booted (`ipirig-rig`), so that its snapshot serves
//! any of them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use ipirig_abi::observe::COMMAND_FILE;

/// Most bytes of one file. A guest has 3 GiB of memory at most.
const FILE_MAX: u64 = 1 << 30;

/// A file that the guest is to have besides those of its initramfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestFile {
    /// Where, below the root: at most [`ipirig_abi::TEXT_LEN`]`/ 2` bytes.
    pub path: String,
    /// Its permissions.
    pub mode: u32,
    /// What is in it.
    pub content: Vec<u8>,
}

/// A file of the host that the guest is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extra {
    /// Where it is.
    pub host: PathBuf,
    /// Where the guest is to have it; `None`: as `/bin/NAME`, where programs are looked for.
    pub guest: Option<PathBuf>,
}

/// From `HOST[:GUEST]`.
impl From<&str> for Extra {
    fn from(text: &str) -> Self {
        match text.rsplit_once(':') {
            Some((host, guest)) if !host.is_empty() && !guest.is_empty() => Self {
                host: host.into(),
                guest: Some(guest.into()),
            },
            _ => Self {
                host: text.into(),
                guest: None,
            },
        }
    }
}

/// Why a guest cannot have a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
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
}

/// The file with the command, as the agent looks for it.
pub fn command(words: &[String]) -> GuestFile {
    let words = words.iter().flat_map(|word| word.bytes().chain([0]));
    GuestFile {
        path: COMMAND_FILE.to_owned(),
        mode: 0o644,
        content: words.collect(),
    }
}

/// Reads what the guest is to have.
///
/// # Errors
///
/// See [`FileError`].
pub fn read(extra: &Extra) -> Result<GuestFile, FileError> {
    let path = place(extra)?;
    let (mode, content) = content(&extra.host)?;
    Ok(GuestFile {
        path,
        mode,
        content,
    })
}

/// Where the guest is to have a file, below the root.
fn place(file: &Extra) -> Result<String, FileError> {
    let wrong = |path: &Path, reason| FileError::Place {
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

fn content(path: &Path) -> Result<(u32, Vec<u8>), FileError> {
    let unreadable = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    let not_taken = |reason| FileError::NotTaken {
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
    use super::*;

    fn extra(host: &Path, guest: Option<&str>) -> Extra {
        Extra {
            host: host.to_owned(),
            guest: guest.map(PathBuf::from),
        }
    }

    #[test]
    fn a_file_is_handed_over_with_its_permissions_and_a_command_word_by_word() {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("prog");
        fs::write(&program, b"#!").expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o750)).expect("set");
        let file = |path: &str, mode, content: &[u8]| GuestFile {
            path: path.to_owned(),
            mode,
            content: content.to_owned(),
        };
        for (guest, path) in [
            (None, "bin/prog"),
            (Some("usr/share/data"), "usr/share/data"),
        ] {
            let read = read(&extra(&program, guest)).expect("read");
            assert_eq!(read, file(path, 0o750, b"#!"));
        }
        let words = ["prog", "-x"].map(str::to_owned);
        assert_eq!(
            command(&words),
            file("ipirig/observe", 0o644, b"prog\0-x\0")
        );
    }

    #[test]
    fn a_file_may_say_where_the_guest_is_to_have_it() {
        for (text, host, guest) in [
            ("a/b", "a/b", None),
            ("a/b:/x", "a/b", Some("/x")),
            ("a:b:/x", "a:b", Some("/x")),
            ("a:", "a:", None),
            (":a", ":a", None),
        ] {
            assert_eq!(Extra::from(text), extra(Path::new(host), guest), "{text}");
        }
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
        let error = read(&extra(dir.path(), None)).expect_err("a directory");
        let expected = format!("{} is not a regular file", dir.path().display());
        assert_eq!(error.to_string(), expected);
        let missing = dir.path().join("missing");
        let error = read(&extra(&missing, None)).expect_err("missing");
        assert_eq!(
            error.to_string(),
            format!("cannot read {}", missing.display())
        );
    }
}
