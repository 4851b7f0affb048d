//! What is set on every virtual machine, and which MSRs come to user space.

use kvm_bindings::{
    KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_PMU_CAPABILITY, KVM_CAP_SPLIT_IRQCHIP,
    KVM_CAP_X86_USER_SPACE_MSR, KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE,
    KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_EXIT_REASON_INVAL, KVM_PMU_CAP_DISABLE, kvm_enable_cap,
    kvm_guest_debug,
};
use kvm_ioctls::{Kvm, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd};
use vmm_sys_util::errno;

use crate::msr;

/// Three pages below 4 GiB that VMX wants for itself (KVM API 4.14); where others put them too.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// `IA32_APIC_BASE` (SDM vol. 3, 11.4.4).
pub(crate) const APIC_BASE: u32 = 0x1b;
/// Where an APIC is after power-up, in [`APIC_BASE`] (SDM vol. 3, 11.4.1).
const APIC_ADDRESS: u64 = 0xfee0_0000;
/// `IA32_TSC_DEADLINE` (SDM vol. 3, 11.5.4.1). KVM without an in-kernel APIC would swallow a write,
/// so it is filtered; where the filter does not work, CPUID does not offer the mode.
pub(crate) const TSC_DEADLINE: u32 = 0x6e0;

/// Who has the APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Apics {
    /// This process; KVM has no interrupt controller.
    User,
    /// KVM has local APICs, and nothing else of a PC's interrupt controllers (KVM API 7.5).
    Kernel,
}

/// Pins of the IOAPIC that is not there, of which KVM wants a number.
const IOAPIC_PINS: u64 = 24;

/// A virtual machine, of which `follow` (MSRs: first and number; writes only) come to user space, and
/// the APIC's MSRs as well if it is there. An error names the ioctl that failed.
pub(crate) fn create(
    kvm: &Kvm,
    follow: &[(u32, u32)],
    apics: Apics,
) -> Result<VmFd, (&'static str, errno::Error)> {
    let vm = kvm.create_vm().map_err(|e| ("KVM_CREATE_VM", e))?;
    disable_pmu(&vm).map_err(|e| ("KVM_CAP_PMU_CAPABILITY", e))?;
    if apics == Apics::Kernel {
        let mut cap = kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            ..kvm_enable_cap::default()
        };
        cap.args[0] = IOAPIC_PINS;
        vm.enable_cap(&cap)
            .map_err(|e| ("KVM_CAP_SPLIT_IRQCHIP", e))?;
    }
    forward_msr_exits(&vm).map_err(|e| ("KVM_ENABLE_CAP", e))?;
    filter_msrs(&vm, follow, apics).map_err(|e| ("KVM_X86_SET_MSR_FILTER", e))?;
    vm.set_tss_address(TSS_ADDRESS)
        .map_err(|e| ("KVM_SET_TSS_ADDR", e))?;
    Ok(vm)
}

/// Takes the PMU away, where KVM can (KVM API 8.34; Linux 5.18): AMD's legacy counters are there
/// whatever CPUID says. To be called before there are vCPUs.
fn disable_pmu(vm: &VmFd) -> Result<(), errno::Error> {
    let offered = vm.check_extension_raw(KVM_CAP_PMU_CAPABILITY.into());
    if !u32::try_from(offered).is_ok_and(|offered| offered & KVM_PMU_CAP_DISABLE != 0) {
        return Ok(());
    }
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_PMU_CAPABILITY,
        ..kvm_enable_cap::default()
    };
    cap.args[0] = KVM_PMU_CAP_DISABLE.into();
    vm.enable_cap(&cap)
}

/// A vCPU that never runs, whose interrupts are blocked for debugging: as long as a machine has one,
/// KVM leaves none of its IPIs to hardware (`kvm_arch_vcpu_guestdbg_update_apicv_inhibit`; Linux 5.16).
#[derive(Debug)]
pub(crate) struct BlockedVcpu {
    _vcpu: VcpuFd,
}

impl BlockedVcpu {
    /// Adds one with the APIC id `id`, which no other may have. Its APIC is off: no IPI reaches it, not
    /// even one to all. An error names the ioctl that failed.
    pub(crate) fn new(vm: &VmFd, id: u64) -> Result<Self, (&'static str, errno::Error)> {
        let vcpu = vm.create_vcpu(id).map_err(|e| ("KVM_CREATE_VCPU", e))?;
        msr::write(&vcpu, APIC_BASE, APIC_ADDRESS).map_err(|e| ("KVM_SET_MSRS", e))?;
        let debug = kvm_guest_debug {
            control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_BLOCKIRQ,
            ..kvm_guest_debug::default()
        };
        vcpu.set_guest_debug(&debug)
            .map_err(|e| ("KVM_SET_GUEST_DEBUG", e))?;
        Ok(Self { _vcpu: vcpu })
    }
}

/// Makes KVM bring MSR accesses that it refuses or that are filtered to user space. x2APIC
/// registers are among the former when there is no in-kernel APIC (`kvm_x2apic_msr_write`).
fn forward_msr_exits(vm: &VmFd) -> Result<(), errno::Error> {
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        ..kvm_enable_cap::default()
    };
    cap.args[0] = u64::from(KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_FILTER);
    vm.enable_cap(&cap)
}

/// Filters the APIC's MSRs and the writes that assists follow: `follow` holds first and number.
fn filter_msrs(vm: &VmFd, follow: &[(u32, u32)], apics: Apics) -> Result<(), errno::Error> {
    // A clear bit denies, and so forwards. No range is longer than 32 MSRs.
    let deny = [0_u8; 4];
    let both = MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE;
    let one = |flags, base, msr_count| MsrFilterRange {
        flags,
        base,
        msr_count,
        bitmap: &deny,
    };
    let mut ranges = match apics {
        Apics::User => vec![one(both, APIC_BASE, 1), one(both, TSC_DEADLINE, 1)],
        Apics::Kernel => vec![],
    };
    ranges.extend(
        follow
            .iter()
            .map(|&(base, count)| one(MsrFilterRangeFlags::WRITE, base, count.min(32))),
    );
    vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, &ranges)
}

/// Makes KVM refuse paravirtual features that CPUID does not offer (KVM API 6.80), where it can.
/// Without it a guest may send IPIs that no APIC sees.
pub(crate) fn enforce_pv_cpuid(vcpu: &VcpuFd) -> Result<(), errno::Error> {
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
        ..kvm_enable_cap::default()
    };
    cap.args[0] = 1;
    vcpu.enable_cap(&cap)
}
