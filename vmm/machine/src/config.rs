//! What a machine is made of.

use std::path::PathBuf;

use ipirig_abi::Role;

use crate::console::ConsoleSinks;

/// Which face of the APIC the guest gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ApicMode {
    /// x2APIC where this host brings its registers to user space, else xAPIC.
    #[default]
    Auto,
    /// The memory-mapped one; x2APIC is not offered.
    Xapic,
    /// x2APIC, or an error where the host cannot.
    X2apic,
    /// KVM's own APICs, with x2APIC offered. No observer hears of an IPI or an interrupt then; timers
    /// are KVM's as well, and cannot be spaced or asked for. Such a machine cannot be saved.
    Kernel,
}

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// One role a vCPU, by vCPU number: 1 to [`ipirig_abi::MAX_CPUS`]. They decide the placement
    /// and go into the mailbox.
    pub roles: Vec<Role>,
    /// RAM in MiB, 64 to 3072.
    pub memory_mib: u64,
    /// An ELF vmlinux or a bzImage.
    pub kernel: PathBuf,
    /// A vmlinux or System.map of the same build, for names in a report; `None`: `kernel`.
    pub symbols: Option<PathBuf>,
    /// A cpio archive that the kernel can unpack.
    pub initramfs: PathBuf,
    /// The kernel command line; what the host's quirks need is added to it.
    pub cmdline: String,
    /// The APIC's face.
    pub apic: ApicMode,
    /// A host core for each vCPU; `None` chooses.
    pub pin: Option<Vec<usize>>,
    /// The vCPUs' threads may make those system calls only that they need, where the host's kernel can see to it
    /// ([`crate::HostFacts::sandbox`]).
    pub sandbox: bool,
    /// Where console output goes.
    pub console: ConsoleSinks,
}
