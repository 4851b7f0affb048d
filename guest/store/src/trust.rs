//! Files that are believed only if nobody else can have written them: whoever can write a kernel or a snapshot of
//! the cache can be the guest, and the hashes beside it are of what the writer liked.
//!
//! Believed are files and directories of the user who runs this, of root, and of whoever
//! [`CACHE_OWNER`] names, as long as neither group nor others may write to them.

use std::env;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::process::geteuid;

/// The variable with the numbers of other users whose files in the cache are believed, with commas between them:
/// who fills a cache that several users share, or that comes from another machine.
pub const CACHE_OWNER: &str = "IPIRIG_CACHE_OWNER";

/// Why a file or directory is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Distrust {
    /// A symbolic link, a directory, a pipe, a device.
    #[error("it is no regular file")]
    NotAFile,
    /// A symbolic link, or something else.
    #[error("it is no directory")]
    NotADirectory,
    /// Somebody else's.
    #[error("it belongs to user {0} (if that is meant: {CACHE_OWNER}={0})")]
    Owner(u32),
    /// Whoever may write to it can have done so.
    #[error("others may write to it (mode {0:o}; if nobody did: chmod go-w)")]
    Writable(u32),
}

/// Whose files are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Root as well.
    users: Vec<u32>,
}

impl Trust {
    /// This process's user, root, and whom [`CACHE_OWNER`] names. What is no number there is nobody.
    #[must_use]
    pub fn here() -> Self {
        Self::new(
            geteuid().as_raw(),
            &env::var(CACHE_OWNER).unwrap_or_default(),
        )
    }

    fn new(user: u32, owners: &str) -> Self {
        let owners = owners
            .split(',')
            .filter_map(|owner| owner.trim().parse().ok());
        Self {
            users: [user, 0].into_iter().chain(owners).collect(),
        }
    }

    /// What [`CACHE_OWNER`] must be for another user, on this machine's files, to believe what this process does.
    #[must_use]
    pub fn owners(&self) -> String {
        let users: Vec<_> = self.users.iter().map(u32::to_string).collect();
        users.join(",")
    }

    /// Opens a file for reading that is to be trusted. Nothing is waited for, such as the other end of a pipe, and a
    /// symbolic link is not followed.
    ///
    /// # Errors
    /// It cannot be opened ([`io::Error`]); the inner error says why it is not believed.
    pub fn open(&self, path: &Path) -> io::Result<Result<File, Distrust>> {
        let Some(file) = open(path, OFlags::empty())? else {
            return Ok(Err(Distrust::NotAFile));
        };
        let about = file.metadata()?;
        if !about.is_file() {
            return Ok(Err(Distrust::NotAFile));
        }
        Ok(self.judge(&about).map(|()| file))
    }

    /// Looks at a directory from which nobody else may take files, nor put any there.
    ///
    /// # Errors
    /// It cannot be opened ([`io::Error`]); the inner error says why it is not believed.
    pub fn directory(&self, path: &Path) -> io::Result<Result<(), Distrust>> {
        // O_PATH: whether it may be listed is not asked.
        let Some(dir) = open(path, OFlags::PATH)? else {
            return Ok(Err(Distrust::NotADirectory));
        };
        let about = dir.metadata()?;
        if !about.is_dir() {
            return Ok(Err(Distrust::NotADirectory));
        }
        Ok(self.judge(&about))
    }

    fn judge(&self, about: &Metadata) -> Result<(), Distrust> {
        let owner = about.uid();
        if !self.users.contains(&owner) {
            return Err(Distrust::Owner(owner));
        }
        let mode = about.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(Distrust::Writable(mode));
        }
        Ok(())
    }
}

/// `None`: a symbolic link.
fn open(path: &Path, also: OFlags) -> io::Result<Option<File>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | also;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    match opened {
        Ok(file) => Ok(Some(file)),
        // O_NOFOLLOW on a symbolic link: open(2).
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn refused(path: &Path) -> Option<Distrust> {
        Trust::here().open(path).expect("opened").err()
    }

    #[test]
    fn a_file_that_others_may_write_to_is_not_believed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a");
        fs::write(&path, "x").expect("written");
        for (mode, expected) in [
            (0o600, None),
            (0o444, None),
            (0o660, Some(Distrust::Writable(0o660))),
            (0o606, Some(Distrust::Writable(0o606))),
        ] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set");
            assert_eq!(refused(&path), expected, "{mode:o}");
        }
    }

    #[test]
    fn a_link_a_directory_and_a_pipe_are_no_files_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let [file, link, pipe] = ["file", "link", "pipe"].map(|name| dir.path().join(name));
        fs::write(&file, "x").expect("written");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).expect("made");
        for path in [&link, &pipe, &dir.path().to_owned()] {
            let shown = path.display();
            assert_eq!(refused(path), Some(Distrust::NotAFile), "{shown}");
        }
    }

    #[test]
    fn a_directory_that_others_may_write_to_or_a_link_to_one_is_not_believed() {
        let dir = tempfile::tempdir().expect("a directory");
        let [below, link] = ["below", "link"].map(|name| dir.path().join(name));
        fs::create_dir(&below).expect("made");
        std::os::unix::fs::symlink(&below, &link).expect("linked");
        let refused = |path| Trust::here().directory(path).expect("opened").err();
        for (mode, expected) in [
            (0o755, None),
            (0o311, None),
            (0o775, Some(Distrust::Writable(0o775))),
            (0o1777, Some(Distrust::Writable(0o1777))),
        ] {
            fs::set_permissions(&below, Permissions::from_mode(mode)).expect("set");
            assert_eq!(refused(&below), expected, "{mode:o}");
        }
        assert_eq!(refused(&link), Some(Distrust::NotADirectory));
    }

    #[test]
    fn a_file_of_another_user_is_believed_if_that_is_root_or_was_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a");
        fs::write(&path, "x").expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("set");
        let about = fs::metadata(&path).expect("there");
        let judged = |user, owners: &str| Trust::new(user, owners).judge(&about);
        let owner = about.uid();
        let other = owner.wrapping_add(1);
        let stranger = if owner == 0 {
            Ok(())
        } else {
            Err(Distrust::Owner(owner))
        };
        assert_eq!(judged(other, ""), stranger);
        assert_eq!(judged(other, &format!("{other},x")), stranger);
        assert_eq!(judged(other, &format!("{other}, {owner}")), Ok(()));
        assert_eq!(judged(owner, ""), Ok(()));
        assert_eq!(Trust::new(7, "8,9").owners(), "7,0,8,9");
        let words = Distrust::Owner(65534).to_string();
        assert_eq!(
            words,
            "it belongs to user 65534 (if that is meant: IPIRIG_CACHE_OWNER=65534)"
        );
    }
}
