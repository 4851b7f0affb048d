//! newc cpio archives, as Documentation/driver-api/early-userspace/buffer-format.rst in the kernel has
//! them, for an initramfs. No hard links, no owners but root, no times: the same content gives the same
//! bytes.
//!
//! What this crate does not do: decide what is in an initramfs; that is `ipirig-guest`'s.

use std::io::{self, Write};
use std::mem;

use cpio::newc::{Builder, ModeFileType, Reader, trailer};

/// An archive in the making. Parents must be added before what is in them.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// A directory.
    ///
    /// # Errors
    /// Nothing but memory is written to: the name is too long for the format.
    pub fn directory(&mut self, name: &str, permissions: u32) -> io::Result<()> {
        let entry = Builder::new(name).mode(permissions).nlink(2);
        self.add(entry.set_mode_file_type(ModeFileType::Directory), &[])
    }

    /// A character device, by its major and minor number.
    ///
    /// # Errors
    /// As [`Archive::directory`].
    pub fn character_device(
        &mut self,
        name: &str,
        permissions: u32,
        (major, minor): (u32, u32),
    ) -> io::Result<()> {
        let entry = Builder::new(name).mode(permissions);
        let entry = entry.rdev_major(major).rdev_minor(minor);
        self.add(entry.set_mode_file_type(ModeFileType::Char), &[])
    }

    /// A regular file.
    ///
    /// # Errors
    /// `content` is 4 GiB or more, for which the format has no digits.
    pub fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        let entry = Builder::new(name).mode(permissions);
        self.add(entry.set_mode_file_type(ModeFileType::Regular), content)
    }

    /// A symbolic link. `target` as it is: the kernel looks for it when the link is followed.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn symlink(&mut self, name: &str, target: &[u8]) -> io::Result<()> {
        let entry = Builder::new(name).mode(0o777);
        self.add(entry.set_mode_file_type(ModeFileType::Symlink), target)
    }

    /// The archive's bytes, with its trailer.
    ///
    /// # Errors
    /// As [`Archive::directory`].
    pub fn finish(self) -> io::Result<Vec<u8>> {
        trailer(self.bytes)
    }

    fn add(&mut self, entry: Builder, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        // Each its own: equal numbers would make hard links.
        self.inode += 1;
        let mut writer = entry
            .ino(self.inode)
            .write(mem::take(&mut self.bytes), size);
        writer.write_all(content)?;
        self.bytes = writer.finish()?;
        Ok(())
    }
}

/// An entry of an archive, whose bytes stay where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its name.
    pub name: String,
    /// What it is, and its permissions: `st_mode` of stat(2).
    pub mode: u32,
    /// Its inode number, and how many links that has.
    pub inode: (u32, u32),
    /// Major and minor number, if it is a device.
    pub device: (u32, u32),
    /// A file's bytes, or a symbolic link's target.
    pub content: &'a [u8],
}

/// The entries of the archive that `bytes` begins with, in order, without its trailer.
///
/// # Errors
/// It is no archive, or damaged, or has no trailer.
pub fn entries(bytes: &[u8]) -> io::Result<Vec<Entry<'_>>> {
    let mut entries = Vec::new();
    let mut rest = bytes;
    loop {
        // It has read the header, and no further.
        let entry = Reader::new(&mut rest)?.entry().clone();
        if entry.is_trailer() {
            return Ok(entries);
        }
        let size = entry.file_size() as usize;
        let content = rest.split_at_checked(size);
        let (content, after) = content.ok_or(io::ErrorKind::UnexpectedEof)?;
        let padding = size.next_multiple_of(4) - size;
        rest = after.get(padding..).ok_or(io::ErrorKind::UnexpectedEof)?;
        entries.push(Entry {
            name: entry.name().to_owned(),
            mode: entry.mode(),
            inode: (entry.ino(), entry.nlink()),
            device: (entry.rdev_major(), entry.rdev_minor()),
            content,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn archive() -> Vec<u8> {
        let mut archive = Archive::default();
        let add = |archive: &mut Archive| {
            archive.directory("dev", 0o755)?;
            archive.character_device("dev/console", 0o600, (5, 1))?;
            archive.file("init", 0o755, b"hello")
        };
        add(&mut archive).expect("added");
        archive.finish().expect("finished")
    }

    #[test]
    fn each_kind_of_entry_is_read_back() {
        let entry = |name: &str, mode, inode, device, content: &'static [u8]| Entry {
            name: name.to_owned(),
            mode,
            inode,
            device,
            content,
        };
        let expected = [
            entry("dev", 0o040_755, (1, 2), (0, 0), b""),
            entry("dev/console", 0o020_600, (2, 1), (5, 1), b""),
            entry("init", 0o100_755, (3, 1), (0, 0), b"hello"),
        ];
        let bytes = archive();
        let found = entries(&bytes).expect("an archive");
        assert_eq!(found, expected);
        // Nothing is copied.
        let inside = found.iter().map(|entry| entry.content.as_ptr_range());
        assert!(
            inside
                .into_iter()
                .all(|place| { bytes.as_ptr_range().contains(&place.start) })
        );
    }

    #[test]
    fn what_is_no_whole_archive_is_an_error() {
        let whole = archive();
        for length in [0, 50, 112, 130, whole.len() / 2] {
            assert!(entries(&whole[..length]).is_err(), "{length} bytes");
        }
        assert!(entries(b"no archive").is_err());
    }

    #[test]
    fn cpio_itself_lists_the_archive() {
        let child = Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"])
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        // `.ci/run` installs it.
        let mut child = child.expect("cpio(1), which this test needs, is installed");
        let mut input = child.stdin.take().expect("piped");
        input.write_all(&archive()).expect("written");
        drop(input);
        let output = child.wait_with_output().expect("ended");
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).expect("text");
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let shown: Vec<_> = lines
            .iter()
            .filter_map(|words| Some((*words.first()?, *words.get(2)?, *words.last()?)))
            .collect();
        assert_eq!(
            shown,
            [
                ("drwxr-xr-x", "0", "dev"),
                ("crw-------", "0", "dev/console"),
                ("-rwxr-xr-x", "0", "init"),
            ]
        );
    }
}
