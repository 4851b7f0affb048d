//! What this host offers, found by asking KVM and by running probe guests.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kvm_bindings::CpuId;
use kvm_ioctls::{Cap, Kvm};
use schemars::JsonSchema;
use serde::Serialize;
use thiserror::Error;
use vmm_sys_util::errno;

use crate::affinity;
use crate::assist::{CROWD, QUIRKS, Remedy};
use crate::probe::{Outcome, ProbeError, Prober};
use crate::snapshot::RegisterList;
use crate::sys;
use crate::vm;

mod acceleration;
mod debug;
mod emulation;

use emulation::Signs;

pub use debug::{GuestDebug, Levels};

const DEVICE: &str = "/dev/kvm";
/// The only API version there has been since 2007 (KVM API 4.1).
const API_VERSION: i32 = 12;

/// Where sysfs is (proc(5), Documentation/filesystems/sysfs.rst).
const SYSFS: &str = "/sys";

/// Why no machine can run here.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HostError {
    /// There is no KVM.
    #[error("{} does not exist", path.display())]
    NoKvm {
        /// The device.
        path: PathBuf,
    },
    /// KVM may not be used.
    #[error("no right to use {}", path.display())]
    NotAllowed {
        /// The device.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// KVM could not be opened for another reason.
    #[error("cannot open {}", path.display())]
    Open {
        /// The device.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Something that calls itself KVM is not.
    #[error("{} has API version {version}, not {API_VERSION}", path.display())]
    Version {
        /// The device.
        path: PathBuf,
        /// What it says.
        version: i32,
    },
    /// KVM lacks a capability that there is no way round.
    #[error("this host's KVM lacks {capability}")]
    Missing {
        /// Its name in the KVM API.
        capability: &'static str,
    },
    /// A KVM ioctl failed.
    #[error("{ioctl} failed")]
    Kvm {
        /// The ioctl.
        ioctl: &'static str,
        /// Its error.
        #[source]
        source: errno::Error,
    },
    /// A probe guest could not be run.
    #[error("cannot probe \"{what}\"")]
    Probe {
        /// What was to be found out.
        what: &'static str,
        /// Why not.
        #[source]
        source: ProbeError,
    },
    /// The cores this process may use cannot be read.
    #[error("cannot read which cores this process may use")]
    Cores(#[source] io::Error),
}

impl HostError {
    /// What a person can do about it.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::NoKvm { .. } => Some(
                "load the module (modprobe kvm_intel or kvm_amd), turn on virtualisation in the \
                 firmware, or, in a virtual machine or container, ask for /dev/kvm; without any, \
                 `ipirig lab -- run static-key-flip` runs on an emulated host with SVM",
            ),
            Self::NotAllowed { .. } => Some(
                "join its group (usermod -aG kvm $USER, then log in again), or run as root; \
                     without either, `ipirig lab -- run static-key-flip` runs on an emulated host \
                     with SVM",
            ),
            Self::Missing { .. } | Self::Version { .. } => Some("use Linux 5.10 or later"),
            _ => None,
        }
    }
}

/// How this CPU virtualises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Virtualization {
    /// Intel's.
    Vmx,
    /// AMD's.
    Svm,
    /// Neither: KVM, if it is there, emulates the guest kernel.
    None,
}

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[non_exhaustive]
pub struct ProbeResult {
    /// Short name.
    pub name: &'static str,
    /// What was tried.
    pub what: &'static str,
    /// What happened.
    pub finding: String,
    /// What the machine does about it; `None` where all is well.
    pub assist: Option<&'static str>,
}

/// What KVM is to leave in `kvm_run` at an exit (KVM API 5).
const SYNC: u32 = kvm_bindings::KVM_SYNC_X86_REGS | kvm_bindings::KVM_SYNC_X86_SREGS;

/// What this host is and does.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[non_exhaustive]
pub struct HostFacts {
    /// `KVM_GET_API_VERSION`.
    pub api_version: i32,
    /// Hardware support.
    pub virtualization: Virtualization,
    /// CPU vendor, as in /proc/cpuinfo.
    pub vendor: String,
    /// CPU model, as in /proc/cpuinfo.
    pub model: String,
    /// Kernel release.
    pub kernel: String,
    /// Cores this process may use.
    pub cores: Vec<usize>,
    /// The guests' TSC frequency in kHz, 0 if KVM does not say.
    pub tsc_khz: u32,
    /// x2APIC registers come to user space.
    pub x2apic: bool,
    /// Writes of IA32_TSC_DEADLINE come to user space. On some hosts a fast path takes them first.
    pub tsc_deadline: bool,
    /// KVM refuses paravirtual features that CPUID does not offer.
    pub enforce_pv: bool,
    /// What of guest debugging works.
    pub debug: GuestDebug,
    /// By what it is known that the host's own CPU is emulated, in words that follow "the host is
    /// emulated": no time that is measured says anything of a CPU then. `None`: nothing says so.
    pub emulated: Option<String>,
    /// Parameters of KVM's modules by which hardware delivers IPIs without KVM, those that are on, as in
    /// `kvm_amd.avic`.
    pub ipis_past_kvm: Vec<String>,
    /// KVM can be made to deliver all IPIs of one machine itself.
    pub inhibits_acceleration: bool,
    /// The system calls of a thread can be filtered.
    pub sandbox: bool,
    /// The quirks looked for, and what was found.
    pub probes: Vec<ProbeResult>,
}

impl HostFacts {
    /// The guests' TSC frequency in kHz, if they are to have the TSC-deadline timer: where its MSR comes to user space.
    /// Without the mode Linux has to calibrate the APIC timer against the TSC's frequency, by CPUID leaf 0x15 on Intel; on
    /// others it looks for a PIT (`apic_needs_pit`), unless ACPI tells it that there is none.
    #[must_use]
    pub fn tsc_deadline_khz(&self) -> Option<u32> {
        (self.tsc_deadline && self.tsc_khz != 0).then_some(self.tsc_khz)
    }
}

/// A host that can run machines.
#[derive(Debug)]
pub struct Host {
    facts: HostFacts,
    pub(crate) kvm: Kvm,
    /// `KVM_GET_SUPPORTED_CPUID`.
    pub(crate) supported: CpuId,
    pub(crate) remedies: Vec<Remedy>,
    /// KVM leaves general and system registers in `kvm_run` (`KVM_SYNC_X86_REGS`, `KVM_SYNC_X86_SREGS`).
    pub(crate) sync_regs: bool,
    /// What makes up a vCPU's state.
    pub(crate) registers: RegisterList,
}

impl Host {
    /// Opens KVM and probes it. Takes tens of milliseconds.
    ///
    /// # Errors
    /// No KVM, no rights, a KVM too old, or a probe that could not be run. A probe that finds a
    /// quirk is not an error.
    pub fn probe() -> Result<Self, HostError> {
        let kvm = open()?;
        for (cap, capability) in [
            (Cap::X86UserSpaceMsr, "KVM_CAP_X86_USER_SPACE_MSR"),
            (Cap::X86MsrFilter, "KVM_CAP_X86_MSR_FILTER"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
            (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
            (Cap::IoeventfdNoLength, "KVM_CAP_IOEVENTFD_NO_LENGTH"),
            (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
        ] {
            if !kvm.check_extension(cap) {
                return Err(HostError::Missing { capability });
            }
        }
        let prober = Prober::new(&kvm).map_err(|source| HostError::Probe {
            what: "KVM",
            source,
        })?;
        let mut probes = vec![];
        let mut remedies = vec![];
        for quirk in QUIRKS {
            let finding = (quirk.probe)(&prober).map_err(|source| HostError::Probe {
                what: quirk.what,
                source,
            })?;
            probes.push(ProbeResult {
                name: quirk.name,
                what: quirk.what,
                finding: finding.text,
                assist: finding.remedy.as_ref().map(|remedy| remedy.text),
            });
            remedies.extend(finding.remedy);
        }
        let x2apic = x2apic(&prober).map_err(|source| HostError::Probe {
            what: "x2APIC registers",
            source,
        })?;
        let tsc_deadline = tsc_deadline(&prober).map_err(|source| HostError::Probe {
            what: "TSC-deadline writes",
            source,
        })?;
        let debug = prober.guest_debug().map_err(|source| HostError::Probe {
            what: "breakpoints and single-steps",
            source,
        })?;
        let speed = prober.speed().map_err(|source| HostError::Probe {
            what: "speed",
            source,
        })?;
        let supported = prober.into_supported_cpuid();
        let sync_regs = u32::try_from(kvm.check_extension_int(Cap::SyncRegs))
            .is_ok_and(|which| which & SYNC == SYNC);
        let listed = kvm
            .get_msr_index_list()
            .map_err(|source| HostError::Kvm {
                ioctl: "KVM_GET_MSR_INDEX_LIST",
                source,
            })?
            .as_slice()
            .to_vec();
        let xsave_bytes = usize::try_from(kvm.check_extension_int(Cap::Xsave2)).unwrap_or(0);
        let registers = RegisterList {
            listed,
            xsave_bytes: (xsave_bytes > 0).then_some(xsave_bytes),
        };
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo_field(&cpuinfo, "model name");
        let sysfs = Path::new(SYSFS);
        let emulated = emulation::emulated(&Signs {
            hypervisor: sys::hypervisor(),
            model: &model,
            virtual_machine: has_flag(&cpuinfo, "hypervisor"),
            sysfs,
            speed: speed.ok(),
        });
        let facts = HostFacts {
            api_version: kvm.get_api_version(),
            virtualization: virtualization(&cpuinfo),
            vendor: cpuinfo_field(&cpuinfo, "vendor_id"),
            model,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            sandbox: ipirig_sandbox::available(),
            cores: affinity::usable_cores().map_err(HostError::Cores)?,
            tsc_khz: tsc_khz(&kvm)?,
            x2apic,
            tsc_deadline,
            enforce_pv: kvm
                .check_extension_raw(u64::from(kvm_bindings::KVM_CAP_ENFORCE_PV_FEATURE_CPUID))
                > 0,
            debug,
            emulated,
            ipis_past_kvm: acceleration::accelerated_by(sysfs),
            inhibits_acceleration: acceleration::can_block(&kvm),
            probes,
        };
        Ok(Self {
            facts,
            kvm,
            supported,
            remedies,
            sync_regs,
            registers,
        })
    }

    /// What was found.
    #[must_use]
    pub fn facts(&self) -> &HostFacts {
        &self.facts
    }

    /// Kernel parameters that this host's quirks need in a machine of `vcpus` vCPUs, space separated;
    /// none on most hosts.
    #[must_use]
    pub fn cmdline(&self, vcpus: usize) -> String {
        parameters(&self.remedies, vcpus)
    }
}

fn parameters(remedies: &[Remedy], vcpus: usize) -> String {
    let words = remedies.iter().flat_map(|remedy| {
        let crowded = if vcpus > CROWD { remedy.crowded } else { "" };
        [remedy.cmdline.as_str(), crowded]
    });
    let words: Vec<&str> = words.filter(|words| !words.is_empty()).collect();
    words.join(" ")
}

fn open() -> Result<Kvm, HostError> {
    let path = PathBuf::from(DEVICE);
    let kvm = Kvm::new().map_err(|error| {
        let source = io::Error::from_raw_os_error(error.errno());
        match source.kind() {
            io::ErrorKind::NotFound => HostError::NoKvm { path: path.clone() },
            io::ErrorKind::PermissionDenied => HostError::NotAllowed {
                path: path.clone(),
                source,
            },
            _ => HostError::Open {
                path: path.clone(),
                source,
            },
        }
    })?;
    match kvm.get_api_version() {
        API_VERSION => Ok(kvm),
        version => Err(HostError::Version { path, version }),
    }
}

/// Whether reads and writes of x2APIC registers come to user space. KVM's documentation promises
/// no such thing without an in-kernel APIC (KVM API 4.46), so it is tried.
fn x2apic(prober: &Prober<'_>) -> Result<bool, ProbeError> {
    // mov ecx, 0x802; rdmsr, the APIC id.
    let read = prober.ring0(&[0xb9, 0x02, 0x08, 0x00, 0x00, 0x0f, 0x32])?;
    // xor eax, eax; xor edx, edx; mov ecx, 0x830; wrmsr, the ICR.
    let write = prober.ring0(&[
        0x31, 0xc0, 0x31, 0xd2, 0xb9, 0x30, 0x08, 0x00, 0x00, 0x0f, 0x30,
    ])?;
    Ok(read
        == Outcome::Msr {
            index: 0x802,
            invalid: true,
        }
        && write
            == Outcome::Msr {
                index: 0x830,
                invalid: true,
            })
}

/// Whether the MSR filter brings writes of IA32_TSC_DEADLINE to user space.
fn tsc_deadline(prober: &Prober<'_>) -> Result<bool, ProbeError> {
    // xor eax, eax; xor edx, edx; mov ecx, 0x6e0; wrmsr.
    let write = prober.ring0(&[
        0x31, 0xc0, 0x31, 0xd2, 0xb9, 0xe0, 0x06, 0x00, 0x00, 0x0f, 0x30,
    ])?;
    Ok(write
        == Outcome::Msr {
            index: vm::TSC_DEADLINE,
            invalid: false,
        })
}

/// The TSC frequency of a fresh vCPU: the guests' own.
fn tsc_khz(kvm: &Kvm) -> Result<u32, HostError> {
    let failed = |ioctl| move |source| HostError::Kvm { ioctl, source };
    let vm = kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
    let vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
    // Unknown on hosts with an unstable TSC; the guest then calibrates for itself.
    Ok(vcpu.get_tsc_khz().unwrap_or(0))
}

/// The first value of a field of /proc/cpuinfo; empty if there is none.
pub(crate) fn cpuinfo_field(cpuinfo: &str, name: &str) -> String {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}

fn virtualization(cpuinfo: &str) -> Virtualization {
    if has_flag(cpuinfo, "vmx") {
        Virtualization::Vmx
    } else if has_flag(cpuinfo, "svm") {
        Virtualization::Svm
    } else {
        Virtualization::None
    }
}

fn has_flag(cpuinfo: &str, flag: &str) -> bool {
    let flags = cpuinfo_field(cpuinfo, "flags");
    flags.split_ascii_whitespace().any(|word| word == flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowded_machine_has_more_parameters() {
        let remedies = [("", ""), ("a=1 b", "c"), ("d", "")].map(|(cmdline, crowded)| Remedy {
            cmdline: cmdline.to_owned(),
            crowded,
            ..Remedy::default()
        });
        assert_eq!(parameters(&remedies, CROWD), "a=1 b d");
        assert_eq!(parameters(&remedies, CROWD + 1), "a=1 b c d");
    }

    #[test]
    fn who_has_no_kvm_or_no_right_to_it_is_told_of_the_emulated_host() {
        let path = || PathBuf::from(DEVICE);
        let denied = HostError::NotAllowed {
            path: path(),
            source: io::ErrorKind::PermissionDenied.into(),
        };
        for error in [HostError::NoKvm { path: path() }, denied] {
            let advice = error.advice().unwrap();
            assert!(
                advice.contains("`ipirig lab -- run static-key-flip`"),
                "{advice}"
            );
        }
    }

    #[test]
    fn cpuinfo_says_what_virtualises() {
        let info = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vmx sse\n";
        assert_eq!(virtualization(info), Virtualization::Vmx);
        assert_eq!(cpuinfo_field(info, "vendor_id"), "GenuineIntel");
        assert_eq!(virtualization("flags : fpu svm"), Virtualization::Svm);
        assert_eq!(virtualization("flags : fpu svm_lock"), Virtualization::None);
        assert_eq!(virtualization(""), Virtualization::None);
    }
}
