//! Files to boot, and what comes of the good ones in guest memory.

use std::fs;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use tempfile::TempDir;
use vm_memory::{ByteValued, Bytes};

use super::*;

mod faults;
mod hostile;

/// A directory of files to boot, and 64 MiB to boot them in.
struct Bench {
    dir: TempDir,
    memory: GuestMemoryMmap,
}

const RAM_END: u64 = 64 << 20;

/// What passes for an initramfs of `size` bytes.
fn archive(size: usize) -> Vec<u8> {
    let mut bytes = vec![0xcd; size];
    bytes[..6].copy_from_slice(b"070701");
    bytes
}

impl Bench {
    fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_END as usize)]).unwrap();
        let bench = Self {
            dir: tempfile::tempdir().unwrap(),
            memory,
        };
        fs::write(bench.path("initramfs"), archive(0x1801)).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn check(&self, kernel: &[u8]) -> Result<KernelFormat, BootError> {
        fs::write(self.path("kernel"), kernel).unwrap();
        check_kernel(&self.path("kernel"))
    }

    fn load(&self, kernel: &[u8]) -> Result<Loaded, BootError> {
        self.load_with(kernel, |_| {})
    }

    fn load_with(
        &self,
        kernel: &[u8],
        change: impl FnOnce(&mut BootPlan<'_>),
    ) -> Result<Loaded, BootError> {
        fs::write(self.path("kernel"), kernel).unwrap();
        let (kernel, initramfs) = (self.path("kernel"), self.path("initramfs"));
        let mut plan = BootPlan {
            kernel: &kernel,
            initramfs: &initramfs,
            cmdline: "console=ttyS0 pti=on",
            cpus: 2,
            memory_mib: 64,
        };
        change(&mut plan);
        load(&self.memory, &plan)
    }

    fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    fn params(&self) -> boot_params {
        self.memory.read_obj(GuestAddress(0x7000)).unwrap()
    }
}

/// The error without the path in front, so that one line tells all.
fn fault<T: std::fmt::Debug>(result: Result<T, BootError>) -> String {
    match result.unwrap_err() {
        BootError::Kernel { fault, .. } => fault.to_string(),
        BootError::Initramfs { fault, .. } => fault.to_string(),
        other => other.to_string(),
    }
}

const LOAD: u32 = 1;
const INTERP: u32 = 3;
const NOTE: u32 = 4;

/// A program header's fields that matter here.
#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: u32,
    offset: u64,
    virt: u64,
    phys: u64,
    file_size: u64,
    memory_size: u64,
}

/// 0x300 bytes from 0x1000 of the file at 16 MiB, with 0x500 bytes of memory.
const TEXT: Segment = Segment {
    kind: LOAD,
    offset: 0x1000,
    virt: 0xffff_ffff_8100_0000,
    phys: 0x100_0000,
    file_size: 0x300,
    memory_size: 0x500,
};

/// An ELF file: headers, zeros to 0x1000, then bytes 0xab up to 0x1800.
fn elf(entry: u64, segments: &[Segment]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]); // executable, x86-64, version
    file.extend(entry.to_le_bytes());
    file.extend(64_u64.to_le_bytes()); // program headers
    file.extend(0_u64.to_le_bytes()); // no sections
    file.extend(0_u32.to_le_bytes());
    file.extend([64, 0, 56, 0]);
    file.extend((segments.len() as u16).to_le_bytes());
    file.extend([0; 6]);
    for segment in segments {
        file.extend(segment.kind.to_le_bytes());
        file.extend(5_u32.to_le_bytes());
        for field in [
            segment.offset,
            segment.virt,
            segment.phys,
            segment.file_size,
            segment.memory_size,
            0x1000,
        ] {
            file.extend(field.to_le_bytes());
        }
    }
    file.resize(0x1000, 0);
    file.resize(0x1800, 0xab);
    file
}

fn vmlinux() -> Vec<u8> {
    elf(0x100_0000, &[TEXT])
}

fn bzimage_header() -> setup_header {
    setup_header {
        setup_sects: 1,
        syssize: 0x30, // 0x300 bytes
        boot_flag: 0xaa55,
        jump: 0x6aeb, // to 0x26c, the end of the header
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x20f,
        loadflags: 1,
        code32_start: 0x10_0000,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x20_0000,
        relocatable_kernel: 1,
        xloadflags: 1,
        cmdline_size: 2047,
        pref_address: 0x100_0000,
        init_size: 0x10_0000,
        kernel_info_offset: 0x1234,
        ..Default::default()
    }
}

fn bzimage_from(header: &setup_header) -> Vec<u8> {
    let mut file = vec![0x11; 0x1f1];
    file.extend(header.as_slice());
    file.resize(0x400, 0x11);
    file.resize(0x700, 0xab);
    file
}

fn bzimage(change: impl FnOnce(&mut setup_header)) -> Vec<u8> {
    let mut header = bzimage_header();
    change(&mut header);
    bzimage_from(&header)
}

#[test]
fn a_vmlinux_lands_at_its_physical_addresses() {
    let bench = Bench::new();
    let loaded = bench.load(&elf(0x100_0010, &[TEXT])).unwrap();
    let expected = Loaded {
        entry: 0x100_0010,
        zero_page: 0x7000,
        format: KernelFormat::Elf,
        kernel: 0x100_0000..0x100_0500,
        initramfs: 0x3ff_e000..0x3ff_f801,
    };
    assert_eq!(loaded, expected);
    let mut memory = vec![0xab; 0x300];
    memory.resize(0x500, 0);
    assert_eq!(bench.bytes(0x100_0000, 0x500), memory);
    assert_eq!(
        bench.bytes(0x3ff_e000, 0x1802),
        [archive(0x1801), vec![0]].concat()
    );
    assert_eq!(bench.bytes(0x2_0000, 22), b"console=ttyS0 pti=on\0\0");
    assert_eq!(bench.bytes(0xe_0000, 8), b"RSD PTR ");
    assert_eq!(bench.bytes(0x9_fc00, 4), b"_MP_");
    assert_eq!(bench.bytes(0x9000, 2), [0x03, 0xa0]);
}

#[test]
fn a_bzimage_lands_at_its_preferred_address_and_is_entered_at_0x200() {
    let bench = Bench::new();
    let loaded = bench.load(&bzimage(|_| {})).unwrap();
    let expected = Loaded {
        entry: 0x100_0200,
        zero_page: 0x7000,
        format: KernelFormat::BzImage,
        kernel: 0x100_0000..0x110_0000,
        initramfs: 0x3ff_e000..0x3ff_f801,
    };
    assert_eq!(loaded, expected);
    assert_eq!(
        bench.bytes(0x100_0000, 0x301),
        [vec![0xab; 0x300], vec![0]].concat()
    );
}

fn expected_params(hdr: setup_header) -> boot_params {
    let mut params = boot_params {
        hdr,
        acpi_rsdp_addr: 0xe_0000,
        ..Default::default()
    };
    params.hdr.type_of_loader = 0xff;
    params.hdr.cmd_line_ptr = 0x2_0000;
    params.hdr.ramdisk_image = 0x3ff_e000;
    params.hdr.ramdisk_size = 0x1801;
    params.e820_entries = 3;
    params.e820_table[0] = boot_e820_entry {
        addr: 0,
        size: 0x9_fc00,
        r#type: 1,
    };
    params.e820_table[1] = boot_e820_entry {
        addr: 0x9_fc00,
        size: 0x6_0400,
        r#type: 2,
    };
    params.e820_table[2] = boot_e820_entry {
        addr: 0x10_0000,
        size: 0x3f0_0000,
        r#type: 1,
    };
    params
}

#[test]
fn a_vmlinux_gets_boot_params_with_a_made_up_header() {
    let bench = Bench::new();
    bench.load(&vmlinux()).unwrap();
    let expected = expected_params(setup_header {
        boot_flag: 0xaa55,
        header: 0x5372_6448,
        version: 0x20c,
        loadflags: 1,
        xloadflags: 1,
        kernel_alignment: 0x100_0000,
        initrd_addr_max: 0x7fff_ffff,
        cmdline_size: 2047,
        ..Default::default()
    });
    assert!(bench.params() == expected, "{:?}", bench.params().hdr);
}

#[test]
fn a_bzimage_gets_boot_params_with_its_own_header() {
    let bench = Bench::new();
    bench.load(&bzimage(|_| {})).unwrap();
    assert!(
        bench.params() == expected_params(bzimage_header()),
        "{:?}",
        bench.params().hdr
    );
}

#[test]
fn what_follows_a_short_setup_header_is_not_taken_for_fields() {
    let bench = Bench::new();
    // Ends before kernel_info_offset, as in protocol 2.14 and before.
    bench.load(&bzimage(|header| header.jump = 0x66eb)).unwrap();
    let mut header = bzimage_header();
    header.jump = 0x66eb;
    header.kernel_info_offset = 0;
    assert!(
        bench.params() == expected_params(header),
        "{:?}",
        bench.params().hdr
    );
}
