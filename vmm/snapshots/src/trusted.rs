//! Files that are believed only if nobody else can have written them: whoever can write a snapshot can be the
//! guest, and the hashes in it are of what the writer liked.
//!
//! A cache that several users share must belong to root, or to a user who runs ipirig for all of them.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::process::geteuid;

/// Why a file is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Distrust {
    #[error("it is no regular file")]
    NotAFile,
    #[error("it belongs to user {0}")]
    Owner(u32),
    #[error("others may write to it (mode {0:o})")]
    Writable(u32),
}

/// Opens a file for reading that is to be trusted. Nothing is waited for, such as the other end of a pipe, and a
/// symbolic link is not followed.
///
/// # Errors
/// It cannot be opened ([`io::Error`]); the inner error says why it is not believed.
pub(crate) fn open(path: &Path) -> io::Result<Result<File, Distrust>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        // O_NOFOLLOW on a symbolic link: open(2).
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Ok(Err(Distrust::NotAFile));
        }
        Err(error) => return Err(error),
    };
    let about = file.metadata()?;
    Ok(judge(&about, geteuid().as_raw()).map(|()| file))
}

fn judge(about: &Metadata, user: u32) -> Result<(), Distrust> {
    if !about.is_file() {
        return Err(Distrust::NotAFile);
    }
    if about.uid() != user && about.uid() != 0 {
        return Err(Distrust::Owner(about.uid()));
    }
    let mode = about.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(Distrust::Writable(mode));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn refused(path: &Path) -> Option<Distrust> {
        open(path).expect("opened").err()
    }

    #[test]
    fn a_file_that_others_may_write_to_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "x").unwrap();
        for (mode, expected) in [
            (0o600, None),
            (0o444, None),
            (0o660, Some(Distrust::Writable(0o660))),
            (0o606, Some(Distrust::Writable(0o606))),
        ] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(refused(&path), expected, "{mode:o}");
        }
    }

    #[test]
    fn a_link_a_directory_and_a_pipe_are_not_believed_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let [file, link, pipe] = ["file", "link", "pipe"].map(|name| dir.path().join(name));
        fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        for path in [&link, &pipe, &dir.path().to_owned()] {
            assert_eq!(
                refused(path),
                Some(Distrust::NotAFile),
                "{}",
                path.display()
            );
        }
    }

    #[test]
    fn a_file_of_another_user_is_not_believed_unless_that_is_root() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let about = fs::metadata(&path).unwrap();
        let owner = about.uid();
        let other = owner.wrapping_add(1);
        let expected = if owner == 0 {
            Ok(())
        } else {
            Err(Distrust::Owner(owner))
        };
        assert_eq!(judge(&about, other), expected);
        assert_eq!(judge(&about, owner), Ok(()));
    }
}
