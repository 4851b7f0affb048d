//! Places and names in the small kernel.

use std::path::Path;

use super::*;
use crate::testing::*;

#[test]
fn each_address_has_its_place() {
    let map = format!(
        "{MAP}ffffffff81500000 T __indirect_thunk_start\nffffffff81500100 T __indirect_thunk_end\n"
    );
    let layout = try_layout(&map, &[], ENTRY).unwrap();
    let places = [
        (0x40_1000, CodeRegion::User),
        (KERNEL_HALF - 1, CodeRegion::User),
        (KERNEL_HALF, CodeRegion::Kernel),
        (ENTRY, CodeRegion::Entry),
        (ENTRY - 0x40, CodeRegion::Entry),
        (ENTRY - 0x41, CodeRegion::Kernel),
        (ENTRY + 0x1fbf, CodeRegion::Entry),
        (ENTRY + 0x1fc0, CodeRegion::Kernel),
        // Without the slide.
        (ENTRY - SLIDE, CodeRegion::Kernel),
        (NOINSTR, CodeRegion::Noinstr),
        (NOINSTR + 0x1000, CodeRegion::Kernel),
        (WORK, CodeRegion::Kernel),
        (0xffff_ffff_8150_0000 + SLIDE, CodeRegion::Entry),
        (0xffff_ffff_8150_0100 + SLIDE, CodeRegion::Kernel),
        (0xffff_ffff_c000_0000, CodeRegion::Module),
        (0xffff_c900_0000_0000, CodeRegion::Kernel),
    ];
    for (address, place) in places {
        assert_eq!(layout.place(address), place, "{address:#x}");
    }
    assert_eq!(layout.slide(), SLIDE);
    assert_eq!(layout.symbols().address("do_work"), Some(WORK));
    assert_eq!(layout.vmalloc_base(), None);
    let map = format!("{MAP}ffffffff81800020 D vmalloc_base\n");
    let layout = try_layout(&map, &[], ENTRY).unwrap();
    assert_eq!(layout.vmalloc_base(), Some(KEY + 0x20 + SLIDE));
}

#[test]
fn the_flag_is_where_the_kernels_gs_says() {
    let layout = layout();
    let flag = KnownFlag {
        name: "kernel_cr3",
        offset: 0x15000,
    };
    assert_eq!(layout.flag(), Some(flag));
    assert_eq!(layout.flag_address(GS), Some(GS + 0x15000));
    assert_eq!(layout.flag_address(USER_GS), None);

    let upstream = MAP.replace("kernel_cr3", "kernel_cr3_loaded");
    let layout = try_layout(&upstream, &[], ENTRY).unwrap();
    assert_eq!(layout.flag().unwrap().name, "kernel_cr3_loaded");

    let stock = MAP.replace("kernel_cr3", "other");
    let layout = try_layout(&stock, &[], ENTRY).unwrap();
    assert_eq!((layout.flag(), layout.flag_address(GS)), (None, None));
}

#[test]
fn a_flag_linked_at_a_kernel_address_moves_with_kaslr() {
    let map = format!(
        "{}ffffffff82000000 D kernel_cr3\nffffffff82000100 D end\n",
        MAP.replace("kernel_cr3", "other")
    );
    let layout = try_layout(&map, &[], ENTRY).unwrap();
    // Such a kernel's GS has the distance from the linked area to the CPU's.
    let area = 0xffff_8880_3f00_0000_u64;
    let gs = area.wrapping_sub(0xffff_ffff_8200_0000 + SLIDE);
    assert_eq!(layout.flag().unwrap().offset, 0xffff_ffff_8200_0000 + SLIDE);
    assert_eq!(layout.flag_address(gs), Some(area));
}

#[test]
fn addresses_are_named() {
    let layout = layout();
    let names = [
        (WORK, "do_work"),
        (ENTRY + 0x10, "entry_SYSCALL_64+0x10"),
        (KEY + SLIDE + 8, "housekeeping_overridden+0x8"),
        (STACK, "vmalloc 0xffffc90000104000"),
        (0xffff_fe00_0000_2fd0, "entry stack 0xfffffe0000002fd0"),
        (0xffff_ffff_c000_0000, "module 0xffffffffc0000000"),
        (0x1000, "user 0x1000"),
        (KERNEL_HALF, "0xff00000000000000"),
        (GS, "0xffff88803f000000"),
    ];
    for (address, name) in names {
        assert_eq!(layout.describe(address), name);
    }
    let per_cpu = |address, gs| layout.per_cpu(address, gs);
    assert_eq!(per_cpu(GS + 0x6014, GS).as_deref(), Some("cpu_tss_rw+0x14"));
    let lowest = per_cpu(KERNEL_HALF + 0x6000, KERNEL_HALF);
    assert_eq!(lowest.as_deref(), Some("cpu_tss_rw"));
    assert_eq!(per_cpu(USER_GS + 0x6014, USER_GS), None);
    assert_eq!(per_cpu(GS + 0x20000, GS), None);
}

#[test]
fn the_task_stack_is_not_taken_for_other_vmalloc_memory() {
    let mut layout = layout();
    let at = |layout: &KernelLayout, address| {
        (
            layout.is_task_stack(address, STACK),
            layout.is_vmalloc(address, STACK),
        )
    };
    assert_eq!(at(&layout, STACK - 1), (true, false));
    assert_eq!(at(&layout, STACK - 0x4000), (true, false));
    assert_eq!(at(&layout, STACK - 0x4001), (false, true));
    assert_eq!(at(&layout, STACK), (false, true));
    assert_eq!(at(&layout, 0xffff_e8ff_ffff_ffff), (false, true));
    assert_eq!(at(&layout, 0xffff_e900_0000_0000), (false, false));
    layout.thread_size = 32 << 10;
    assert_eq!(at(&layout, STACK - 0x4001), (false, true));
    assert_eq!(at(&layout, STACK + 0x3fff), (true, false));
    layout.thread_size = 0;
    assert_eq!(at(&layout, STACK - 1), (false, true));
    layout.put_vmalloc_at(0xffff_a000_0000_0000);
    assert_eq!(at(&layout, STACK - 1), (false, false));
    assert_eq!(layout.vmalloc, 0xffff_a000_0000_0000..0xffff_c000_0000_0000);
    layout.put_vmalloc_at(0xffa0_0000_0000_0000);
    assert_eq!(layout.vmalloc, 0xffa0_0000_0000_0000..0xffd2_0000_0000_0000);
    layout.put_vmalloc_at(KERNEL_HALF_4_LEVEL);
    assert_eq!(layout.vmalloc, KERNEL_HALF_4_LEVEL..0xffff_a000_0000_0000);
    layout.put_vmalloc_at(u64::MAX);
    assert_eq!(layout.vmalloc, u64::MAX..u64::MAX);
}

#[test]
fn a_kernel_file_that_does_not_fit_is_refused() {
    let message = |map: &str, lstar| try_layout(map, &[], lstar).unwrap_err().to_string();
    assert_eq!(
        message(&MAP.replace("entry_SYSCALL_64", "other"), ENTRY),
        "the kernel file has no symbol `entry_SYSCALL_64`; \
         give the vmlinux, not stripped, of the kernel that runs"
    );
    assert_eq!(
        message(&MAP.replace("__noinstr_text_end", "other"), ENTRY),
        "the kernel file has no symbol `__noinstr_text_end`; \
         give the vmlinux, not stripped, of the kernel that runs"
    );
    for lstar in [ENTRY + 0x40, ENTRY + SLIDE_MAX, ENTRY - 2 * SLIDE, 0] {
        let error = try_layout(MAP, &[], lstar).unwrap_err();
        let linked = ENTRY - SLIDE;
        assert!(
            matches!(error, LayoutError::OtherKernel { lstar: l, linked: at } if (l, at) == (lstar, linked)),
            "{error}"
        );
    }
}

#[test]
fn a_vmlinux_gives_symbols_and_sites_alike() {
    // The program that runs this is an ELF file with symbols, but no kernel's.
    let file = std::env::current_exe().unwrap();
    let image = Image::open(Path::new(&file)).unwrap();
    let error = KernelLayout::new(image, ENTRY).unwrap_err();
    assert!(
        matches!(
            error,
            LayoutError::NoSymbol {
                name: "entry_SYSCALL_64"
            }
        ),
        "{error}"
    );
}
