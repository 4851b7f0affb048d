//! newc cpio archives, as Documentation/driver-api/early-userspace/buffer-format.rst in the kernel has
//! them, for an initramfs. No hard links, no owners but root, no times: the same content gives the same
//! bytes.
//!
//! What this crate does not do: decide what is in an initramfs; that is `ipirig-guest`'s.

use std::io::{self, Write};
use std::mem;

use cpio::newc::{Builder, ModeFileType, trailer};

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

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use cpio::newc::Reader;

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
        let bytes = archive();
        let mut rest = &bytes[..];
        let mut entries = Vec::new();
        loop {
            let mut reader = Reader::new(rest).expect("a header");
            let mut content = String::new();
            reader.read_to_string(&mut content).expect("content");
            let entry = reader.entry();
            if entry.is_trailer() {
                break;
            }
            entries.push((
                entry.name().to_owned(),
                entry.mode(),
                (entry.ino(), entry.nlink()),
                (entry.rdev_major(), entry.rdev_minor()),
                content,
            ));
            rest = reader.finish().expect("read to its end");
        }
        let entry = |name: &str, mode, numbers, device, content: &str| {
            (name.to_owned(), mode, numbers, device, content.to_owned())
        };
        assert_eq!(
            entries,
            [
                entry("dev", 0o040_755, (1, 2), (0, 0), ""),
                entry("dev/console", 0o020_600, (2, 1), (5, 1), ""),
                entry("init", 0o100_755, (3, 1), (0, 0), "hello"),
            ]
        );
    }

    #[test]
    fn cpio_itself_lists_the_archive() {
        let child = Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"])
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("cpio is not installed: not compared");
            return;
        };
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
