//! bzImage: its setup header, checked against the file (Documentation/arch/x86/boot.rst).

use linux_loader::loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use vm_memory::ByteValued;

use super::image::{Image, KernelFault, KernelFormat};

/// "HdrS": this file has a setup header.
pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// Ends the first sector.
pub(crate) const BOOT_FLAG: u16 = 0xaa55;
/// Boot protocol 2.12, the first with `xloadflags`.
pub(crate) const VERSION_WITH_64_BIT_ENTRY: u16 = 0x20c;

/// Where the setup header begins.
const HEADER_OFFSET: usize = 0x1f1;
/// Where [`MAGIC`] is, and what the jump before it, which spans the header, counts from.
const MAGIC_OFFSET: usize = 0x202;
/// The 64-bit entry, from the load address.
const ENTRY_OFFSET: u64 = 0x200;
/// Bytes of a sector, in which the real-mode part is counted.
const SECTOR: u64 = 512;
/// Sectors of the real-mode part when the header says zero.
const DEFAULT_SETUP_SECTORS: u8 = 4;
/// Bytes of a paragraph, in which the protected-mode part is counted.
const PARAGRAPH: u64 = 16;

pub(crate) fn is_bzimage(head: &[u8]) -> bool {
    head.get(MAGIC_OFFSET..MAGIC_OFFSET + 4) == Some(&MAGIC.to_le_bytes())
}

/// Checks the setup header. `head` is the file's beginning, `len` its length.
pub(crate) fn inspect(head: &[u8], len: u64) -> Result<Image, KernelFault> {
    let header = setup(head).ok_or(KernelFault::Truncated {
        what: "setup header",
        needs: (HEADER_OFFSET + size_of::<setup_header>()) as u64,
        has: len,
    })?;
    if header.version < VERSION_WITH_64_BIT_ENTRY {
        return Err(KernelFault::No64BitEntry(
            "its boot protocol is older than 2.12",
        ));
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(KernelFault::No64BitEntry("it is a 32-bit kernel"));
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return Err(KernelFault::Malformed(
            "it is 64-bit and wants to be loaded low",
        ));
    }
    let sectors = match header.setup_sects {
        0 => DEFAULT_SETUP_SECTORS,
        sectors => sectors,
    };
    let setup_len = (u64::from(sectors) + 1) * SECTOR;
    let code_len = (u64::from(header.syssize) * PARAGRAPH).max(ENTRY_OFFSET + 1);
    if setup_len + code_len > len {
        let needs = setup_len + code_len;
        return Err(KernelFault::Truncated {
            what: "contents",
            needs,
            has: len,
        });
    }
    // What follows the code (a signature, say) is loaded with it.
    let size = (len - setup_len).max(header.init_size.into());
    let start = header.pref_address;
    let Some(end) = start.checked_add(size) else {
        return Err(KernelFault::Malformed("it wraps around the address space"));
    };
    let entry = start + ENTRY_OFFSET;
    Ok(Image {
        format: KernelFormat::BzImage,
        memory: start..end,
        entry,
        header,
    })
}

/// The setup header. Bytes past its own idea of its length are code, and read as zero.
fn setup(head: &[u8]) -> Option<setup_header> {
    let mut header = setup_header::default();
    let bytes = header.as_mut_slice();
    bytes.copy_from_slice(head.get(HEADER_OFFSET..HEADER_OFFSET + bytes.len())?);
    let len = MAGIC_OFFSET + usize::from(head[MAGIC_OFFSET - 1]) - HEADER_OFFSET;
    if let Some(code) = bytes.get_mut(len..) {
        code.fill(0);
    }
    Some(header)
}
