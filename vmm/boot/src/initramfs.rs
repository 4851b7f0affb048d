//! The initramfs: at the top of RAM, below what the kernel can take.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::ops::Range;
use std::path::Path;

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::image::{FirstBytes, Image};
use super::layout;

/// What is wrong with an initramfs file.
#[derive(Debug, Error)]
pub enum InitramfsFault {
    /// No such file.
    #[error("there is no such file; build the initramfs first")]
    Missing,
    /// It exists, but cannot be opened.
    #[error("it cannot be opened; check its permissions")]
    Open(#[source] io::Error),
    /// A directory, a pipe, a device or a socket.
    #[error("it is not a regular file; give a cpio archive")]
    NotAFile,
    /// No bytes in it.
    #[error("it is empty; build it again")]
    Empty,
    /// Neither a cpio archive nor anything that the kernel could decompress into one.
    #[error(
        "it is neither a cpio archive nor compressed by anything that Linux knows; \
         first bytes: {first}; make it with `cpio -o -H newc`"
    )]
    NotAnArchive {
        /// How it begins.
        first: FirstBytes,
    },
    /// It does not fit between the kernel and the top of RAM.
    #[error(
        "it has {size} bytes and the kernel leaves {room} of the guest's RAM; \
         give the guest more memory or shrink it"
    )]
    TooBig {
        /// Its bytes.
        size: u64,
        /// Bytes free for it.
        room: u64,
    },
    /// Reading failed, or it shrank meanwhile.
    #[error("it cannot be read into guest memory")]
    Read(#[source] GuestMemoryError),
}

/// How an initramfs may begin: as cpio in the two forms that the kernel unpacks (init/initramfs.c), or
/// as what it can decompress (lib/decompress.c): gzip (both), bzip2, LZMA, XZ, LZO, LZ4, zstd.
const MAGICS: &[&[u8]] = &[
    b"070701",
    b"070702",
    b"\x1f\x8b",
    b"\x1f\x9e",
    b"BZh",
    b"\x5d\x00",
    b"\xfd7zXZ",
    b"\x89LZO",
    b"\x02!L\x18",
    b"(\xb5/\xfd",
];
const MAGIC_LEN: u64 = 6;

/// An open initramfs file.
#[derive(Debug)]
pub(crate) struct Initramfs {
    file: File,
    /// Bytes; at least one.
    size: u64,
}

impl Initramfs {
    pub(crate) fn open(path: &Path) -> Result<Self, InitramfsFault> {
        // First: opening a pipe would wait for a writer.
        let metadata = path.metadata().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => InitramfsFault::Missing,
            _ => InitramfsFault::Open(error),
        })?;
        if !metadata.is_file() {
            return Err(InitramfsFault::NotAFile);
        }
        let file = File::open(path).map_err(InitramfsFault::Open)?;
        let size = file.metadata().map_err(InitramfsFault::Open)?.len();
        if size == 0 {
            return Err(InitramfsFault::Empty);
        }
        let mut head = Vec::new();
        (&file)
            .take(MAGIC_LEN)
            .read_to_end(&mut head)
            .and_then(|_| (&file).rewind())
            .map_err(InitramfsFault::Open)?;
        if !MAGICS.iter().any(|magic| head.starts_with(magic)) {
            return Err(InitramfsFault::NotAnArchive {
                first: FirstBytes::new(&head),
            });
        }
        Ok(Self { file, size })
    }

    /// The highest whole pages that are free of the kernel and within its reach.
    pub(crate) fn place(&self, kernel: &Image, ram_end: u64) -> Result<Range<u64>, InitramfsFault> {
        let highest = u64::from(kernel.header.initrd_addr_max).min(layout::INITRAMFS_LAST);
        let end = ram_end.min(highest + 1);
        let lowest = kernel.memory.end.next_multiple_of(layout::PAGE_SIZE);
        let size = self.size;
        match end
            .checked_sub(size)
            .map(|start| start - start % layout::PAGE_SIZE)
        {
            Some(start) if start >= lowest => Ok(start..start + size),
            _ => Err(InitramfsFault::TooBig {
                size,
                room: end.saturating_sub(lowest),
            }),
        }
    }

    pub(crate) fn load(
        &mut self,
        memory: &GuestMemoryMmap,
        address: u64,
    ) -> Result<(), InitramfsFault> {
        memory
            .read_exact_volatile_from(GuestAddress(address), &mut self.file, self.size as usize)
            .map_err(InitramfsFault::Read)
    }
}
