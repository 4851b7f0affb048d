//! ELF vmlinux: its headers, checked against the file.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use linux_loader::loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, ProgramHeader64, SectionHeader64};
use object::pod;

use super::image::{Image, KernelFault, KernelFormat};
use super::{bzimage, layout};

/// Most program headers. A vmlinux has five.
const MAX_PROGRAM_HEADERS: u16 = 64;
/// Most bytes of notes. A vmlinux has a few hundred, and they are read one by one.
const MAX_NOTES: u64 = 64 << 10;
/// Where the upper half of the address space begins, in which a kernel is linked.
const UPPER_HALF: u64 = 0xffff_8000_0000_0000;
/// A page of a page middle directory, by which a kernel maps itself first.
const LOAD_ALIGNMENT: u64 = 2 << 20;
/// What a loader that moves the kernel must keep to; this one does not. The largest
/// CONFIG_PHYSICAL_ALIGN.
const KERNEL_ALIGNMENT: u32 = 16 << 20;

pub(crate) fn is_elf(head: &[u8]) -> bool {
    head.starts_with(&elf::ELFMAG)
}

/// Reads and checks the headers. `head` is the file's beginning, `len` its length.
pub(crate) fn inspect(file: &File, head: &[u8], len: u64) -> Result<Image, KernelFault> {
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
    let image = image(header.e_entry.get(LE), segments, len)?;
    check_code(header, file, len)?;
    Ok(image)
}

/// That code was not left out: debuggers' files have all sections and segments of the kernel, without bytes.
fn check_code(header: &FileHeader64<LE>, file: &File, len: u64) -> Result<(), KernelFault> {
    let (offset, count) = (header.e_shoff.get(LE), header.e_shnum.get(LE));
    // Sections are for linkers and debuggers; a kernel boots without.
    if offset == 0 || count == 0 {
        return Ok(());
    }
    if usize::from(header.e_shentsize.get(LE)) != size_of::<SectionHeader64<LE>>() {
        return Err(KernelFault::Malformed(
            "a section header has the wrong size",
        ));
    }
    let mut table = vec![0; usize::from(count) * size_of::<SectionHeader64<LE>>()];
    let needs = offset.saturating_add(table.len() as u64);
    if needs > len {
        return Err(KernelFault::Truncated {
            what: "section headers",
            needs,
            has: len,
        });
    }
    file.read_exact_at(&mut table, offset)
        .map_err(KernelFault::Read)?;
    let Ok((sections, _)) =
        pod::slice_from_bytes::<SectionHeader64<LE>>(&table, usize::from(count))
    else {
        return Err(KernelFault::Malformed("the section headers cannot be read"));
    };
    let left_out = |section: &SectionHeader64<LE>| {
        let code = elf::SHF_ALLOC | elf::SHF_EXECINSTR;
        section.sh_flags.get(LE) & code == code
            && section.sh_type.get(LE) == elf::SHT_NOBITS
            && section.sh_size.get(LE) > 0
    };
    if sections.iter().any(left_out) {
        return Err(KernelFault::NoCode);
    }
    Ok(())
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
    let mut places: Vec<Range<u64>> = vec![];
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
        if (first..first + file_size).contains(&entry) {
            has_entry = true;
            check_alignment(first, segment.p_vaddr.get(LE))?;
        }
        places.push(first..last);
    }
    if !is_kernel {
        return Err(KernelFault::NotAKernel("program"));
    }
    if !has_entry {
        return Err(KernelFault::Malformed(
            "the entry lies in none of its segments",
        ));
    }
    check_overlap(places)?;
    Ok(Image {
        format: KernelFormat::Elf,
        memory: start..end,
        entry,
        header: setup(),
    })
}

/// That the kernel's own check of where it was loaded will pass.
fn check_alignment(physical: u64, linked: u64) -> Result<(), KernelFault> {
    if linked >= UPPER_HALF && !physical.wrapping_sub(linked).is_multiple_of(LOAD_ALIGNMENT) {
        return Err(KernelFault::Misaligned { physical, linked });
    }
    Ok(())
}

fn check_overlap(mut places: Vec<Range<u64>>) -> Result<(), KernelFault> {
    places.sort_by_key(|place| place.start);
    for pair in places.windows(2) {
        if let [one, next] = pair
            && next.start < one.end
        {
            return Err(KernelFault::Overlap {
                address: next.start,
            });
        }
    }
    Ok(())
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
