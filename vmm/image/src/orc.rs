//! ORC tables: how to get from one frame of the kernel's stack to the next, in a kernel that is
//! built without frame pointers (Documentation/arch/x86/orc-unwinder.rst).
//!
//! The layout of an entry changed with Linux 6.3 and again with 6.4, and 7.2 numbers registers in
//! another way. Since 6.4 a kernel carries a
//! hash of the layout in `.orc_header`; before, its version has to tell. An unknown layout is refused:
//! a table that is misread makes up callers.

use std::ops::Range;

use thiserror::Error;

use crate::image::{Image, ImageError};
use crate::symbols::Symbols;

/// SHA-1 of the layout since 6.4, as scripts/orc_hash.sh makes it of
/// arch/x86/include/asm/orc_types.h.
const HASH_6_4: [u8; 20] = [
    0xfe, 0x5d, 0x32, 0xbf, 0x58, 0x1b, 0xd6, 0x3b, 0x2c, 0xa9, 0xa5, 0xc6, 0x5b, 0xa5, 0xa6, 0x25,
    0xea, 0xb3, 0xfe, 0x24,
];
/// The same of 7.2.
const HASH_7_2: [u8; 20] = [
    0x13, 0x7c, 0x36, 0xad, 0x76, 0x27, 0xc4, 0xdd, 0x55, 0x93, 0x21, 0x76, 0xbb, 0x0e, 0xcd, 0xbd,
    0x50, 0x41, 0xfc, 0x82,
];
/// Bytes of `struct orc_entry`, in every layout.
const ENTRY: usize = 6;
/// Bytes of the kernel's version that are looked at.
const BANNER: u64 = 64;

/// Why ORC tables cannot be used.
#[derive(Debug, Error)]
pub enum OrcError {
    /// The kernel says by a hash which layout its entries have, and it is not known here.
    #[error("the kernel's ORC tables have a layout that is not known (hash {hash})")]
    UnknownLayout {
        /// The hash, in hexadecimal digits.
        hash: String,
    },
    /// The kernel does not say which layout its entries have, and its version does not tell.
    #[error("the layout of the ORC tables of a Linux {version} is not known")]
    UnknownVersion {
        /// `major.minor`, or what stands in its place.
        version: String,
    },
    /// The tables make no sense.
    #[error("the kernel's ORC tables cannot be understood: {0}")]
    Damaged(&'static str),
    /// The file cannot be read there.
    #[error("cannot read the kernel's ORC tables")]
    Read(#[source] ImageError),
}

/// The layout of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrcLayout {
    /// Up to 6.2: type in two bits, then `end`.
    Before63,
    /// Since 6.4: type in three bits, then `signal`.
    Since64,
    /// As 7.2 has it: the bits of 6.4 and other numbers of registers.
    Since72,
}

/// What an offset is relative to: the `ORC_REG_*` of orc_types.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrcBase {
    /// As it was, or not known.
    Undefined,
    /// The caller's stack pointer.
    PreviousSp,
    /// RAX.
    Ax,
    /// RDX.
    Dx,
    /// RDI.
    Di,
    /// RBP.
    Bp,
    /// RSP.
    Sp,
    /// R10.
    R10,
    /// R13.
    R13,
    /// What lies at RBP plus the offset.
    BpIndirect,
    /// What lies at RSP, plus the offset.
    SpIndirect,
    /// A number without a meaning.
    Unknown(u8),
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrcKind {
    /// Nothing is known of it.
    Undefined,
    /// No frame is above it.
    EndOfStack,
    /// A return address.
    Call,
    /// All registers, a `struct pt_regs`.
    Registers,
    /// What the CPU pushes for an interrupt: RIP, CS, RFLAGS, RSP, SS.
    InterruptFrame,
    /// A number without a meaning.
    Unknown(u8),
}

/// How the frame is laid out while code of some addresses runs: `struct orc_entry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrcEntry {
    /// Added to the stack pointer's base.
    pub sp_offset: i16,
    /// Added to the base of where the caller's RBP is.
    pub bp_offset: i16,
    /// What the caller's stack pointer is relative to.
    pub sp: OrcBase,
    /// What the place of the caller's RBP is relative to.
    pub bp: OrcBase,
    /// What the frame holds.
    pub kind: OrcKind,
    /// The address above it is one that was interrupted, not one that is returned to.
    pub signal: bool,
}

impl OrcEntry {
    /// What the kernel assumes of code that no table has, such as a BPF program's: RBP points to
    /// the caller's RBP, with the return address above it.
    pub const FRAME_POINTER: Self = Self {
        sp_offset: 16,
        bp_offset: -16,
        sp: OrcBase::Bp,
        bp: OrcBase::PreviousSp,
        kind: OrcKind::Call,
        signal: false,
    };

    fn parse(layout: OrcLayout, bytes: [u8; ENTRY]) -> Self {
        let [s0, s1, b0, b1, bases, flags] = bytes;
        let sp = base(layout, bases & 0xf);
        let (kind, signal) = match layout {
            OrcLayout::Since64 | OrcLayout::Since72 => {
                let kind = match flags & 7 {
                    0 => OrcKind::Undefined,
                    1 => OrcKind::EndOfStack,
                    2 => OrcKind::Call,
                    3 => OrcKind::Registers,
                    4 => OrcKind::InterruptFrame,
                    other => OrcKind::Unknown(other),
                };
                (kind, flags & 8 != 0)
            }
            OrcLayout::Before63 => {
                let end = flags & 4 != 0;
                let kind = match (sp, flags & 3) {
                    (OrcBase::Undefined, _) if end => OrcKind::EndOfStack,
                    (OrcBase::Undefined, _) => OrcKind::Undefined,
                    (_, 0) => OrcKind::Call,
                    (_, 1) => OrcKind::Registers,
                    (_, 2) => OrcKind::InterruptFrame,
                    (_, other) => OrcKind::Unknown(other),
                };
                let signal = matches!(kind, OrcKind::Registers | OrcKind::InterruptFrame);
                (kind, signal)
            }
        };
        Self {
            sp_offset: i16::from_le_bytes([s0, s1]),
            bp_offset: i16::from_le_bytes([b0, b1]),
            sp,
            bp: base(layout, bases >> 4),
            kind,
            signal,
        }
    }

    fn is_gap(&self) -> bool {
        self.kind == OrcKind::Undefined
    }
}

fn base(layout: OrcLayout, number: u8) -> OrcBase {
    match (layout, number) {
        (_, 0) => OrcBase::Undefined,
        (_, 2) => OrcBase::Dx,
        (_, 4) => OrcBase::Bp,
        (_, 6) => OrcBase::R10,
        (_, 7) => OrcBase::R13,
        (_, 9) => OrcBase::SpIndirect,
        (OrcLayout::Since72, 1) => OrcBase::Ax,
        (OrcLayout::Since72, 3) => OrcBase::Sp,
        (OrcLayout::Since72, 5) => OrcBase::Di,
        (OrcLayout::Since72, 8) => OrcBase::PreviousSp,
        (OrcLayout::Since72, 10) => OrcBase::BpIndirect,
        (OrcLayout::Before63 | OrcLayout::Since64, 1) => OrcBase::PreviousSp,
        (OrcLayout::Before63 | OrcLayout::Since64, 3) => OrcBase::Di,
        (OrcLayout::Before63 | OrcLayout::Since64, 5) => OrcBase::Sp,
        (OrcLayout::Before63 | OrcLayout::Since64, 8) => OrcBase::BpIndirect,
        (_, other) => OrcBase::Unknown(other),
    }
}

/// Gives the bytes at link addresses, or none if not all of them can be had.
pub type ReadBytes<'a> = dyn Fn(Range<u64>) -> Result<Option<Vec<u8>>, OrcError> + 'a;

/// Entries by address: each holds from its address to the next one's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrcTable {
    /// Sorted.
    addresses: Vec<u64>,
    /// As many.
    entries: Vec<OrcEntry>,
}

impl OrcTable {
    /// The table of a vmlinux, by link addresses; none if it is built without one.
    ///
    /// # Errors
    /// When the table is there but cannot be read or understood.
    pub fn read(image: &Image) -> Result<Option<Self>, OrcError> {
        let bytes = |range: Range<u64>| image.bytes(range).map_err(OrcError::Read);
        Self::read_by(image.symbols(), &bytes)
    }

    /// The table of a kernel with these symbols, `bytes` of which can be had by its link addresses, or none of a
    /// range; none if it is built without one, or `symbols` do not have the bounds of it.
    ///
    /// # Errors
    /// When the table is there but cannot be read or understood.
    pub fn read_by(symbols: &Symbols, bytes: &ReadBytes<'_>) -> Result<Option<Self>, OrcError> {
        let part = |name: &str| -> Result<Option<(u64, Vec<u8>)>, OrcError> {
            let bounds = ["start", "stop"].map(|end| symbols.address(&format!("__{end}_{name}")));
            let [Some(start), Some(stop)] = bounds else {
                return Ok(None);
            };
            if start == stop {
                return Ok(None);
            }
            let bytes = bytes(start..stop)?;
            let bytes =
                bytes.ok_or(OrcError::Damaged("there are no bytes where they should be"))?;
            Ok(Some((start, bytes)))
        };
        let (Some((start, places)), Some((_, entries))) =
            (part("orc_unwind_ip")?, part("orc_unwind")?)
        else {
            return Ok(None);
        };
        let layout = match part("orc_header")? {
            Some((_, hash)) => by_hash(&hash)?,
            None => by_version(symbols, bytes)?,
        };
        let (places, rest) = places.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(OrcError::Damaged("an address is cut off"));
        }
        let entries = parse_entries(layout, &entries)?;
        if places.len() != entries.len() {
            return Err(OrcError::Damaged("addresses and entries differ in number"));
        }
        // Each is relative to itself, so right in the file as it is.
        let places = places.iter().zip((start..).step_by(4));
        let addresses =
            places.map(|(bytes, at)| at.wrapping_add_signed(i32::from_le_bytes(*bytes).into()));
        Ok(Some(addresses.zip(entries).collect()))
    }

    /// The entry that holds at `address`. None before the first and in gaps between code.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<&OrcEntry> {
        let above = self.addresses.partition_point(|&start| start <= address);
        self.entries.get(above.checked_sub(1)?)
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// A table of entries at given addresses, in any order.
impl FromIterator<(u64, OrcEntry)> for OrcTable {
    fn from_iter<I: IntoIterator<Item = (u64, OrcEntry)>>(entries: I) -> Self {
        let mut all: Vec<(u64, OrcEntry)> = entries.into_iter().collect();
        // Where one file's code ends, the next one's may begin: there its entry holds.
        all.sort_by_key(|(address, entry)| (*address, !entry.is_gap()));
        let (addresses, entries) = all.into_iter().unzip();
        Self { addresses, entries }
    }
}

/// The entries of a module's `.orc_unwind`, whose kernel's layout is `layout`.
pub(crate) fn parse_entries(layout: OrcLayout, bytes: &[u8]) -> Result<Vec<OrcEntry>, OrcError> {
    let (entries, rest) = bytes.as_chunks::<ENTRY>();
    if !rest.is_empty() {
        return Err(OrcError::Damaged("an entry is cut off"));
    }
    Ok(entries
        .iter()
        .map(|bytes| OrcEntry::parse(layout, *bytes))
        .collect())
}

/// The layout that a hash in `.orc_header` stands for.
pub(crate) fn by_hash(hash: &[u8]) -> Result<OrcLayout, OrcError> {
    for (known, layout) in [
        (HASH_6_4, OrcLayout::Since64),
        (HASH_7_2, OrcLayout::Since72),
    ] {
        if hash == known {
            return Ok(layout);
        }
    }
    let hash = hash.iter().take(20).map(|byte| format!("{byte:02x}"));
    Err(OrcError::UnknownLayout {
        hash: hash.collect(),
    })
}

/// The layout of a kernel that has no hash: those before 6.3 have none.
fn by_version(symbols: &Symbols, bytes: &ReadBytes<'_>) -> Result<OrcLayout, OrcError> {
    let banner = symbols.address("linux_banner");
    let text = banner
        .map(|at| bytes(at..at.saturating_add(BANNER)))
        .transpose()?
        .flatten()
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let release = text.strip_prefix("Linux version ").unwrap_or("?");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|digits| digits.parse::<u32>().ok());
    let version = number().zip(number());
    match version {
        // 4.14 was the first with ORC.
        Some(version) if ((4, 14)..(6, 3)).contains(&version) => Ok(OrcLayout::Before63),
        version => Err(OrcError::UnknownVersion {
            version: version.map_or_else(
                || "whose version is not known".to_owned(),
                |(major, minor)| format!("{major}.{minor}"),
            ),
        }),
    }
}

#[cfg(test)]
mod tests;
