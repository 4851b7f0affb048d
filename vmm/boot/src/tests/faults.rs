//! What users read when a file or a plan is no good.

use super::*;

#[test]
fn files_that_are_no_kernels_are_told_apart() {
    let bench = Bench::new();
    let path = |name: &str| fault(check_kernel(&bench.path(name)));
    assert_eq!(
        path("absent"),
        "there is no such file; give the path of a vmlinux or a bzImage"
    );
    assert_eq!(
        path(""),
        "it is a directory; give the vmlinux or the arch/x86/boot/bzImage inside it"
    );
    assert_eq!(
        fault(bench.check(b"")),
        "it is empty; build or copy it again"
    );
    assert_eq!(
        fault(check_kernel(Path::new("/dev/null"))),
        "it is not a regular file; copy the kernel into a file first"
    );
    assert_eq!(
        fault(bench.check(b"#!/bin/sh\n")),
        r##"it is neither an ELF vmlinux nor a bzImage; first bytes "#!/bin/s""##
    );
    assert_eq!(
        fault(bench.check(b"\x00\x01\x02")),
        "it is neither an ELF vmlinux nor a bzImage; first bytes 00 01 02"
    );
    assert_eq!(
        fault(bench.check(b"\x1f\x8b\x08\x00")),
        "it is neither an ELF vmlinux nor a bzImage; \
         first bytes 1f 8b 08 00 (gzip data; decompress it first)"
    );
    assert_eq!(
        bench.check(b"").unwrap_err().to_string(),
        format!("cannot boot the kernel {}", bench.path("kernel").display())
    );
}

#[test]
fn elf_files_for_other_ends_are_told_apart() {
    let bench = Bench::new();
    let patched = |offset: usize, byte: u8| {
        let mut file = vmlinux();
        file[offset] = byte;
        fault(bench.check(&file))
    };
    let machine =
        |name: &str| format!("it is an ELF file for {name}; give a kernel built for 64-bit x86");
    assert_eq!(patched(4, 1), machine("a 32-bit machine"));
    assert_eq!(patched(5, 2), machine("a big-endian machine"));
    assert_eq!(patched(18, 183), machine("64-bit Arm"));
    let kind = |name: &str| {
        format!(
            "it is an ELF {name}, not a kernel; give the vmlinux at the top of the build directory"
        )
    };
    assert_eq!(patched(16, 1), kind("object file or kernel module"));
    let low = Segment {
        virt: 0x40_0000,
        ..TEXT
    };
    assert_eq!(
        fault(bench.check(&elf(0x100_0000, &[low]))),
        kind("program")
    );
    let interp = Segment {
        kind: INTERP,
        ..TEXT
    };
    assert_eq!(
        fault(bench.check(&elf(0x100_0000, &[TEXT, interp]))),
        kind("program")
    );
    let this_test = std::env::current_exe().unwrap();
    assert_eq!(fault(check_kernel(&this_test)), kind("program"));
}

#[test]
fn cut_off_files_say_how_much_is_missing() {
    let bench = Bench::new();
    let cut = |file: &[u8], len: usize| fault(bench.check(&file[..len]));
    let message = |what: &str, needs: u64, has: u64| {
        format!(
            "it is cut off: it has {has} bytes, and its {what} reach to byte {needs}; \
             build or copy it again"
        )
    };
    assert_eq!(cut(&vmlinux(), 63), message("ELF header", 64, 63));
    assert_eq!(cut(&vmlinux(), 119), message("program headers", 120, 119));
    assert_eq!(cut(&vmlinux(), 0x12ff), message("segments", 0x1300, 0x12ff));
    assert_eq!(
        bench.check(&vmlinux()[..0x1300]).unwrap(),
        KernelFormat::Elf
    );
    let bz = bzimage(|_| {});
    assert_eq!(cut(&bz, 0x26b), message("setup header", 0x26c, 0x26b));
    assert_eq!(cut(&bz, 0x6ff), message("contents", 0x700, 0x6ff));
    assert_eq!(bench.check(&bz).unwrap(), KernelFormat::BzImage);
}

#[test]
fn headers_that_lie_are_refused() {
    let bench = Bench::new();
    let elf = |entry, segments: &[Segment]| fault(bench.check(&elf(entry, segments)));
    let malformed =
        |what: &str| format!("its headers make no sense: {what}; build or copy it again");
    assert_eq!(
        elf(0, &[]),
        malformed("it has no program headers, or too many")
    );
    assert_eq!(
        elf(
            0x100_0000,
            &[Segment {
                phys: u64::MAX,
                ..TEXT
            }]
        ),
        malformed("a segment wraps around the address space")
    );
    assert_eq!(
        elf(
            0x100_0000,
            &[Segment {
                memory_size: 0x2ff,
                ..TEXT
            }]
        ),
        malformed("a segment is larger in the file than in memory")
    );
    // The last byte of memory is not in the file: no instruction there.
    assert_eq!(
        elf(0x100_0300, &[TEXT]),
        malformed("the entry lies in none of its segments")
    );
    let note = Segment {
        kind: NOTE,
        offset: u64::MAX,
        file_size: 12,
        ..TEXT
    };
    assert!(elf(0x100_0000, &[TEXT, note]).starts_with("it is cut off"));
    assert_eq!(
        elf(
            0x8_0000,
            &[Segment {
                virt: 0xffff_ffff_8008_0000,
                phys: 0x8_0000,
                ..TEXT
            }]
        ),
        "it loads at 0x80000, below 1 MiB, where boot tables go; give a vmlinux that loads higher"
    );

    let bz = |change: fn(&mut setup_header)| fault(bench.check(&bzimage(change)));
    assert_eq!(
        bz(|header| header.version = 0x20b),
        "this bzImage has no 64-bit entry: its boot protocol is older than 2.12; \
         give a 64-bit kernel, Linux 3.8 or later"
    );
    assert_eq!(
        bz(|header| header.xloadflags = 0),
        "this bzImage has no 64-bit entry: it is a 32-bit kernel; \
         give a 64-bit kernel, Linux 3.8 or later"
    );
    assert_eq!(
        bz(|header| header.loadflags = 0),
        malformed("it is 64-bit and wants to be loaded low")
    );
    assert_eq!(
        bz(|header| header.pref_address = u64::MAX - 0x1000),
        malformed("it wraps around the address space")
    );
    assert_eq!(
        bz(|header| header.pref_address = 0x9000),
        "it loads at 0x9000, below 1 MiB, where boot tables go; give a vmlinux that loads higher"
    );
}

#[test]
fn kernels_that_do_not_fit_say_what_they_need() {
    let bench = Bench::new();
    let big = Segment {
        memory_size: 0x400_0000,
        ..TEXT
    };
    assert_eq!(
        fault(bench.load(&elf(0x100_0000, &[big]))),
        "it needs memory up to 80 MiB and the guest has 64; give the guest more"
    );
    let high = Segment {
        phys: 0x4000_0000,
        ..TEXT
    };
    assert_eq!(
        fault(bench.load(&elf(0x4000_0000, &[high]))),
        "it needs memory up to 1025 MiB, past the first GiB that is mapped at the entry; \
         give a kernel with a lower CONFIG_PHYSICAL_START"
    );
    assert_eq!(
        fault(bench.load(&bzimage(|header| header.init_size = 0x300_0001))),
        "it needs memory up to 65 MiB and the guest has 64; give the guest more"
    );
}

#[test]
fn an_initramfs_goes_below_the_kernels_limit_and_never_into_the_kernel() {
    let bench = Bench::new();
    let limited = bzimage(|header| header.initrd_addr_max = 0x1ff_ffff);
    assert_eq!(
        bench.load(&limited).unwrap().initramfs,
        0x1ff_e000..0x1ff_f801
    );

    // Three pages are left: exactly enough for three pages, and no byte more.
    let full = bzimage(|header| header.init_size = 0x2ff_d000);
    fs::write(bench.path("initramfs"), archive(0x3000)).unwrap();
    assert_eq!(bench.load(&full).unwrap().initramfs, 0x3ff_d000..0x400_0000);
    fs::write(bench.path("initramfs"), archive(0x3001)).unwrap();
    assert_eq!(
        fault(bench.load(&full)),
        "it has 12289 bytes and the kernel leaves 12288 of the guest's RAM; \
         give the guest more memory or shrink it"
    );
    fs::write(bench.path("initramfs"), b"").unwrap();
    assert_eq!(fault(bench.load(&full)), "it is empty; build it again");
    fs::write(bench.path("initramfs"), b"#!/bin/sh\n").unwrap();
    assert_eq!(
        fault(bench.load(&full)),
        "it is neither a cpio archive nor compressed by anything that Linux knows; first bytes: \
         \"#!/bin\"; make it with `cpio -o -H newc`"
    );
    fs::remove_file(bench.path("initramfs")).unwrap();
    assert_eq!(
        fault(bench.load(&full)),
        "there is no such file; build the initramfs first"
    );
    fs::create_dir(bench.path("initramfs")).unwrap();
    assert_eq!(
        fault(bench.load(&full)),
        "it is not a regular file; give a cpio archive"
    );
}

#[test]
fn a_plan_out_of_range_is_refused_before_anything_is_written() {
    let bench = Bench::new();
    let plan = |change: fn(&mut BootPlan<'_>)| fault(bench.load_with(&vmlinux(), change));
    assert_eq!(
        plan(|plan| plan.cpus = 0),
        "a guest has 1 to 64 CPUs, not 0"
    );
    assert_eq!(
        plan(|plan| plan.cpus = 65),
        "a guest has 1 to 64 CPUs, not 65"
    );
    assert_eq!(
        plan(|plan| plan.memory_mib = 63),
        "a guest has 64 to 3072 MiB of RAM, not 63"
    );
    assert_eq!(
        plan(|plan| plan.memory_mib = 3073),
        "a guest has 64 to 3072 MiB of RAM, not 3073"
    );
    assert_eq!(
        plan(|plan| plan.memory_mib = 65),
        "guest memory does not cover the 65 MiB of RAM from address 0"
    );
    assert_eq!(
        plan(|plan| plan.cmdline = "a\0b"),
        "the kernel command line has a NUL at byte 1; remove it"
    );
    static LONG: [u8; 2050] = [b'x'; 2050];
    let long = std::str::from_utf8(&LONG).unwrap();
    assert_eq!(
        fault(bench.load_with(&vmlinux(), |plan| plan.cmdline = &long[..2050])),
        "the kernel command line has 2050 bytes and this kernel takes 2047; shorten it by 3"
    );
    let short = bzimage(|header| header.cmdline_size = 19);
    assert_eq!(
        fault(bench.load(&short)),
        "the kernel command line has 20 bytes and this kernel takes 19; shorten it by 1"
    );
    assert_eq!(bench.bytes(0, 0x10_0000), vec![0; 0x10_0000]);

    bench
        .load_with(&vmlinux(), |plan| plan.cmdline = &long[..2047])
        .unwrap();
    assert_eq!(
        bench.bytes(0x2_0000, 2049),
        [vec![b'x'; 2047], vec![0; 2]].concat()
    );
}

#[test]
fn a_kernel_off_its_alignment_is_refused_before_it_stops_at_its_first_instructions() {
    let bench = Bench::new();
    let moved = Segment {
        phys: TEXT.phys + 0x1000,
        ..TEXT
    };
    assert_eq!(
        fault(bench.check(&elf(0x100_1000, &[moved]))),
        "it loads at 0x1001000 and is linked for 0xffffffff81000000: they are not a multiple of 2 MiB apart, and \
         then a kernel stops at its first instructions; build it again with a CONFIG_PHYSICAL_START that is \
         such a multiple"
    );
    let elsewhere = Segment {
        phys: TEXT.phys + (2 << 20),
        ..TEXT
    };
    assert!(bench.check(&elf(0x120_0000, &[elsewhere])).is_ok());
}

#[test]
fn segments_that_share_memory_are_refused_whatever_their_order() {
    let bench = Bench::new();
    let data = Segment {
        virt: TEXT.virt + 0x400,
        phys: TEXT.phys + 0x400,
        ..TEXT
    };
    let message = "two of its segments lie at physical address 0x1000400; build or copy it again";
    for segments in [[TEXT, data], [data, TEXT]] {
        assert_eq!(fault(bench.check(&elf(0x100_0000, &segments))), message);
    }
    let next = Segment {
        phys: TEXT.phys + TEXT.memory_size,
        ..data
    };
    assert!(bench.check(&elf(0x100_0000, &[TEXT, next])).is_ok());
}

#[test]
fn a_file_of_debug_information_is_not_taken_for_the_kernel() {
    let bench = Bench::new();
    // Its headers are those of the kernel; one section, of code.
    let with_section = |kind: u32| {
        let mut file = vmlinux();
        let offset = file.len() as u64;
        file[40..48].copy_from_slice(&offset.to_le_bytes());
        file[58..62].copy_from_slice(&[64, 0, 1, 0]);
        file.extend(0_u32.to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend(6_u64.to_le_bytes()); // SHF_ALLOC, SHF_EXECINSTR
        for field in [TEXT.virt, 0x1000, 0x300] {
            file.extend(field.to_le_bytes());
        }
        file.resize(file.len() + 24, 0);
        file
    };
    const PROGBITS: u32 = 1;
    const NOBITS: u32 = 8;
    assert!(bench.check(&with_section(PROGBITS)).is_ok());
    assert_eq!(
        fault(bench.check(&with_section(NOBITS))),
        "it has debug information and no code (`objcopy --only-keep-debug` makes such files); \
         give the vmlinux or bzImage that it belongs to"
    );
    let cut = with_section(PROGBITS);
    let needs = cut.len();
    assert_eq!(
        fault(bench.check(&cut[..needs - 1])),
        format!(
            "it is cut off: it has {} bytes, and its section headers reach to byte {needs}; build or copy it again",
            needs - 1
        )
    );
}
