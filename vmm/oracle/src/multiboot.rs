//! Images with a Multiboot header, as kvm-unit-tests builds them, taken apart for a loader that knows vmlinux files
//! only.
//!
//! From the Multiboot Specification, version 0.6.96: the header (3.1), the state of the machine (3.2), the
//! information for the image (3.3).

use object::elf::{FileHeader32, PT_LOAD};
use object::endian::LittleEndian;
use object::read::elf::{FileHeader, ProgramHeader};

/// The header is within so many bytes, at a multiple of 4.
const HEADER_WITHIN: usize = 8192;
const MAGIC: u32 = 0x1bad_b002;
/// What a loader must do or refuse the image: bits 0 to 15. The first two, pages for modules and the size of memory,
/// are what [`Multiboot::information`] does.
const NEEDS: u32 = 0xffff & !0b11;
/// Addresses are in the header, and the file need not be ELF.
const HAS_ADDRESSES: u32 = 1 << 16;
/// Most that an image may have in memory: more than any that kvm-unit-tests builds.
const MOST: u32 = 48 << 20;

/// Why an image cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MultibootError {
    /// No header.
    #[error(
        "no Multiboot header within the first {HEADER_WITHIN} bytes: is it an image for another loader?"
    )]
    NoHeader,
    /// A loader has to do more than this one does.
    #[error("the header asks for what this loader does not do (flags {flags:#x})")]
    Needs {
        /// The header's flags.
        flags: u32,
    },
    /// The header's addresses make no sense.
    #[error("the header's addresses make no sense: {what}")]
    Addresses {
        /// What about them.
        what: &'static str,
    },
    /// The file is not the ELF file that it has to be.
    #[error("no 32-bit ELF file, and no addresses in the header: {what}")]
    Elf {
        /// What the reader says.
        what: String,
    },
    /// A segment's bytes are not in the file, or it is too large.
    #[error("the segment at {address:#x} is not whole in the file, or has more than {MOST} bytes")]
    Segment {
        /// Where it is to be loaded.
        address: u32,
    },
    /// The entry is in none of the segments.
    #[error("the entry {entry:#x} is in none of the segments")]
    Entry {
        /// The entry.
        entry: u32,
    },
}

/// Bytes, and where they go. What follows them in memory is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address.
    pub address: u32,
    /// What is there; never empty.
    pub bytes: Vec<u8>,
}

/// An image that can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Multiboot {
    /// Where it begins, in 32-bit protected mode without paging.
    pub entry: u32,
    /// What it consists of.
    pub segments: Vec<Segment>,
}

impl Multiboot {
    /// Takes an image apart.
    ///
    /// # Errors
    /// [`MultibootError`]: it is none, or wants what there is not.
    pub fn parse(file: &[u8]) -> Result<Self, MultibootError> {
        let (at, flags) = header(file).ok_or(MultibootError::NoHeader)?;
        if flags & NEEDS != 0 {
            return Err(MultibootError::Needs { flags });
        }
        let image = if flags & HAS_ADDRESSES != 0 {
            by_header(file, at)?
        } else {
            by_elf(file)?
        };
        let holds = |segment: &Segment| {
            let offset = image.entry.checked_sub(segment.address);
            offset.is_some_and(|offset| (offset as usize) < segment.bytes.len())
        };
        if image.segments.iter().any(holds) {
            Ok(image)
        } else {
            let entry = image.entry;
            Err(MultibootError::Entry { entry })
        }
    }

    /// What the image is told, as bytes for the guest-physical address `place`: where it begins and where its
    /// information is, 4 bytes each, for whoever enters it; then that information: the size of memory, a command
    /// line, and one module, which kvm-unit-tests takes for its environment.
    #[must_use]
    pub fn information(
        &self,
        place: u32,
        memory_mib: u32,
        cmdline: &str,
        environment: &str,
    ) -> Vec<u8> {
        const INFORMATION: u32 = 8;
        const MODULE: u32 = INFORMATION + 120;
        const TEXTS: u32 = MODULE + 16;
        // Texts of some hundred bytes: truncation loses nothing.
        let texts = [cmdline.as_bytes(), b"\0", environment.as_bytes(), b"\0"].concat();
        let environment_at = place + TEXTS + cmdline.len() as u32 + 1;
        let upper_kib = memory_mib.saturating_sub(1) * 1024;
        let mut words = vec![self.entry, place + INFORMATION];
        // Flags: memory, command line, modules. Then lower and upper memory in KiB, the boot device.
        words.extend([0b1101, 640, upper_kib, 0]);
        words.extend([place + TEXTS, 1, place + MODULE]);
        words.resize(MODULE as usize / 4, 0);
        // The module's first and last address, its text, and nothing.
        let end = environment_at + environment.len() as u32;
        words.extend([environment_at, end, place + TEXTS, 0]);
        let mut bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        bytes.extend(texts);
        bytes
    }
}

fn word(file: &[u8], at: usize) -> Option<u32> {
    let bytes = file.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_le_bytes)
}

/// Where the header is, and its flags.
fn header(file: &[u8]) -> Option<(usize, u32)> {
    (0..HEADER_WITHIN).step_by(4).find_map(|at| {
        let [magic, flags, checksum] = [word(file, at)?, word(file, at + 4)?, word(file, at + 8)?];
        let sum = magic.wrapping_add(flags).wrapping_add(checksum);
        (magic == MAGIC && sum == 0).then_some((at, flags))
    })
}

/// By the addresses in the header at `at`: one segment.
fn by_header(file: &[u8], at: usize) -> Result<Multiboot, MultibootError> {
    let wrong = |what| MultibootError::Addresses { what };
    let field = |n: usize| word(file, at + 12 + 4 * n).ok_or(wrong("the header is not whole"));
    let [header, load, load_end, bss_end, entry] =
        [field(0)?, field(1)?, field(2)?, field(3)?, field(4)?];
    let before = header
        .checked_sub(load)
        .ok_or(wrong("the header is loaded before the image begins"))? as usize;
    let first = at
        .checked_sub(before)
        .ok_or(wrong("the image begins before the file does"))?;
    let bytes = file.get(first..).unwrap_or_default();
    let len = match load_end {
        0 => bytes.len(),
        end => end
            .checked_sub(load)
            .ok_or(wrong("the image ends before it begins"))? as usize,
    };
    if bss_end != 0 && bss_end < load_end {
        return Err(wrong("what is zero ends before it begins"));
    }
    let bytes = bytes.get(..len).filter(|bytes| !bytes.is_empty());
    let bytes = bytes.filter(|bytes| bytes.len() <= MOST as usize);
    let bytes = bytes.ok_or(MultibootError::Segment { address: load })?;
    Ok(Multiboot {
        entry,
        segments: vec![Segment {
            address: load,
            bytes: bytes.to_vec(),
        }],
    })
}

fn by_elf(file: &[u8]) -> Result<Multiboot, MultibootError> {
    let wrong = |error: object::read::Error| MultibootError::Elf {
        what: error.to_string(),
    };
    let header = FileHeader32::<LittleEndian>::parse(file).map_err(wrong)?;
    let endian = header.endian().map_err(wrong)?;
    let mut segments = Vec::new();
    for segment in header.program_headers(endian, file).map_err(wrong)? {
        let len = segment.p_filesz(endian);
        if segment.p_type(endian) != PT_LOAD || segment.p_memsz(endian) == 0 || len == 0 {
            continue;
        }
        let address = segment.p_paddr(endian);
        let from = segment.p_offset(endian) as usize;
        let bytes = from
            .checked_add(len as usize)
            .and_then(|to| file.get(from..to));
        let bytes = bytes.filter(|_| segment.p_memsz(endian) <= MOST);
        let bytes = bytes.ok_or(MultibootError::Segment { address })?.to_vec();
        segments.push(Segment { address, bytes });
    }
    Ok(Multiboot {
        entry: header.e_entry(endian),
        segments,
    })
}

#[cfg(test)]
mod tests {
    use object::elf::PT_NOTE;

    use super::*;

    /// A file of 64 bytes before the header, which has addresses, and some after it.
    fn with_addresses(flags: u32, addresses: [u32; 5]) -> Vec<u8> {
        let mut file = vec![0x90; 64];
        for word in [MAGIC, flags, 0_u32.wrapping_sub(MAGIC.wrapping_add(flags))] {
            file.extend(word.to_le_bytes());
        }
        for word in addresses {
            file.extend(word.to_le_bytes());
        }
        file.extend([0xf4; 16]);
        file
    }

    const GOOD: [u32; 5] = [0x40_0040, 0x40_0000, 0, 0x50_0000, 0x40_0060];

    #[test]
    fn an_image_with_addresses_is_one_segment_from_before_its_header_on() {
        let file = with_addresses(HAS_ADDRESSES, GOOD);
        let expected = Multiboot {
            entry: 0x40_0060,
            segments: vec![Segment {
                address: 0x40_0000,
                bytes: file.clone(),
            }],
        };
        assert_eq!(Multiboot::parse(&file), Ok(expected));
    }

    #[test]
    fn what_cannot_be_loaded_is_refused_with_its_reason() {
        let parse = |flags, addresses| Multiboot::parse(&with_addresses(flags, addresses));
        let addresses = |what| Err(MultibootError::Addresses { what });
        let mut broken = with_addresses(HAS_ADDRESSES, GOOD);
        broken[72] ^= 1;
        assert_eq!(Multiboot::parse(&broken), Err(MultibootError::NoHeader));
        assert_eq!(Multiboot::parse(&[]), Err(MultibootError::NoHeader));
        let flags = HAS_ADDRESSES | 4;
        assert_eq!(parse(flags, GOOD), Err(MultibootError::Needs { flags }));
        assert!(matches!(parse(0, GOOD), Err(MultibootError::Elf { .. })));
        assert_eq!(
            parse(HAS_ADDRESSES, [0x3f_0000, 0x40_0000, 0, 0, 0]),
            addresses("the header is loaded before the image begins")
        );
        assert_eq!(
            parse(HAS_ADDRESSES, [0x40_1000, 0x40_0000, 0, 0, 0]),
            addresses("the image begins before the file does")
        );
        assert_eq!(
            parse(HAS_ADDRESSES, [0x40_0040, 0x40_0000, 0x50_0000, 0, 0]),
            Err(MultibootError::Segment { address: 0x40_0000 })
        );
        assert_eq!(
            parse(HAS_ADDRESSES, [0x40_0040, 0x40_0000, 0, 0, 0x3f_ffff]),
            Err(MultibootError::Entry { entry: 0x3f_ffff })
        );
        assert_eq!(
            parse(HAS_ADDRESSES, [0x40_0040, 0x40_0000, 0x3f_ffff, 0, 0]),
            addresses("the image ends before it begins")
        );
        let ends = [0x40_0040, 0x40_0000, 0x40_0061, 0x40_0060, 0x40_0060];
        assert_eq!(
            parse(HAS_ADDRESSES, ends),
            addresses("what is zero ends before it begins")
        );
    }

    #[test]
    fn an_image_has_at_most_so_many_bytes() {
        let address = 0x40_0000;
        let too_large = Err(MultibootError::Segment { address });
        let loaded = |file: &[u8]| {
            let parsed = Multiboot::parse(file);
            parsed.map(|image| image.segments.iter().map(|s| s.bytes.len()).sum())
        };
        let mut file = with_addresses(HAS_ADDRESSES, GOOD);
        file.resize(MOST as usize, 0);
        assert_eq!(loaded(&file), Ok(MOST as usize));
        file.push(0);
        assert_eq!(loaded(&file), too_large);
        // Of an ELF file it is the size in memory.
        let mut file = elf();
        let size = PROGRAM_HEADERS + 20..PROGRAM_HEADERS + 24;
        file[size.clone()].copy_from_slice(&MOST.to_le_bytes());
        assert_eq!(loaded(&file), Ok(32));
        file[size].copy_from_slice(&(MOST + 1).to_le_bytes());
        assert_eq!(loaded(&file), too_large);
    }

    const PROGRAM_HEADERS: usize = 52;
    /// Behind four of them.
    const CONTENT: u32 = PROGRAM_HEADERS as u32 + 4 * 32;

    /// An ELF file of one segment, which has the header; and a note, and segments of which nothing is in the file, or in
    /// memory.
    fn elf() -> Vec<u8> {
        let mut file = b"\x7fELF\x01\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([2, 0, 3, 0, 1, 0, 0, 0]);
        // Entry, program headers, no sections, flags.
        for word in [0x40_0010_u32, 52, 0, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend([52, 0, 32, 0, 4, 0, 40, 0, 0, 0, 0, 0]);
        // Type, offset, virtual and physical address, size in the file and in memory, flags, alignment.
        for header in [
            [PT_LOAD.0, CONTENT, 0xc040_0000, 0x40_0000, 32, 0x1000, 7, 1],
            [PT_NOTE.0, CONTENT, 0, 0x60_0000, 4, 4, 4, 1],
            [PT_LOAD.0, CONTENT, 0, 0x70_0000, 0, 0x1000, 6, 1],
            [PT_LOAD.0, CONTENT, 0, 0x80_0000, 4, 0, 6, 1],
        ] {
            file.extend(header.into_iter().flat_map(u32::to_le_bytes));
        }
        for word in [MAGIC, 0, 0_u32.wrapping_sub(MAGIC)] {
            file.extend(word.to_le_bytes());
        }
        file.resize(CONTENT as usize + 32, 0xf4);
        file
    }

    #[test]
    fn an_elf_image_is_its_segments_and_one_that_is_not_whole_is_refused() {
        let file = elf();
        let expected = Multiboot {
            entry: 0x40_0010,
            segments: vec![Segment {
                address: 0x40_0000,
                bytes: file[CONTENT as usize..].to_vec(),
            }],
        };
        assert_eq!(Multiboot::parse(&file), Ok(expected));
        let address = 0x40_0000;
        assert_eq!(
            Multiboot::parse(&file[..file.len() - 1]),
            Err(MultibootError::Segment { address })
        );
    }

    #[test]
    fn no_damaged_image_panics() {
        let good = vec![elf(), with_addresses(HAS_ADDRESSES, GOOD)];
        let mut corpus = ipirig_fuzz::Corpus::new(good, 1);
        let parsed = (0..50_000)
            .filter(|_| Multiboot::parse(&corpus.next_input()).is_ok())
            .count();
        // Some damage is where it does not matter; most is.
        assert!((1..50_000).contains(&parsed), "{parsed}");
    }

    #[test]
    fn the_information_says_where_everything_is() {
        let image = Multiboot {
            entry: 0x40_0060,
            segments: vec![],
        };
        let bytes = image.information(0x18_0000, 64, "a b", "C=1\n");
        let at = |offset| word(&bytes, offset).unwrap_or_default();
        assert_eq!([at(0), at(4)], [0x40_0060, 0x18_0008]);
        assert_eq!([at(8), at(12), at(16)], [0b1101, 640, 63 * 1024]);
        let text = |address: u32, len| {
            let from = (address - 0x18_0000) as usize;
            &bytes[from..from + len]
        };
        assert_eq!(text(at(24), 4), b"a b\0");
        assert_eq!(at(28), 1);
        let module = (at(32) - 0x18_0000) as usize;
        assert_eq!(text(at(module), 5), b"C=1\n\0");
        assert_eq!(at(module + 4) - at(module), 4);
    }
}
