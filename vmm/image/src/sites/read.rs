//! The tables as the linker leaves them.
//!
//! Offsets in them are relative to the field that holds them, so they are right in the file as it
//! is, whatever KASLR does later.

use super::{Alternative, Branch, Site, SiteKind, SitesError, Table};
use crate::image::Image;

/// Low bits of a key that are flags, in static keys and static calls both.
const KEY_FLAGS: u64 = 3;
/// A NOP of two bytes, and one of five (arch/x86/include/asm/nops.h).
const NOP2: [u8; 2] = [0x66, 0x90];
const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

const NOT_CODE: &str = "an entry points to a place that is no code";

/// In an alternative's flags: it is applied where the feature is missing (since 6.3).
const ALT_FLAG_NOT: u16 = 1 << 0;
/// The same in its feature, before.
const ALTINSTR_FLAG_INV: u16 = 1 << 15;

type Entries<T> = Result<Vec<T>, &'static str>;

/// The sites of `table`, or none if the image does not have it.
pub(super) fn table(image: &Image, table: Table) -> Result<Option<Vec<Site>>, SitesError> {
    read(image, table, |start, bytes| match table {
        Table::StaticKeys => branches_of(start, bytes).and_then(|branches| {
            let site = |branch: &Branch| branch_site(image, branch);
            branches.iter().map(site).collect()
        }),
        Table::StaticCalls => static_calls(image, start, bytes),
        Table::Ftrace => ftrace(image, bytes),
        Table::Alternatives => Ok(alternatives_of_either(image, start, bytes)?
            .iter()
            .map(Alternative::site)
            .collect()),
    })
}

/// The branches of static keys, or none if the image has no such table.
pub(super) fn branches(image: &Image) -> Result<Option<Vec<Branch>>, SitesError> {
    read(image, Table::StaticKeys, |start, bytes| {
        branches_of(start, bytes)
    })
}

/// The alternatives in the order in which the kernel applies them, or none if the image has no such
/// table.
pub(super) fn alternatives(image: &Image) -> Result<Option<Vec<Alternative>>, SitesError> {
    read(image, Table::Alternatives, |start, bytes| {
        alternatives_of_either(image, start, bytes)
    })
}

/// What `understand` makes of the bytes of `table` and where they start, or none if the image does
/// not have it.
fn read<T>(
    image: &Image,
    table: Table,
    understand: impl FnOnce(u64, &[u8]) -> Entries<T>,
) -> Result<Option<Vec<T>>, SitesError> {
    let (start, stop) = match table {
        Table::StaticKeys => ("__start___jump_table", "__stop___jump_table"),
        Table::StaticCalls => ("__start_static_call_sites", "__stop_static_call_sites"),
        Table::Ftrace => ("__start_mcount_loc", "__stop_mcount_loc"),
        Table::Alternatives => ("__alt_instructions", "__alt_instructions_end"),
    };
    let damaged = |what| SitesError::Damaged { table, what };
    let symbols = image.symbols();
    let (start, stop) = match (symbols.address(start), symbols.address(stop)) {
        (Some(start), Some(stop)) => (start, stop),
        (None, None) => return Ok(None),
        _ => return Err(damaged("it has a start or an end, but not both")),
    };
    if start == stop {
        return Ok(Some(Vec::new()));
    }
    if stop < start {
        return Err(damaged("it ends before it starts"));
    }
    let bytes = image
        .bytes(start..stop)
        .map_err(|source| SitesError::Read { table, source })?
        .ok_or_else(|| damaged("the file has no bytes for it"))?;
    understand(start, &bytes).map(Some).map_err(damaged)
}

/// `struct jump_entry`: s32 code, s32 target, s64 key (include/linux/jump_label.h).
fn branches_of(start: u64, bytes: &[u8]) -> Entries<Branch> {
    let branch = |(at, entry): (u64, &[u8; 16])| {
        let key = at
            .wrapping_add(8)
            .wrapping_add(u64::from_le_bytes(field(entry, 8)));
        Branch {
            address: relative32(at, entry, 0),
            target: relative32(at, entry, 4),
            key: key & !KEY_FLAGS,
        }
    };
    Ok(entries::<16>(start, bytes)?.map(branch).collect())
}

fn branch_site(image: &Image, branch: &Branch) -> Result<Site, &'static str> {
    let len = branch_len(image, branch.address)?;
    let kind = SiteKind::StaticKey { key: branch.key };
    site(image, branch.address, len, kind)
}

/// Length of the branch of a static key: a JMP or a NOP, short or near (arch/x86/kernel/jump_label.c).
fn branch_len(image: &Image, address: u64) -> Result<u8, &'static str> {
    let mut code = code(image, address, 5);
    if code.is_empty() {
        code = self::code(image, address, 2);
    }
    match code.as_slice() {
        [0xeb, ..] => Ok(2),
        [0xe9, ..] => Ok(5),
        code if code.starts_with(&NOP2) => Ok(2),
        code if code.starts_with(&NOP5) => Ok(5),
        _ => Err("a static key's branch is neither a JMP nor a NOP"),
    }
}

/// `struct static_call_site`: s32 addr, s32 key (include/linux/static_call_types.h).
fn static_calls(image: &Image, start: u64, bytes: &[u8]) -> Entries<Site> {
    entries::<8>(start, bytes)?
        .map(|(at, entry)| {
            let address = relative32(at, entry, 0);
            // A tail call can be a Jcc, which is a byte longer than CALL and JMP
            // (arch/x86/kernel/static_call.c).
            let len = match code(image, address, 2).as_slice() {
                [0x0f, 0x80..=0x8f] => 6,
                _ => 5,
            };
            let kind = SiteKind::StaticCall {
                key: relative32(at, entry, 4) & !KEY_FLAGS,
            };
            site(image, address, len, kind)
        })
        .collect()
}

/// Addresses. Newer kernels leave a zero for a weak function that was overridden
/// (scripts/sorttable.c).
fn ftrace(image: &Image, bytes: &[u8]) -> Entries<Site> {
    entries::<8>(0, bytes)?
        .map(|(_, entry)| u64::from_le_bytes(*entry))
        .filter(|&address| address != 0)
        .map(|address| site(image, address, 5, SiteKind::Ftrace))
        .collect()
}

/// `struct alt_instr`, packed: s32 instr_offset, s32 repl_offset, then CPU feature and flags, u8
/// instrlen, u8 replacementlen. The middle is 4 bytes since 6.3 and was 2 before. The table does not
/// say which; only one of them gives places that have code.
fn alternatives_of_either(image: &Image, start: u64, bytes: &[u8]) -> Entries<Alternative> {
    match (
        alternatives_of::<14>(image, start, bytes),
        alternatives_of::<12>(image, start, bytes),
    ) {
        (Ok(sites), Err(_)) | (Err(_), Ok(sites)) => Ok(sites),
        (Err(why), Err(_)) => Err(why),
        (Ok(_), Ok(_)) => Err("its entries can have 12 or 14 bytes"),
    }
}

fn alternatives_of<const SIZE: usize>(
    image: &Image,
    start: u64,
    bytes: &[u8],
) -> Entries<Alternative> {
    entries::<SIZE>(start, bytes)?
        .map(|(at, entry)| {
            let [len, replacement_len] = field(entry, SIZE - 2);
            // The assembler pads what is replaced (ALTERNATIVE in alternative.h).
            if replacement_len > len {
                return Err("a replacement is longer than what it replaces");
            }
            let replacement = relative32(at, entry, 4);
            if replacement_len > 0 && !is_code(image, replacement, replacement_len) {
                return Err("a replacement is not in code");
            }
            let address = relative32(at, entry, 0);
            if !is_code(image, address, len) {
                return Err(NOT_CODE);
            }
            let feature = u16::from_le_bytes(field(entry, 8));
            // ALT_FLAG_NOT, in the upper half; in the shorter entries ALTINSTR_FLAG_INV.
            let (feature, inverted) = if SIZE == 12 {
                (
                    feature & !ALTINSTR_FLAG_INV,
                    feature & ALTINSTR_FLAG_INV != 0,
                )
            } else {
                let flags = u16::from_le_bytes(field(entry, 10));
                (feature, flags & ALT_FLAG_NOT != 0)
            };
            Ok(Alternative {
                address,
                len,
                replacement,
                replacement_len,
                feature,
                inverted,
            })
        })
        .collect()
}

/// The entries of a table at `start`, with their addresses.
fn entries<const SIZE: usize>(
    start: u64,
    bytes: &[u8],
) -> Result<impl Iterator<Item = (u64, &[u8; SIZE])>, &'static str> {
    let (entries, rest) = bytes.as_chunks::<SIZE>();
    if !rest.is_empty() {
        return Err("its size is no multiple of an entry's");
    }
    let address = move |index: usize| start.wrapping_add((index * SIZE) as u64);
    Ok(entries
        .iter()
        .enumerate()
        .map(move |(index, entry)| (address(index), entry)))
}

fn site(image: &Image, address: u64, len: u8, kind: SiteKind) -> Result<Site, &'static str> {
    if is_code(image, address, len) {
        Ok(Site { address, len, kind })
    } else {
        Err(NOT_CODE)
    }
}

fn is_code(image: &Image, address: u64, len: u8) -> bool {
    address
        .checked_add(len.into())
        .is_some_and(|end| image.is_code(&(address..end)))
}

/// `len` bytes at `address`, or nothing where the file has less.
fn code(image: &Image, address: u64, len: u64) -> Vec<u8> {
    address
        .checked_add(len)
        .and_then(|end| image.bytes(address..end).ok().flatten())
        .unwrap_or_default()
}

/// What the s32 at `offset` of the entry at `at` points to, relative to itself.
fn relative32<const SIZE: usize>(at: u64, entry: &[u8; SIZE], offset: usize) -> u64 {
    let value = i32::from_le_bytes(field(entry, offset));
    at.wrapping_add(offset as u64)
        .wrapping_add_signed(value.into())
}

/// The `N` bytes at `offset`. The callers' offsets are constants within the entry.
fn field<const SIZE: usize, const N: usize>(entry: &[u8; SIZE], offset: usize) -> [u8; N] {
    entry
        .get(offset..offset + N)
        .and_then(|bytes| bytes.try_into().ok())
        .unwrap_or([0; N])
}
