//! The KVM ioctls and `kvm_run` fields that kvm-ioctls does not reach.
#![expect(
    unsafe_code,
    reason = "raw ioctls, a clock, CPUID, and unions whose live member KVM names"
)]

use ipirig_kick::ImmediateExit;
use kvm_bindings::{
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, KVMIO,
    Xsave, kvm_interrupt, kvm_run, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

// KVM API 4.16.
ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);

/// Queues external interrupt `vector` (KVM API 4.16).
///
/// Without an in-kernel APIC a second call before the first was delivered silently replaces it, so
/// the caller must see `ready_for_interrupt_injection` set first and clear its copy afterwards.
///
/// # Errors
/// The ioctl's.
pub(crate) fn interrupt(vcpu: &VcpuFd, vector: u8) -> Result<(), errno::Error> {
    let request = kvm_interrupt {
        irq: u32::from(vector),
    };
    // SAFETY: the descriptor is a vCPU's; KVM only reads `request`, which is of the ioctl's type
    // and outlives the call.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_INTERRUPT(), &request) };
    if result == 0 {
        Ok(())
    } else {
        Err(errno::Error::last())
    }
}

/// Words of the old XSAVE area, 4 KiB.
const XSAVE_WORDS: usize = size_of::<kvm_xsave>() / size_of::<u32>();

/// Words of an XSAVE area of `bytes` (`KVM_CAP_XSAVE2`), or of the old one.
pub(crate) fn xsave_words(bytes: Option<usize>) -> usize {
    bytes.map_or(XSAVE_WORDS, |bytes| {
        bytes.div_ceil(size_of::<u32>()).max(XSAVE_WORDS)
    })
}

/// An XSAVE area of so many words, all zero.
fn xsave_area(words: usize) -> Result<Xsave, errno::Error> {
    Xsave::new(words - XSAVE_WORDS).map_err(|_| errno::Error::new(libc::ENOMEM))
}

/// The FPU's and the vector registers' state, by words: an area of `bytes`, which is what
/// `KVM_CAP_XSAVE2` says, or of 4 KiB where there is no such capability (KVM API 4.42 and 4.134).
///
/// # Errors
/// The ioctl's.
pub(crate) fn get_xsave(vcpu: &VcpuFd, bytes: Option<usize>) -> Result<Vec<u32>, errno::Error> {
    if bytes.is_none() {
        return Ok(vcpu.get_xsave()?.region.to_vec());
    }
    let mut area = xsave_area(xsave_words(bytes))?;
    // SAFETY: the area is of the size that KVM says, which does not grow: the process does not ask for
    // dynamically enabled features (arch_prctl).
    unsafe { vcpu.get_xsave2(&mut area)? };
    let mut words = area.as_fam_struct_ref().xsave.region.to_vec();
    words.extend_from_slice(area.as_slice());
    Ok(words)
}

/// Sets the same (KVM API 4.43). KVM reads as many bytes as `KVM_CAP_XSAVE2` says.
///
/// # Errors
/// The ioctl's; EINVAL if `words` are not as many as [`xsave_words`].
pub(crate) fn set_xsave(
    vcpu: &VcpuFd,
    bytes: Option<usize>,
    words: &[u32],
) -> Result<(), errno::Error> {
    let invalid = || errno::Error::new(libc::EINVAL);
    let mut area = xsave_area(xsave_words(bytes))?;
    let (region, rest) = words.split_at_checked(XSAVE_WORDS).ok_or_else(invalid)?;
    if rest.len() != area.as_slice().len() {
        return Err(invalid());
    }
    area.as_mut_slice().copy_from_slice(rest);
    // SAFETY: the region is replaced by one of the same length, and the length of the flexible part,
    // which the wrapper relies on, is left alone.
    let head = unsafe { area.as_mut_fam_struct() };
    head.xsave.region.copy_from_slice(region);
    // SAFETY: as in `get_xsave`.
    unsafe { vcpu.set_xsave2(&area) }
}

/// `CLOCK_MONOTONIC`, in nanoseconds.
pub(crate) fn monotonic() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// How long this thread has had a CPU, its guests with it, in nanoseconds.
pub(crate) fn thread_time() -> u64 {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn clock(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: both clocks exist on every Linux, and `time` is a live local of the right type.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    let [seconds, rest] = [time.tv_sec, time.tv_nsec].map(|n| u64::try_from(n).unwrap_or(0));
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

/// EBX, ECX and EDX of CPUID leaf 0x40000000 here: a hypervisor's signature, or anything where there
/// is none (Documentation/virt/kvm/x86/cpuid.rst).
pub(crate) fn hypervisor() -> [u8; 12] {
    // A pointer, because newer compilers call the function safe and older ones do not.
    let cpuid: unsafe fn(u32) -> std::arch::x86_64::CpuidResult = std::arch::x86_64::__cpuid;
    // SAFETY: each x86-64 CPU has CPUID, and any leaf may be asked for.
    let leaf = unsafe { cpuid(0x4000_0000) };
    let mut signature = [0; 12];
    for (bytes, register) in signature
        .chunks_exact_mut(4)
        .zip([leaf.ebx, leaf.ecx, leaf.edx])
    {
        bytes.copy_from_slice(&register.to_le_bytes());
    }
    signature
}

/// Why KVM gave up, from a `KVM_EXIT_INTERNAL_ERROR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InternalError {
    /// `KVM_INTERNAL_ERROR_*`.
    pub(crate) suberror: u32,
    /// The instruction that KVM could not emulate, if it says: at most 15 bytes.
    pub(crate) instruction: Vec<u8>,
}

/// Reads the `internal`/`emulation_failure` member of `run`. To be called right after a
/// `KVM_EXIT_INTERNAL_ERROR`.
pub(crate) fn internal_error(run: &kvm_run) -> InternalError {
    // SAFETY: the exit reason says that KVM filled this member; both members are plain integers
    // and share `suberror` and `ndata` (linux/kvm.h), so any bit pattern is valid.
    let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
    let mut instruction = Vec::new();
    let has_bytes = failure.suberror == KVM_INTERNAL_ERROR_EMULATION
        && failure.ndata >= 1
        && failure.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
    if has_bytes {
        // SAFETY: as above; the flag says that this member of the inner union is the live one.
        let bytes = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
        let len = usize::from(bytes.insn_size).min(bytes.insn_bytes.len());
        instruction.extend_from_slice(&bytes.insn_bytes[..len]);
    }
    InternalError {
        suberror: failure.suberror,
        instruction,
    }
}

/// Has KVM raise #GP for the MSR access of the last exit. To be called after a
/// `KVM_EXIT_X86_RDMSR` or `KVM_EXIT_X86_WRMSR` and before the next entry (KVM API 5).
pub(crate) fn refuse_msr(run: &mut kvm_run) {
    // The member is the live one, and it is plain integers: a write cannot break it.
    run.__bindgen_anon_1.msr.error = 1;
}

/// `kvm_run.cr8`, readable while an exit still borrows the rest of `kvm_run`.
#[derive(Debug)]
pub(crate) struct Cr8(*const std::sync::atomic::AtomicU64);

// SAFETY: the pointer is into the mapping of a `VcpuFd`, which may move to another thread as well.
unsafe impl Send for Cr8 {}

impl Cr8 {
    /// Of `vcpu`, which must live as long: the two belong into one value.
    pub(crate) fn of(vcpu: &mut VcpuFd) -> Self {
        let field: *mut u64 = &raw mut vcpu.get_kvm_run().cr8;
        Self(field.cast_const().cast())
    }

    /// The value that the last exit left: 0 to 15.
    pub(crate) fn get(&self) -> u8 {
        // SAFETY: the mapping lives (see `of`), is aligned, and no exit's data overlaps this field;
        // KVM writes it only while the vCPU's one thread is in KVM_RUN.
        let value = unsafe { (*self.0).load(std::sync::atomic::Ordering::Relaxed) };
        (value & 0xf) as u8
    }
}

/// `immediate_exit` of `vcpu`, which must live as long: the two belong into one value.
pub(crate) fn immediate_exit(vcpu: &mut VcpuFd) -> ImmediateExit {
    let byte: *mut u8 = &raw mut vcpu.get_kvm_run().immediate_exit;
    // SAFETY: the mapping lives (see above), and nothing else here accesses the byte but KVM in KVM_RUN.
    unsafe { ImmediateExit::at(byte.cast_const().cast()) }
}

/// Whether a KVM_RUN that failed with `error` was made to come back: by `immediate_exit` or a signal, or as another vCPU
/// changed what this one would have entered with (KVM API 4.10).
pub(crate) fn kicked(error: &errno::Error) -> bool {
    matches!(error.errno(), libc::EINTR | libc::EAGAIN)
}
