//! Probe guests: a few instructions each, run on a virtual machine of their own, to find out what
//! this host's KVM does with them.

use std::cell::OnceCell;
use std::fmt;
use std::io;

use ipirig_kick::{Kicker, NoExit};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Kvm, MsrExitReason, VcpuExit, VcpuFd, VmFd};
use thiserror::Error;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::errno;

use crate::clock;
use crate::feature::{CpuidRegisters, Feature};
use crate::memory::{self, MemoryError};
use crate::msr;
use crate::sys;
use crate::timer::KickTimer;
use crate::vm::{self, Apics};

mod debug;
mod layout;
mod speed;

pub(crate) use speed::Speed;

pub(crate) use layout::{IDLE_TSS, TSS};

use layout::{CODE, LSTAR_CODE, MEMORY};

/// Longest a probe may run; they take microseconds.
const PATIENCE_NS: u64 = 2_000_000_000;

/// Why a probe could not be made. What the guest did is an outcome, not an error.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// A KVM ioctl failed.
    #[error("{ioctl} failed in a probe guest")]
    Kvm {
        /// The ioctl.
        ioctl: &'static str,
        /// Its error.
        #[source]
        source: errno::Error,
    },
    /// The probe guest's memory could not be had.
    #[error("no memory for a probe guest")]
    Memory(#[source] MemoryError),
    /// A timer or a signal handler could not be had.
    #[error("no watchdog for a probe guest")]
    Watchdog(#[source] io::Error),
}

fn kvm(ioctl: &'static str) -> impl FnOnce(errno::Error) -> ProbeError {
    move |source| ProbeError::Kvm { ioctl, source }
}

/// How a probe guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It ran to its HLT.
    Halted,
    /// The guest's handler of this vector ran.
    Vector(u8),
    /// KVM could not emulate these bytes.
    NotEmulated(Vec<u8>),
    /// An MSR access came to user space, for a reason of `KVM_MSR_EXIT_REASON_*`.
    Msr { index: u32, invalid: bool },
    /// A debug exit.
    Debug,
    /// Triple fault.
    TripleFault,
    /// It did not end in time.
    TimedOut,
    /// Anything else.
    Other(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Halted => f.write_str("it ran to its end"),
            Self::Vector(vector) => write!(f, "the guest took exception {vector}"),
            Self::NotEmulated(bytes) => {
                f.write_str("KVM cannot emulate it (")?;
                for (index, byte) in bytes.iter().take(4).enumerate() {
                    write!(f, "{}{byte:02x}", if index == 0 { "" } else { " " })?;
                }
                f.write_str(" ...)")
            }
            Self::Msr { index, .. } => write!(f, "an access to MSR {index:#x} came to user space"),
            Self::Debug => f.write_str("a debug exit"),
            Self::TripleFault => f.write_str("the guest took a triple fault"),
            Self::TimedOut => f.write_str("the guest did not end in time"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// Runs probe guests, each on a fresh virtual machine.
#[derive(Debug)]
pub(crate) struct Prober<'a> {
    kvm: &'a Kvm,
    cpuid: CpuId,
    /// What [`Prober::speed`] has found.
    speed: OnceCell<Result<Speed, Outcome>>,
}

impl<'a> Prober<'a> {
    pub(crate) fn new(kvm_fd: &'a Kvm) -> Result<Self, ProbeError> {
        ipirig_kick::install().map_err(ProbeError::Watchdog)?;
        let cpuid = kvm_fd
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(kvm("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(Self {
            kvm: kvm_fd,
            cpuid,
            speed: OnceCell::new(),
        })
    }

    /// What KVM supports, for the guests to come.
    pub(crate) fn into_supported_cpuid(self) -> CpuId {
        self.cpuid
    }

    /// Runs `code` in 64-bit CPL 0, followed by HLT.
    pub(crate) fn ring0(&self, code: &[u8]) -> Result<Outcome, ProbeError> {
        self.guest(code)?.run()
    }

    /// What [`Prober::ring0`] would run, ready to, so that setting it up is not timed.
    fn prepare_ring0(&self, code: &[u8]) -> Result<Guest, ProbeError> {
        self.guest(code)
    }

    /// `code` in 64-bit CPL 3, followed by HLT, which raises #GP there.
    fn prepare_ring3(&self, code: &[u8]) -> Result<Guest, ProbeError> {
        let guest = self.guest(code)?;
        layout::enter_ring3(&guest.vcpu).map_err(kvm("KVM_SET_SREGS"))?;
        Ok(guest)
    }

    /// Runs SYSCALL in CPL 3 with LSTAR at a HLT.
    pub(crate) fn syscall_from_ring3(&self) -> Result<Outcome, ProbeError> {
        self.prepare_syscall()?.run()
    }

    /// Writes `value` to the port of vectors in CPL 3, which the map of a TSS of type `tss` permits: if it is written, it
    /// is the outcome's vector.
    pub(crate) fn out_from_ring3(&self, value: u8, tss: u8) -> Result<Outcome, ProbeError> {
        // mov al, value; out VECTOR_PORT, al
        let mut guest = self.prepare_ring3(&[0xb0, value, 0xe6, layout::VECTOR_PORT as u8])?;
        layout::set_tss(&guest.vcpu, tss).map_err(kvm("KVM_SET_SREGS"))?;
        guest.run()
    }

    fn prepare_syscall(&self) -> Result<Guest, ProbeError> {
        const SYSCALL: &[u8] = &[0x0f, 0x05];
        let guest = self.prepare_ring3(SYSCALL)?;
        let star = u64::from(layout::KERNEL_CS) << 32 | u64::from(layout::USER_CS - 16) << 48;
        for (index, value) in [(msr::STAR, star), (msr::LSTAR, LSTAR_CODE), (msr::FMASK, 0)] {
            msr::set(&guest.vcpu, index, value).map_err(kvm("KVM_SET_MSRS"))?;
        }
        Ok(guest)
    }

    /// Whether guests that get all that KVM supports see `feature`, by a CPUID of theirs: some KVMs show
    /// them more than `KVM_GET_SUPPORTED_CPUID` has.
    pub(crate) fn offers(&self, feature: Feature) -> Result<bool, ProbeError> {
        Ok(feature.is_set(self.cpuid_in_guest(feature.leaf, feature.subleaf)?))
    }

    /// What CPUID returns in CPL 0; zeroes, as for a leaf that there is not, if it does not execute.
    fn cpuid_in_guest(&self, leaf: u32, subleaf: u32) -> Result<CpuidRegisters, ProbeError> {
        // mov eax, leaf; mov ecx, subleaf; cpuid.
        let mut code = [0xb8, 0, 0, 0, 0, 0xb9, 0, 0, 0, 0, 0x0f, 0xa2];
        code[1..5].copy_from_slice(&leaf.to_le_bytes());
        code[6..10].copy_from_slice(&subleaf.to_le_bytes());
        let mut guest = self.guest(&code)?;
        if guest.run()? != Outcome::Halted {
            return Ok(CpuidRegisters::default());
        }
        let regs = guest.vcpu.get_regs().map_err(kvm("KVM_GET_REGS"))?;
        // The upper halves are zero (SDM vol. 2, CPUID).
        let [eax, ebx, ecx, edx] = [regs.rax, regs.rbx, regs.rcx, regs.rdx].map(|r| r as u32);
        Ok(CpuidRegisters { eax, ebx, ecx, edx })
    }

    /// Sets a guest's TSC, runs the guest, and tells what its TSC is then.
    pub(crate) fn set_tsc(&self, value: u64) -> Result<u64, ProbeError> {
        let mut guest = self.guest(&[])?;
        msr::set(&guest.vcpu, msr::TSC, value).map_err(kvm("KVM_SET_MSRS"))?;
        guest.run()?;
        msr::read(&guest.vcpu, msr::TSC).map_err(kvm("KVM_GET_MSRS"))
    }

    fn guest(&self, code: &[u8]) -> Result<Guest, ProbeError> {
        let vm = vm::create(self.kvm, &[], Apics::User)
            .map_err(|(ioctl, source)| ProbeError::Kvm { ioctl, source })?;
        let memory = memory::ram(MEMORY).map_err(ProbeError::Memory)?;
        memory::map(&vm, 0, &memory).map_err(ProbeError::Memory)?;
        let mut vcpu = vm.create_vcpu(0).map_err(kvm("KVM_CREATE_VCPU"))?;
        vcpu.set_cpuid2(&self.cpuid)
            .map_err(kvm("KVM_SET_CPUID2"))?;
        layout::write(&memory, code);
        layout::enter_ring0(&vcpu).map_err(kvm("KVM_SET_SREGS"))?;
        let mut regs = vcpu.get_regs().map_err(kvm("KVM_GET_REGS"))?;
        regs.rip = CODE;
        regs.rsp = layout::RING0_STACK;
        regs.rflags = 2;
        vcpu.set_regs(&regs).map_err(kvm("KVM_SET_REGS"))?;
        sys::immediate_exit(&mut vcpu).clear();
        Ok(Guest {
            vcpu,
            _vm: vm,
            _memory: memory,
        })
    }
}

/// A probe guest. Fields are dropped in order: the vCPU goes before its memory.
struct Guest {
    vcpu: VcpuFd,
    _vm: VmFd,
    _memory: GuestMemoryMmap,
}

impl Guest {
    /// Runs the guest to its end.
    fn run(&mut self) -> Result<Outcome, ProbeError> {
        let kicker = Kicker::default();
        let exit = sys::immediate_exit(&mut self.vcpu);
        let _attached = ipirig_kick::attach(&kicker, &exit);
        let mut watchdog = KickTimer::for_this_thread().map_err(ProbeError::Watchdog)?;
        let deadline = clock::now() + PATIENCE_NS;
        watchdog.set(Some(deadline)).map_err(ProbeError::Watchdog)?;
        loop {
            let internal = match exit.enter(|| self.vcpu.run(), sys::kicked) {
                Err(NoExit::Kicked) => {
                    if clock::now() >= deadline {
                        return Ok(Outcome::TimedOut);
                    }
                    continue;
                }
                Err(NoExit::Failed(source)) => {
                    return Err(ProbeError::Kvm {
                        ioctl: "KVM_RUN",
                        source,
                    });
                }
                Ok(VcpuExit::Hlt) => return Ok(Outcome::Halted),
                Ok(VcpuExit::IoOut(layout::VECTOR_PORT, data)) => {
                    return Ok(Outcome::Vector(data.first().copied().unwrap_or(u8::MAX)));
                }
                Ok(VcpuExit::X86Wrmsr(msr)) => {
                    let invalid = msr.reason.contains(MsrExitReason::Inval);
                    return Ok(Outcome::Msr {
                        index: msr.index,
                        invalid,
                    });
                }
                Ok(VcpuExit::X86Rdmsr(msr)) => {
                    let invalid = msr.reason.contains(MsrExitReason::Inval);
                    return Ok(Outcome::Msr {
                        index: msr.index,
                        invalid,
                    });
                }
                Ok(VcpuExit::Debug(_)) => return Ok(Outcome::Debug),
                Ok(VcpuExit::Shutdown) => return Ok(Outcome::TripleFault),
                Ok(VcpuExit::InternalError) => true,
                Ok(other) => return Ok(Outcome::Other(format!("KVM exit {other:?}"))),
            };
            if internal {
                let error = sys::internal_error(self.vcpu.get_kvm_run());
                return Ok(Outcome::NotEmulated(error.instruction));
            }
        }
    }
}
