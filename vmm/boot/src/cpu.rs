//! The state in which CPUs start: the boot CPU in long mode, the others where a SIPI sends them.
//!
//! Pure values: the vCPU threads read the reset state from KVM, pass it through here and set it.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::{Loaded, layout};

/// Selector of the 64-bit code segment (`__BOOT_CS`, arch/x86/include/asm/segment.h).
const BOOT_CS: u16 = 0x10;
/// Selector of the data segment (`__BOOT_DS`).
const BOOT_DS: u16 = 0x18;
/// Flat, present, ring 0, execute and read, accessed, 64-bit, 4 KiB granular (SDM vol. 3, 3.4.5).
const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
/// Flat, present, ring 0, read and write, accessed, 32-bit, 4 KiB granular.
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;
/// By selector: null, unused, code, data.
const GDT_ENTRIES: [u64; 4] = [0, 0, CODE_DESCRIPTOR, DATA_DESCRIPTOR];
const GDT_LIMIT: u16 = (size_of_val(&GDT_ENTRIES) - 1) as u16;

const CR0_PE: u64 = 1 << 0;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_AM: u64 = 1 << 18;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Interrupts off, and bit 1, which is always set (SDM vol. 3, figure 2-5).
const RFLAGS: u64 = 1 << 1;

const PTE_PRESENT: u64 = 1 << 0;
const PTE_WRITABLE: u64 = 1 << 1;
/// In a page directory entry: a 2 MiB page.
const PTE_LARGE: u64 = 1 << 7;
const LARGE_PAGE_SHIFT: u32 = 21;
const ENTRIES_PER_TABLE: u64 = 512;

const _: () = assert!(ENTRIES_PER_TABLE << LARGE_PAGE_SHIFT == layout::IDENTITY_MAP_END);

/// Writes the GDT and the page tables that map the first GiB one to one.
pub(crate) fn write_tables(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    write_table(memory, layout::GDT, GDT_ENTRIES)?;
    let link = PTE_PRESENT | PTE_WRITABLE;
    write_table(memory, layout::PML4, [layout::PDPT | link])?;
    write_table(memory, layout::PDPT, [layout::PAGE_DIRECTORY | link])?;
    write_table(
        memory,
        layout::PAGE_DIRECTORY,
        (0..ENTRIES_PER_TABLE).map(|page| (page << LARGE_PAGE_SHIFT) | link | PTE_LARGE),
    )
}

fn write_table(
    memory: &GuestMemoryMmap,
    address: u64,
    entries: impl IntoIterator<Item = u64>,
) -> Result<(), GuestMemoryError> {
    let bytes: Vec<u8> = entries.into_iter().flat_map(u64::to_le_bytes).collect();
    memory.write_slice(&bytes, GuestAddress(address))
}

/// The boot CPU's special registers: long mode, with the tables that [`super::load`] wrote.
/// `reset` is what KVM reports for the new vCPU; what the boot protocol leaves open stays as it is.
pub fn boot_sregs(reset: kvm_sregs) -> kvm_sregs {
    let data = segment(BOOT_DS, DATA_DESCRIPTOR);
    let mut sregs = reset;
    sregs.cs = segment(BOOT_CS, CODE_DESCRIPTOR);
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = GDT_LIMIT;
    // No handler exists yet: any exception is a triple fault, not a jump into low memory.
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    sregs.cr3 = layout::PML4;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
    sregs
}

/// The boot CPU's general registers: at the kernel's entry, RSI at the zero page
/// (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
pub fn boot_regs(loaded: &Loaded) -> kvm_regs {
    kvm_regs {
        rip: loaded.entry,
        rsi: loaded.zero_page,
        rsp: layout::BOOT_STACK,
        rbp: layout::BOOT_STACK,
        rflags: RFLAGS,
        ..kvm_regs::default()
    }
}

/// Special registers of a CPU that a SIPI with `vector` starts: real mode, at the 4 KiB page of
/// that number (SDM vol. 3, 9.4.4). `reset` is what KVM reported for the vCPU before it ran.
pub fn sipi_sregs(reset: kvm_sregs, vector: u8) -> kvm_sregs {
    let mut sregs = reset;
    sregs.cs.selector = u16::from(vector) << 8;
    sregs.cs.base = u64::from(vector) << 12;
    sregs
}

/// General registers of a CPU that a SIPI starts. `reset` is what KVM reported for the vCPU before
/// it ran; RDX keeps the processor's signature (SDM vol. 3, table 10-1).
pub fn sipi_regs(reset: kvm_regs) -> kvm_regs {
    kvm_regs {
        rip: 0,
        rflags: RFLAGS,
        rdx: reset.rdx,
        ..kvm_regs::default()
    }
}

/// What a CPU holds in a segment register after it loaded `selector` with `descriptor`.
fn segment(selector: u16, descriptor: u64) -> kvm_segment {
    let bits = |low: u32, count: u32| (descriptor >> low) & ((1 << count) - 1);
    let flag = |bit: u32| u8::from(bits(bit, 1) != 0);
    let limit = (bits(0, 16) | (bits(48, 4) << 16)) as u32;
    let granular = flag(55);
    kvm_segment {
        base: bits(16, 24) | (bits(56, 8) << 24),
        limit: if granular == 1 {
            (limit << 12) | 0xfff
        } else {
            limit
        },
        selector,
        type_: bits(40, 4) as u8,
        s: flag(44),
        dpl: bits(45, 2) as u8,
        present: flag(47),
        avl: flag(52),
        l: flag(53),
        db: flag(54),
        g: granular,
        unusable: 1 - flag(47),
        padding: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KernelFormat;

    fn table<const N: usize>(memory: &GuestMemoryMmap, address: u64) -> [u64; N] {
        std::array::from_fn(|i| {
            u64::from_le(
                memory
                    .read_obj(GuestAddress(address + 8 * i as u64))
                    .unwrap(),
            )
        })
    }

    #[test]
    fn the_tables_map_the_first_gibibyte_one_to_one() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        write_tables(&memory).unwrap();
        let mut pml4 = [0; 512];
        pml4[0] = 0xa003;
        assert_eq!(table(&memory, 0x9000), pml4);
        let mut pdpt = [0; 512];
        pdpt[0] = 0xb003;
        assert_eq!(table(&memory, 0xa000), pdpt);
        let expected: [u64; 512] = std::array::from_fn(|i| (i as u64 * 0x20_0000) + 0x83);
        assert_eq!(table(&memory, 0xb000), expected);
        assert_eq!(
            table(&memory, 0x500),
            [
                0,
                0,
                0x00af_9b00_0000_ffff,
                0x00cf_9300_0000_ffff,
                0,
                0,
                0,
                0
            ]
        );
    }

    fn flat(selector: u16, type_: u8, l: u8, db: u8) -> kvm_segment {
        kvm_segment {
            base: 0,
            limit: 0xffff_ffff,
            selector,
            type_,
            present: 1,
            s: 1,
            l,
            db,
            g: 1,
            ..Default::default()
        }
    }

    #[test]
    fn the_boot_cpu_starts_in_long_mode_and_keeps_the_rest_of_its_reset_state() {
        let mut reset = kvm_sregs {
            apic_base: 0xfee0_0900,
            cr8: 3,
            ..Default::default()
        };
        reset.tr.type_ = 11;
        reset.idt.limit = 0xffff;
        let data = flat(0x18, 3, 0, 1);
        let mut expected = kvm_sregs {
            cs: flat(0x10, 11, 1, 0),
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            cr0: 0x8005_0033,
            cr3: 0x9000,
            cr4: 0x20,
            efer: 0x500,
            apic_base: 0xfee0_0900,
            cr8: 3,
            ..Default::default()
        };
        expected.tr.type_ = 11;
        expected.gdt.base = 0x500;
        expected.gdt.limit = 31;
        assert_eq!(boot_sregs(reset), expected);
    }

    #[test]
    fn the_boot_cpu_enters_the_kernel_with_the_zero_page_in_rsi() {
        let loaded = Loaded {
            entry: 0x100_0200,
            zero_page: 0x7000,
            format: KernelFormat::BzImage,
            kernel: 0x100_0000..0x200_0000,
            initramfs: 0x300_0000..0x300_1000,
        };
        let expected = kvm_regs {
            rip: 0x100_0200,
            rsi: 0x7000,
            rsp: 0x8ff0,
            rbp: 0x8ff0,
            rflags: 2,
            ..Default::default()
        };
        assert_eq!(boot_regs(&loaded), expected);
    }

    #[test]
    fn a_sipi_sends_a_cpu_to_the_page_of_its_vector() {
        let mut reset = kvm_sregs {
            cr0: 0x6000_0010,
            ..Default::default()
        };
        reset.cs = kvm_segment {
            base: 0xffff_0000,
            limit: 0xffff,
            selector: 0xf000,
            ..reset.cs
        };
        let mut expected = reset;
        expected.cs.base = 0x9_a000;
        expected.cs.selector = 0x9a00;
        assert_eq!(sipi_sregs(reset, 0x9a), expected);

        let reset = kvm_regs {
            rip: 0xfff0,
            rdx: 0x600,
            rflags: 2,
            ..Default::default()
        };
        assert_eq!(
            sipi_regs(reset),
            kvm_regs {
                rdx: 0x600,
                rflags: 2,
                ..Default::default()
            }
        );
    }
}
