//! Everything a guest finds in memory and registers before its first instruction.
//!
//! [`load`] puts a kernel, an initramfs, the command line, `struct boot_params`, the MP and ACPI
//! tables, a GDT and page tables into guest memory, following Linux's 64-bit boot protocol
//! (Documentation/arch/x86/boot.rst). [`cpu`] gives the registers to start with.
//!
//! What this crate does not do: touch KVM, map memory, or choose a command line. Files are
//! somebody else's: no number in them is trusted.

#![forbid(unsafe_code)]

pub mod cpu;
pub mod layout;

mod acpi;
mod bzimage;
mod elf;
mod image;
mod initramfs;
mod kernel;
mod mptable;
mod params;

use std::ops::Range;
use std::path::{Path, PathBuf};

use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap};

pub use image::{FirstBytes, KernelFault, KernelFormat};
pub use initramfs::InitramfsFault;

use initramfs::Initramfs;
use kernel::Kernel;

/// What to load.
#[derive(Clone, Copy, Debug)]
pub struct BootPlan<'a> {
    /// An ELF vmlinux or a bzImage.
    pub kernel: &'a Path,
    /// A cpio archive, compressed with anything the kernel can decompress, or not at all.
    pub initramfs: &'a Path,
    /// The kernel command line, without a final NUL.
    pub cmdline: &'a str,
    /// Number of CPUs, 1 to [`ipirig_abi::MAX_CPUS`]. APIC ids are CPU numbers.
    pub cpus: u8,
    /// RAM in MiB, 64 to 3072; `memory` must map all of it from address 0.
    pub memory_mib: u64,
}

/// Where things are after [`load`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Physical address of the kernel's first instruction.
    pub entry: u64,
    /// Physical address of `struct boot_params`.
    pub zero_page: u64,
    /// What the kernel file turned out to be.
    pub format: KernelFormat,
    /// Memory the kernel occupies, or needs until it has unpacked itself.
    pub kernel: Range<u64>,
    /// Memory the initramfs occupies.
    pub initramfs: Range<u64>,
}

/// Why a guest cannot be laid out.
#[derive(Debug, Error)]
pub enum BootError {
    /// The kernel file is no good.
    #[error("cannot boot the kernel {}", path.display())]
    Kernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        fault: KernelFault,
    },
    /// The initramfs file is no good.
    #[error("cannot use the initramfs {}", path.display())]
    Initramfs {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        fault: InitramfsFault,
    },
    /// The command line is too long.
    #[error(
        "the kernel command line has {length} bytes and this kernel takes {limit}; \
         shorten it by {}",
        length - limit
    )]
    CmdlineTooLong {
        /// Its bytes.
        length: usize,
        /// Most bytes, without the final NUL.
        limit: usize,
    },
    /// The command line would end early.
    #[error("the kernel command line has a NUL at byte {position}; remove it")]
    CmdlineNul {
        /// Index of the NUL.
        position: usize,
    },
    /// The number of CPUs is out of range.
    #[error("a guest has 1 to {} CPUs, not {cpus}", layout::MAX_CPUS_U8)]
    Cpus {
        /// The number asked for.
        cpus: u8,
    },
    /// The amount of RAM is out of range.
    #[error(
        "a guest has {} to {} MiB of RAM, not {mib}",
        layout::MIN_MEMORY_MIB,
        layout::MAX_MEMORY_MIB
    )]
    MemorySize {
        /// The amount asked for, in MiB.
        mib: u64,
    },
    /// The caller mapped less RAM than it announced.
    #[error("guest memory does not cover the {mib} MiB of RAM from address 0")]
    MemoryNotMapped {
        /// The amount announced, in MiB.
        mib: u64,
    },
    /// Guest memory refused a write.
    #[error("cannot write the {what} to guest memory")]
    Write {
        /// What was being written.
        what: &'static str,
        /// What guest memory said.
        #[source]
        source: GuestMemoryError,
    },
}

/// Checks that `path` is a kernel that a guest can boot, as far as its headers tell. Cheap: reads
/// a few hundred bytes. Whether it fits into memory shows later.
///
/// # Errors
/// [`BootError::Kernel`] with what is wrong with the file.
pub fn check_kernel(path: &Path) -> Result<KernelFormat, BootError> {
    open_kernel(path).map(|kernel| kernel.image.format)
}

/// Checks that `path` is an initramfs, as far as its first bytes tell.
///
/// # Errors
/// [`BootError::Initramfs`] with what is wrong with the file.
pub fn check_initramfs(path: &Path) -> Result<(), BootError> {
    open_initramfs(path).map(|_| ())
}

fn open_initramfs(path: &Path) -> Result<Initramfs, BootError> {
    Initramfs::open(path).map_err(|fault| BootError::Initramfs {
        path: path.to_path_buf(),
        fault,
    })
}

fn open_kernel(path: &Path) -> Result<Kernel, BootError> {
    Kernel::open(path).map_err(|fault| BootError::Kernel {
        path: path.to_path_buf(),
        fault,
    })
}

/// Lays out a guest in `memory`, which must be all zero.
///
/// # Errors
/// Says which input is at fault: the plan's numbers, the command line, or one of the files. Files
/// are checked before anything is written.
pub fn load(memory: &GuestMemoryMmap, plan: &BootPlan<'_>) -> Result<Loaded, BootError> {
    if !(1..=layout::MAX_CPUS_U8).contains(&plan.cpus) {
        return Err(BootError::Cpus { cpus: plan.cpus });
    }
    let mib = plan.memory_mib;
    if !(layout::MIN_MEMORY_MIB..=layout::MAX_MEMORY_MIB).contains(&mib) {
        return Err(BootError::MemorySize { mib });
    }
    let ram_end = layout::ram_end(mib);
    if !memory.check_range(GuestAddress(0), ram_end as usize) {
        return Err(BootError::MemoryNotMapped { mib });
    }

    let mut kernel = open_kernel(plan.kernel)?;
    let kernel_error = |fault| BootError::Kernel {
        path: plan.kernel.to_path_buf(),
        fault,
    };
    kernel.check_fit(ram_end).map_err(kernel_error)?;
    params::check_cmdline(plan.cmdline, &kernel.image.header)?;
    let initramfs_error = |fault| BootError::Initramfs {
        path: plan.initramfs.to_path_buf(),
        fault,
    };
    let mut initramfs = open_initramfs(plan.initramfs)?;
    let initramfs_range = initramfs
        .place(&kernel.image, ram_end)
        .map_err(initramfs_error)?;

    kernel.load(memory).map_err(kernel_error)?;
    initramfs
        .load(memory, initramfs_range.start)
        .map_err(initramfs_error)?;
    let write = |what| move |source| BootError::Write { what, source };
    let rsdp = acpi::write(memory, plan.cpus).map_err(write("ACPI tables"))?;
    mptable::write(memory, plan.cpus).map_err(write("MP table"))?;
    cpu::write_tables(memory).map_err(write("GDT and page tables"))?;
    params::write_cmdline(memory, plan.cmdline).map_err(write("kernel command line"))?;
    let params = params::boot_params(&kernel.image.header, &initramfs_range, ram_end, rsdp);
    params::write(memory, params).map_err(write("boot parameters"))?;

    Ok(Loaded {
        entry: kernel.image.entry,
        zero_page: layout::ZERO_PAGE,
        format: kernel.image.format,
        kernel: kernel.image.memory,
        initramfs: initramfs_range,
    })
}

#[cfg(test)]
mod tests;
