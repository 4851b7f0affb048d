//! What can go wrong with a machine.

use std::io;
use std::path::PathBuf;

use ipirig_abi::MAX_CPUS;
use ipirig_sandbox::SandboxError;
use thiserror::Error;
use vmm_sys_util::errno;

use crate::cpuid::CpuidError;
use crate::kvm_events::KvmEventsError;
use crate::memory::MemoryError;
use crate::placement::PlacementError;
use crate::snapshot::SnapshotError;
use ipirig_boot::BootError;

/// Why a machine could not be made or started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MachineError {
    /// The number of vCPUs is out of range.
    #[error("{0} vCPUs asked for; a machine has 1 to {MAX_CPUS}")]
    Cpus(usize),
    /// The kernel, the initramfs or the command line cannot be booted.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The vCPUs cannot be placed as asked.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// No memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// x2APIC was asked for by name.
    #[error("this host's KVM does not bring x2APIC registers to user space; use --apic xapic")]
    NoX2apic,
    /// The CPUID table does not fit.
    #[error(transparent)]
    Cpuid(#[from] CpuidError),
    /// The console's log cannot be written.
    #[error("cannot create the console log {}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The threads of vCPUs cannot be confined, and were to be.
    #[error("cannot confine the threads of vCPUs; --no-sandbox does without")]
    Sandbox(#[from] SandboxError),
    /// A vCPU does not answer: there is none of that number, or the machine stopped.
    #[error("vCPU {0} does not answer")]
    NoAnswer(usize),
    /// A guest kernel cannot be stopped at an instruction here: what KVM has not.
    #[error("this host's KVM {0}")]
    NoStopping(String),
    /// Hardware delivers IPIs past KVM's own APICs, and KVM cannot be made to deliver them itself.
    #[error(
        "hardware delivers IPIs past KVM's own APICs here ({}), and this KVM cannot be made to deliver \
         them for one machine: load the module with {}=0, or do without --apic kernel",
        parameters.join(", "),
        parameters.join("=0 ")
    )]
    IpisPastKvm {
        /// The modules' parameters that are on.
        parameters: Vec<String>,
    },
    /// There are four debug registers.
    #[error("vCPU {0} has more addresses to stop at than debug registers")]
    TooManyStops(usize),
    /// A snapshot cannot be written or gone on from.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// KVM's own APICs cannot be watched.
    #[error(transparent)]
    KvmEvents(#[from] KvmEventsError),
    /// A KVM ioctl failed.
    #[error("{ioctl} failed")]
    Kvm {
        /// The ioctl.
        ioctl: &'static str,
        /// Its error.
        #[source]
        source: errno::Error,
    },
    /// A host facility failed.
    #[error("{what} failed")]
    Host {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl MachineError {
    /// Whether what the user gave is at fault, rather than the host.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Cpus(_) | Self::Boot(_) | Self::Placement(_) | Self::Log { .. }
        )
    }

    /// Whether the host lacks what is asked of it, so that nothing failed and nothing can be said.
    #[must_use]
    pub fn is_lack(&self) -> bool {
        matches!(
            self,
            Self::NoX2apic | Self::NoStopping(_) | Self::KvmEvents(_) | Self::IpisPastKvm { .. }
        )
    }
}

pub(crate) fn failed(ioctl: &'static str) -> impl FnOnce(errno::Error) -> MachineError {
    move |source| MachineError::Kvm { ioctl, source }
}

pub(super) fn host(what: &'static str) -> impl FnOnce(io::Error) -> MachineError {
    move |source| MachineError::Host { what, source }
}
