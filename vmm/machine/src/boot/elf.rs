//! ELF vmlinux: its headers, checked against the file.

use std::fs::File;
use std::os::unix::fs::FileExt;

use linux_loader::loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::pod;

use super::kernel::{Image, KernelFault, KernelFormat};
use super::{bzimage, layout};

/// Most program headers. A vmlinux has five.
const MAX_PROGRAM_HEADERS: u16 = 64;
/// Most bytes of notes. A vmlinux has a few hundred, and they are read one by one.
const MAX_NOTES: u64 = 64 << 10;
/// Where the upper half of the address space begins, in which a kernel is linked.
const UPPER_HALF: u64 = 0xffff_8000_0000_0000;
/// What a loader that moves the kernel must keep to; this one does not. The largest
/// CONFIG_PHYSICAL_ALIGN.
const KERNEL_ALIGNMENT: u32 = 16 << 20;

pub(super) fn is_elf(head: &[u8]) -> bool {
    head.starts_with(&elf::ELFMAG)
}

/// Reads and checks the headers. `head` is the file's beginning, `len` its length.
pub(super) fn inspect(file: &File, head: &[u8], len: u64) -> Result<Image, KernelFault> {
    let truncated = |what, needs| KernelFault::Truncated {
        what,
        needs,
        has: len,
    };
    let header_len = size_of::<FileHeader64<LE>>() as u64;
    let Ok((header, _)) = pod::from_bytes::<FileHeader64<LE>>(head) else {
        return Err(truncated("ELF header", header_len));
    };
    check_kind(header)?;

    let count = header.e_phnum.get(LE);
    if usize::from(header.e_phentsize.get(LE)) != size_of::<ProgramHeader64<LE>>() {
        return Err(KernelFault::Malformed(
            "a program header has the wrong size",
        ));
    }
    if !(1..=MAX_PROGRAM_HEADERS).contains(&count) {
        return Err(KernelFault::Malformed(
            "it has no program headers, or too many",
        ));
    }
    let offset = header.e_phoff.get(LE);
    if offset < header_len {
        return Err(KernelFault::Malformed(
            "the program headers overlap the ELF header",
        ));
    }
    let mut table = vec![0; usize::from(count) * size_of::<ProgramHeader64<LE>>()];
    let table_end = offset.saturating_add(table.len() as u64);
    if table_end > len {
        return Err(truncated("program headers", table_end));
    }
    file.read_exact_at(&mut table, offset)
        .map_err(KernelFault::Read)?;
    let Ok((segments, _)) =
        pod::slice_from_bytes::<ProgramHeader64<LE>>(&table, usize::from(count))
    else {
        return Err(KernelFault::Malformed("the program headers cannot be read"));
    };
    image(header.e_entry.get(LE), segments, len)
}

/// Sorts out what is ELF, and no kernel for this machine.
fn check_kind(header: &FileHeader64<LE>) -> Result<(), KernelFault> {
    if header.e_ident.class != elf::ELFCLASS64 {
        return Err(KernelFault::WrongMachine("a 32-bit machine"));
    }
    if header.e_ident.data != elf::ELFDATA2LSB {
        return Err(KernelFault::WrongMachine("a big-endian machine"));
    }
    if header.e_machine.get(LE) != elf::EM_X86_64 {
        return Err(KernelFault::WrongMachine(match header.e_machine.get(LE) {
            elf::EM_AARCH64 => "64-bit Arm",
            elf::EM_RISCV => "RISC-V",
            elf::EM_S390 => "s390",
            elf::EM_PPC64 => "PowerPC",
            elf::EM_LOONGARCH => "LoongArch",
            _ => "another machine",
        }));
    }
    match header.e_type.get(LE) {
        elf::ET_EXEC | elf::ET_DYN => Ok(()),
        elf::ET_REL => Err(KernelFault::NotAKernel("object file or kernel module")),
        elf::ET_CORE => Err(KernelFault::NotAKernel("core dump")),
        _ => Err(KernelFault::NotAKernel("file of unknown type")),
    }
}

fn image(entry: u64, segments: &[ProgramHeader64<LE>], len: u64) -> Result<Image, KernelFault> {
    let (mut start, mut end) = (u64::MAX, 0);
    let mut is_kernel = false;
    let mut has_entry = false;
    for segment in segments {
        let is_note = match segment.p_type.get(LE) {
            elf::PT_INTERP => return Err(KernelFault::NotAKernel("program")),
            elf::PT_LOAD => false,
            elf::PT_NOTE => true,
            _ => continue,
        };
        let file_size = segment.p_filesz.get(LE);
        let needs = segment.p_offset.get(LE).saturating_add(file_size);
        if needs > len {
            return Err(KernelFault::Truncated {
                what: "segments",
                needs,
                has: len,
            });
        }
        if is_note {
            if file_size > MAX_NOTES {
                return Err(KernelFault::Malformed("its notes are too long"));
            }
            continue;
        }
        let memory_size = segment.p_memsz.get(LE);
        if file_size > memory_size {
            return Err(KernelFault::Malformed(
                "a segment is larger in the file than in memory",
            ));
        }
        if memory_size == 0 {
            continue;
        }
        let first = segment.p_paddr.get(LE);
        let Some(last) = first.checked_add(memory_size) else {
            return Err(KernelFault::Malformed(
                "a segment wraps around the address space",
            ));
        };
        start = start.min(first);
        end = end.max(last);
        is_kernel |= segment.p_vaddr.get(LE) >= UPPER_HALF;
        has_entry |= (first..first + file_size).contains(&entry);
    }
    if !is_kernel {
        return Err(KernelFault::NotAKernel("program"));
    }
    if !has_entry {
        return Err(KernelFault::Malformed(
            "the entry lies in none of its segments",
        ));
    }
    Ok(Image {
        format: KernelFormat::Elf,
        memory: start..end,
        entry,
        header: setup(),
    })
}

/// A vmlinux has no setup header; this says what a bzImage of the same kernel would.
fn setup() -> setup_header {
    setup_header {
        boot_flag: bzimage::BOOT_FLAG,
        header: bzimage::MAGIC,
        version: bzimage::VERSION_WITH_64_BIT_ENTRY,
        loadflags: LOADED_HIGH,
        xloadflags: XLF_KERNEL_64,
        kernel_alignment: KERNEL_ALIGNMENT,
        initrd_addr_max: layout::INITRAMFS_LAST as u32,
        cmdline_size: layout::CMDLINE_SIZE as u32 - 1,
        ..setup_header::default()
    }
}
