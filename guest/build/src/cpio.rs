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
