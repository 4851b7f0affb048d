//! Writes newc cpio archives, as Documentation/driver-api/early-userspace/buffer-format.rst in the
//! kernel describes them. No links, no owners but root, no times: the same content gives the same
//! bytes.

use std::fmt::Write as _;

/// The file types of `st_mode`: inode(7).
const S_IFCHR: u32 = 0o020_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;

/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive in the making. Parents must be added before what is in them.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    pub(crate) fn directory(&mut self, name: &str, permissions: u32) {
        self.entry(name, S_IFDIR | permissions, (0, 0), &[]);
    }

    pub(crate) fn character_device(
        &mut self,
        name: &str,
        permissions: u32,
        major: u32,
        minor: u32,
    ) {
        self.entry(name, S_IFCHR | permissions, (major, minor), &[]);
    }

    /// `content` must be below 4 GiB, which is all that the format has digits for.
    pub(crate) fn file(&mut self, name: &str, permissions: u32, content: &[u8]) {
        self.entry(name, S_IFREG | permissions, (0, 0), content);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.header(TRAILER, 0, (0, 0), 0);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        // Each its own: equal numbers would make hard links.
        self.inode += 1;
        self.header(name, mode, device, content.len());
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Header and name, padded.
    fn header(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), size: usize) {
        let links: u32 = if mode & S_IFDIR == S_IFDIR { 2 } else { 1 };
        let mut text = String::from("070701");
        for field in [self.inode, mode, 0, 0, links, 0] {
            push_hex(&mut text, field as usize);
        }
        push_hex(&mut text, size);
        for field in [0, 0, major, minor] {
            push_hex(&mut text, field as usize);
        }
        push_hex(&mut text, name.len() + 1);
        push_hex(&mut text, 0);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    /// Headers and contents start at multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

fn push_hex(text: &mut String, value: usize) {
    // Writing to a String does not fail.
    let _ = write!(text, "{value:08x}");
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct ArchiveEntry {
        name: String,
        mode: u32,
        inode: u32,
        device: (u32, u32),
        content: Vec<u8>,
    }

    /// Reads an archive as the kernel does (init/initramfs.c), and checks each boundary.
    fn read(bytes: &[u8]) -> Vec<ArchiveEntry> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(at % 4, 0, "headers are aligned");
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |i: usize| {
                let digits = &bytes[at + 6 + 8 * i..at + 14 + 8 * i];
                let digits = std::str::from_utf8(digits).expect("digits");
                u32::from_str_radix(digits, 16).expect("a number")
            };
            let (size, name_size) = (field(6) as usize, field(11) as usize);
            let name = &bytes[at + 110..at + 110 + name_size];
            let (end, name) = name.split_last().expect("a name");
            assert_eq!(*end, 0);
            let name = String::from_utf8(name.to_vec()).expect("a name");
            let content = (at + 110 + name_size).next_multiple_of(4);
            let next = (content + size).next_multiple_of(4);
            assert!(next <= bytes.len(), "the last padding is there too");
            if name == TRAILER {
                assert_eq!(next, bytes.len());
                return entries;
            }
            entries.push(ArchiveEntry {
                name,
                mode: field(1),
                inode: field(0),
                device: (field(9), field(10)),
                content: bytes[content..content + size].to_vec(),
            });
            at = next;
        }
    }

    #[test]
    fn each_kind_of_entry_is_read_back() {
        let mut archive = Archive::default();
        archive.directory("dev", 0o755);
        archive.character_device("dev/console", 0o600, 5, 1);
        archive.file("init", 0o755, b"hello");
        let entry = |name: &str, mode, inode, device, content: &[u8]| ArchiveEntry {
            name: name.to_owned(),
            mode,
            inode,
            device,
            content: content.to_vec(),
        };
        assert_eq!(
            read(&archive.finish()),
            [
                entry("dev", 0o040_755, 1, (0, 0), b""),
                entry("dev/console", 0o020_600, 2, (5, 1), b""),
                entry("init", 0o100_755, 3, (0, 0), b"hello"),
            ]
        );
    }

    #[test]
    fn cpio_itself_lists_the_archive() {
        let mut archive = Archive::default();
        archive.directory("dev", 0o755);
        archive.character_device("dev/console", 0o600, 5, 1);
        archive.file("init", 0o755, b"hello");
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
        input.write_all(&archive.finish()).expect("written");
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

    proptest! {
        #[test]
        fn any_files_are_read_back(
            files in prop::collection::vec(
                ("[a-z]{1,20}", 0u32..0o1000, prop::collection::vec(any::<u8>(), 0..40)),
                0..8,
            ),
        ) {
            let mut archive = Archive::default();
            for (name, permissions, content) in &files {
                archive.file(name, *permissions, content);
            }
            let expected: Vec<_> = (1..)
                .zip(files)
                .map(|(inode, (name, permissions, content))| ArchiveEntry {
                    name,
                    mode: S_IFREG | permissions,
                    inode,
                    device: (0, 0),
                    content,
                })
                .collect();
            prop_assert_eq!(read(&archive.finish()), expected);
        }
    }
}
