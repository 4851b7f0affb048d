//! `struct boot_params` (the "zero page") and the command line.

use std::ops::Range;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::{BootError, layout};

/// A boot loader without an assigned number (Documentation/arch/x86/boot.rst, `type_of_loader`).
const LOADER_UNDEFINED: u8 = 0xff;

/// E820 types (arch/x86/include/asm/e820/types.h).
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// Checks that the kernel can take all of the command line.
pub(crate) fn check_cmdline(cmdline: &str, header: &setup_header) -> Result<(), BootError> {
    if let Some(position) = cmdline.bytes().position(|byte| byte == 0) {
        return Err(BootError::CmdlineNul { position });
    }
    let length = cmdline.len();
    // The kernel's limit leaves out the NUL, ours counts it.
    let limit = (header.cmdline_size as usize).min(layout::CMDLINE_SIZE - 1);
    if length > limit {
        return Err(BootError::CmdlineTooLong { length, limit });
    }
    Ok(())
}

/// Writes the command line and its final NUL.
pub(crate) fn write_cmdline(
    memory: &GuestMemoryMmap,
    cmdline: &str,
) -> Result<(), GuestMemoryError> {
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    memory.write_slice(&bytes, GuestAddress(layout::CMDLINE))
}

/// The parameters for a kernel with `header`. Fields not set here stay zero, as the protocol asks.
pub(crate) fn boot_params(
    header: &setup_header,
    initramfs: &Range<u64>,
    ram_end: u64,
    rsdp: u64,
) -> boot_params {
    let mut params = boot_params {
        hdr: *header,
        acpi_rsdp_addr: rsdp,
        ..boot_params::default()
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = layout::CMDLINE as u32;
    // Both fit: an initramfs lies below 2 GiB.
    params.hdr.ramdisk_image = initramfs.start as u32;
    params.hdr.ramdisk_size = (initramfs.end - initramfs.start) as u32;
    let map = memory_map(ram_end);
    params.e820_table[..map.len()].copy_from_slice(&map);
    params.e820_entries = map.len() as u8;
    params
}

/// RAM with a hole: from the EBDA to 1 MiB lie the tables that the kernel is to leave alone.
fn memory_map(ram_end: u64) -> [boot_e820_entry; 3] {
    let entry = |range: Range<u64>, r#type| boot_e820_entry {
        addr: range.start,
        size: range.end - range.start,
        r#type,
    };
    [
        entry(0..layout::EBDA, E820_RAM),
        entry(layout::EBDA..layout::HIGH_MEMORY, E820_RESERVED),
        entry(layout::HIGH_MEMORY..ram_end, E820_RAM),
    ]
}

/// Writes the zero page.
pub(crate) fn write(memory: &GuestMemoryMmap, params: boot_params) -> Result<(), GuestMemoryError> {
    memory.write_obj(params, GuestAddress(layout::ZERO_PAGE))
}
