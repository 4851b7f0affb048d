//! The guests' code: assembler text in one section of this program, which is copied into an ELF file
//! that the machine takes for a kernel.
#![expect(
    unsafe_code,
    reason = "assembler text, and the linker's symbols around it"
)]

use std::mem::offset_of;
use std::ptr;

use ipirig_abi::{CpuSlot, MAILBOX_GPA, Mailbox};

/// Guest-physical address of the image.
const LOAD: u64 = 0x10_0000;

/// Guest-physical address of word 0, with which guests answer: the heartbeat of the mailbox's first
/// slot. Word `n` is slot `n`'s.
const WORDS: u64 =
    MAILBOX_GPA + (offset_of!(Mailbox, cpus) + offset_of!(CpuSlot, task.heartbeat)) as u64;

// What the assembler text takes for granted about the mailbox.
const _: () = {
    assert!(size_of::<CpuSlot>() == 128);
    assert!(offset_of!(CpuSlot, task.heartbeat) - offset_of!(CpuSlot, order_seq) == 60);
};

// SAFETY: the text defines symbols in a section of its own. This program never runs it.
core::arch::global_asm!(
    ".pushsection guest_code, \"ax\", @progbits",
    include_str!("runtime.s"),
    include_str!("hostile.s"),
    ".popsection",
    words = const WORDS,
);

// SAFETY: symbols that the linker and the text above define. Only their addresses are used, and the
// bytes between the first two.
unsafe extern "C" {
    safe static __start_guest_code: u8;
    safe static __stop_guest_code: u8;
    safe static rt_icr_msr: u8;
    safe static rt_icr_mmio: u8;
}

/// Defines a guest: a symbol named `$name` at its first instruction.
macro_rules! guest {
    ($name:ident, $text:literal) => {
        // SAFETY: the text defines one symbol, in the guests' section. This program never runs it.
        core::arch::global_asm!(concat!(
            ".pushsection guest_code, \"ax\", @progbits\n",
            ".globl ",
            stringify!($name),
            "\n",
            stringify!($name),
            ":\n",
            $text,
            "\n.popsection",
        ));
        // SAFETY: the symbol is defined above; its address is all that is used.
        unsafe extern "C" {
            safe static $name: u8;
        }
    };
}
pub(crate) use guest;

/// Where a symbol of the guests' section is when the guest runs.
pub(crate) fn address(symbol: &u8) -> u64 {
    LOAD + (ptr::from_ref(symbol).addr() - ptr::from_ref(&__start_guest_code).addr()) as u64
}

/// Where the runtime is when the machine sees its ICR write: at the WRMSR, which KVM completes at the
/// next entry, or after the store, with which KVM's emulator is done by then.
pub(crate) fn icr_write(x2apic: bool) -> u64 {
    address(if x2apic { &rt_icr_msr } else { &rt_icr_mmio })
}

fn code() -> &'static [u8] {
    let start = &raw const __start_guest_code;
    let len = (&raw const __stop_guest_code).addr() - start.addr();
    // SAFETY: the linker puts both symbols at the ends of one mapped section that nobody writes to.
    unsafe { std::slice::from_raw_parts(start, len) }
}

/// An ELF file with all guests' code, entered at `entry`: the least that passes for a vmlinux.
pub(crate) fn vmlinux(entry: &u8) -> Vec<u8> {
    vmlinux_with(entry, &[])
}

/// The same with these bytes at these guest-physical addresses as well, which the code must not reach.
pub(crate) fn vmlinux_with(entry: &u8, others: &[(u64, &[u8])]) -> Vec<u8> {
    let code = [(LOAD, code())];
    let segments: Vec<(u64, &[u8])> = code.iter().chain(others).copied().collect();
    let number = segments.len() as u8;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]); // an executable for x86-64
    for field in [address(entry), 64, 0] {
        file.extend(u64::to_le_bytes(field)); // entry, program headers, no sections
    }
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, number, 0, 0, 0, 0, 0, 0, 0]); // program headers
    let mut offset = 64 + 56 * u64::from(number);
    for (place, bytes) in &segments {
        file.extend([1, 0, 0, 0, 7, 0, 0, 0]); // to be loaded
        // Offset, virtual and physical address, size in the file and in memory, alignment.
        let (virt, len) = (0xffff_ffff_8000_0000 + place, bytes.len() as u64);
        for field in [offset, virt, *place, len, len, 1] {
            file.extend(u64::to_le_bytes(field));
        }
        offset += len;
    }
    segments.iter().for_each(|(_, bytes)| file.extend(*bytes));
    file
}
