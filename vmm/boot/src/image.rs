//! What a kernel file is, what may be wrong with it, and what its headers say.

use std::fmt;
use std::io;
use std::ops::Range;

use linux_loader::loader;
use linux_loader::loader::bootparam::setup_header;
use thiserror::Error;

/// The kinds of kernel file that can be booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelFormat {
    /// An ELF vmlinux, entered at `e_entry`.
    Elf,
    /// A bzImage, entered at its 64-bit entry point.
    BzImage,
}

impl fmt::Display for KernelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Elf => "ELF vmlinux",
            Self::BzImage => "bzImage",
        })
    }
}

/// What is wrong with a kernel file.
#[derive(Debug, Error)]
pub enum KernelFault {
    /// No such file.
    #[error("there is no such file; give the path of a vmlinux or a bzImage")]
    Missing,
    /// It exists, but cannot be opened.
    #[error("it cannot be opened; check its permissions")]
    Open(#[source] io::Error),
    /// A directory.
    #[error("it is a directory; give the vmlinux or the arch/x86/boot/bzImage inside it")]
    Directory,
    /// A pipe, a device or a socket.
    #[error("it is not a regular file; copy the kernel into a file first")]
    NotAFile,
    /// No bytes in it.
    #[error("it is empty; build or copy it again")]
    Empty,
    /// Reading failed.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// Neither format's magic number is there.
    #[error("it is neither an ELF vmlinux nor a bzImage; first bytes {0}")]
    UnknownFormat(FirstBytes),
    /// The end is missing.
    #[error(
        "it is cut off: it has {has} bytes, and its {what} reach to byte {needs}; \
         build or copy it again"
    )]
    Truncated {
        /// What lies past the end.
        what: &'static str,
        /// Bytes the file would need.
        needs: u64,
        /// Bytes it has.
        has: u64,
    },
    /// A header contradicts itself.
    #[error("its headers make no sense: {0}; build or copy it again")]
    Malformed(&'static str),
    /// An ELF file for another machine.
    #[error("it is an ELF file for {0}; give a kernel built for 64-bit x86")]
    WrongMachine(&'static str),
    /// An ELF file that is no kernel.
    #[error("it is an ELF {0}, not a kernel; give the vmlinux at the top of the build directory")]
    NotAKernel(&'static str),
    /// An ELF file whose code was left out.
    #[error(
        "it has debug information and no code (`objcopy --only-keep-debug` makes such files); \
         give the vmlinux or bzImage that it belongs to"
    )]
    NoCode,
    /// An ELF kernel that stops at once: arch/x86/boot/startup/map_kernel.c (head64.c before 6.16), __startup_64.
    #[error(
        "it loads at {physical:#x} and is linked for {linked:#x}: they are not a multiple of 2 MiB apart, and then a \
         kernel stops at its first instructions; build it again with a CONFIG_PHYSICAL_START that is such a multiple"
    )]
    Misaligned {
        /// Physical address of the segment with the entry.
        physical: u64,
        /// Virtual address of the same.
        linked: u64,
    },
    /// Two segments have the same memory.
    #[error("two of its segments lie at physical address {address:#x}; build or copy it again")]
    Overlap {
        /// The first address that both have.
        address: u64,
    },
    /// A bzImage without a 64-bit entry.
    #[error("this bzImage has no 64-bit entry: {0}; give a 64-bit kernel, Linux 3.8 or later")]
    No64BitEntry(&'static str),
    /// Part of it would lie where the boot tables are.
    #[error(
        "it loads at {address:#x}, below 1 MiB, where boot tables go; give a vmlinux that loads higher"
    )]
    LoadsTooLow {
        /// Lowest load address.
        address: u64,
    },
    /// It does not fit into RAM.
    #[error(
        "it needs memory up to {needs_mib} MiB and the guest has {has_mib}; give the guest more"
    )]
    TooBig {
        /// End of the kernel, in MiB, rounded up.
        needs_mib: u64,
        /// RAM of the guest in MiB.
        has_mib: u64,
    },
    /// It is out of reach of the page tables it starts with.
    #[error(
        "it needs memory up to {needs_mib} MiB, past the first GiB that is mapped at the entry; \
         give a kernel with a lower CONFIG_PHYSICAL_START"
    )]
    LoadsTooHigh {
        /// End of the kernel, in MiB, rounded up.
        needs_mib: u64,
    },
    /// The headers are good, and yet it cannot be loaded.
    #[error("it cannot be loaded into guest memory")]
    Load(#[source] loader::Error),
}

/// The first bytes of a file, for a message: as text if they are text, else in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstBytes(Vec<u8>);

impl FirstBytes {
    const SHOWN: usize = 8;

    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(bytes.iter().take(Self::SHOWN).copied().collect())
    }

    /// The compression these bytes begin, if any.
    fn compression(&self) -> Option<&'static str> {
        let known: [(&[u8], _); 6] = [
            (b"\x1f\x8b", "gzip"),
            (b"\xfd7zXZ\0", "xz"),
            (b"\x28\xb5\x2f\xfd", "zstd"),
            (b"BZh", "bzip2"),
            (b"\x04\x22\x4d\x18", "lz4"),
            (b"\x02\x21\x4c\x18", "lz4"),
        ];
        known
            .iter()
            .find(|(magic, _)| self.0.starts_with(magic))
            .map(|&(_, name)| name)
    }
}

impl fmt::Display for FirstBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
        if self.0.iter().all(is_text) {
            write!(f, "{:?}", String::from_utf8_lossy(&self.0))?;
        } else {
            for (i, byte) in self.0.iter().enumerate() {
                write!(f, "{}{byte:02x}", if i == 0 { "" } else { " " })?;
            }
        }
        if let Some(name) = self.compression() {
            write!(f, " ({name} data; decompress it first)")?;
        }
        Ok(())
    }
}

/// What the headers say, after all checks that need nothing but the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Image {
    pub(crate) format: KernelFormat,
    /// Memory it occupies, or needs until it has unpacked itself. Begins at 1 MiB or above.
    pub(crate) memory: Range<u64>,
    /// First instruction.
    pub(crate) entry: u64,
    /// The setup header to hand on: a bzImage's own, or one made up for a vmlinux.
    pub(crate) header: setup_header,
}
