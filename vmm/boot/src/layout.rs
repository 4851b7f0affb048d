//! Where things lie in guest-physical memory before the first instruction.
//!
//! ```text
//! 0x0000_0500  GDT (4 entries)
//! 0x0000_7000  zero page (`struct boot_params`)
//! 0x0000_8ff0  top of the boot stack, grows down
//! 0x0000_9000  PML4, then PDPT and PD
//! 0x0002_0000  kernel command line
//! 0x0009_fc00  EBDA: MP floating pointer           e820: reserved from here ...
//! 0x000e_0000  RSDP and the other ACPI tables
//! 0x000f_0000  MP configuration table
//! 0x0010_0000  kernel                              ... to here
//!      ...     initramfs, at the top of RAM or below 2 GiB
//! 0xd000_0000  mailbox (outside RAM and outside e820)
//! 0xfee0_0000  local APIC
//! ```

use std::ops::Range;

use ipirig_abi::{MAILBOX_GPA, MAX_CPUS};

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 0x1000;
/// Bytes of a mebibyte.
pub const MIB: u64 = 1 << 20;

/// Least RAM of a guest, in MiB: a small kernel, unpacked, and an initramfs.
pub const MIN_MEMORY_MIB: u64 = 64;
/// Most RAM of a guest, in MiB: one region that ends below the mailbox.
pub const MAX_MEMORY_MIB: u64 = 3072;

/// Global descriptor table of the boot CPU; the BIOS data area ends at 0x500.
pub const GDT: u64 = 0x500;
/// `struct boot_params`, one page. RSI holds this address at the entry (Documentation/arch/x86/boot.rst).
pub const ZERO_PAGE: u64 = 0x7000;
/// First stack pointer of the boot CPU. The kernel replaces it within a few instructions.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Page map level 4.
pub const PML4: u64 = 0x9000;
/// Page directory pointer table.
pub const PDPT: u64 = 0xa000;
/// Page directory: 512 pages of 2 MiB.
pub const PAGE_DIRECTORY: u64 = 0xb000;
/// End of what the boot page tables map one to one: the first GiB.
pub const IDENTITY_MAP_END: u64 = 1 << 30;

/// Kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Bytes of the command line with its final NUL (COMMAND_LINE_SIZE, arch/x86/include/asm/setup.h).
pub const CMDLINE_SIZE: usize = 2048;

/// Extended BIOS data area, where low RAM ends. Linux looks for the MP floating pointer in the last
/// KiB below 640 KiB (`mpparse_find_mptable`, arch/x86/kernel/mpparse.c).
pub const EBDA: u64 = 0x9_fc00;
/// MP floating pointer structure.
pub const MP_FLOATING_POINTER: u64 = EBDA;
/// RSDP and after it the other ACPI tables. ACPI 6.5, 5.2.5.1: it is looked for from here on.
pub const ACPI: Range<u64> = 0xe_0000..0xf_0000;
/// MP configuration table. It outgrows the EBDA's one KiB with 49 CPUs or more.
pub const MP_TABLE: Range<u64> = 0xf_0000..HIGH_MEMORY;
/// Where RAM begins again. Kernels load from here on.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// Highest byte an initramfs may use, unless a bzImage asks for less (`initrd_addr_max`,
/// arch/x86/boot/header.S).
pub const INITRAMFS_LAST: u64 = 0x7fff_ffff;

/// Local APIC registers (SDM vol. 3, 11.4.1).
pub const LOCAL_APIC: u32 = 0xfee0_0000;

/// Most CPUs a guest may have.
pub const MAX_CPUS_U8: u8 = {
    assert!(MAX_CPUS <= u8::MAX as usize);
    MAX_CPUS as u8
};

/// First address past the RAM of a guest of `memory_mib` MiB.
pub const fn ram_end(memory_mib: u64) -> u64 {
    memory_mib * MIB
}

const _: () = {
    assert!(ram_end(MAX_MEMORY_MIB) <= MAILBOX_GPA);
    assert!(PAGE_DIRECTORY + PAGE_SIZE <= CMDLINE);
    assert!(CMDLINE + CMDLINE_SIZE as u64 <= EBDA);
    assert!(ZERO_PAGE + PAGE_SIZE <= BOOT_STACK);
    assert!(BOOT_STACK <= PML4);
    assert!(IDENTITY_MAP_END > HIGH_MEMORY);
};
