//! The CPUID policy: what a guest is told about its CPU, in one place.
//!
//! Three aims: no feature that sends an interrupt past the APIC model or flushes another CPU's TLB
//! without one; a topology that is true (one package, one thread a core); and nothing the machine
//! does not have (no PMU, no nested virtualisation).

use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use thiserror::Error;

use crate::feature::{Feature, Register};

/// KVM's CPUID leaves (Linux Documentation/virt/kvm/x86/cpuid.rst).
const KVM_SIGNATURE: u32 = 0x4000_0000;
const KVM_FEATURES: u32 = 0x4000_0001;
/// The paravirtual features that stay, by bit of `KVM_FEATURES`: NOP_IO_DELAY (1), CLOCKSOURCE2
/// (3) and CLOCKSOURCE_STABLE (24). The first spares an exit a port write, the others tell the
/// guest its TSC frequency. Gone are, among others, ASYNC_PF (4), STEAL_TIME (5), PV_EOI (6),
/// PV_UNHALT (7), PV_TLB_FLUSH (9), PV_SEND_IPI (11), PV_SCHED_YIELD (13), ASYNC_PF_INT (14) and
/// MSI_EXT_DEST_ID (15): each hides IPIs or sends interrupts of its own.
const KVM_KEPT: u32 = 1 << 1 | 1 << 3 | 1 << 24;

/// The same where the guest has to calibrate its APIC timer by leaf 0x15, because it is offered no
/// TSC-deadline mode: only `native_calibrate_tsc` reads that, which kvmclock replaces by a hypercall
/// that knows no APIC timer (`kvmclock_init`). Without, Linux wants a PIT for it.
const KVM_KEPT_FOR_LEAF_15: u32 = 1 << 1;

/// Frequency of the APIC timer's input clock, in Hz: the "core crystal" of leaf 0x15. Fixed by
/// `ipirig-apic`, whose timer counts nanoseconds.
const CRYSTAL_HZ: u32 = 1_000_000_000;

/// Features to clear: register bits of a leaf, and why. Leaves 1 and 7 are SDM vol. 2's (CPUID), those
/// from 0x80000001 on AMD's APM vol. 3 (appendix E).
///
/// LKGS (leaf 7.1, EAX bit 18) stays: it is enumerated apart from FRED, and loads a base without
/// changing how the kernel is entered.
const HIDDEN: &[(Feature, &str)] = &[
    (
        Feature::new(1, Register::Ecx, 3),
        "MONITOR: a CPU in MWAIT is woken without an IPI",
    ),
    (Feature::new(1, Register::Ecx, 5), "VMX: no nested guests"),
    (Feature::new(1, Register::Ecx, 15), "PDCM: there is no PMU"),
    (Feature::new(1, Register::Edx, 7), "MCE: nothing raises one"),
    (Feature::new(1, Register::Ecx, 2), "DTES64, as DS"),
    (
        Feature::new(1, Register::Edx, 21),
        "DS: its buffers (BTS, PEBS) raise interrupts when full",
    ),
    (
        Feature::new(7, Register::Ebx, 25),
        "Intel PT raises PMIs when its buffer is full",
    ),
    (
        Feature::new(7, Register::Edx, 5),
        "UINTR: user interrupts pass the APIC by",
    ),
    (
        Feature::new(7, Register::Edx, 19),
        "architectural LBRs: there is no PMU",
    ),
    (
        Feature::new(7, Register::Edx, 30),
        "IA32_CORE_CAPABILITIES: its bit 1 is RAR, which flushes other CPUs' TLBs with no handler",
    ),
    (
        Feature::of_subleaf(7, 1, Register::Eax, 8),
        "leaf 0x23: there is no PMU",
    ),
    // FRED specification, 346446, chapters 3 and 9.
    (
        Feature::of_subleaf(7, 1, Register::Eax, 17),
        "FRED enters the kernel neither by the IDT nor by LSTAR, where entries are looked for",
    ),
    (
        Feature::of_subleaf(7, 1, Register::Eax, 20),
        "NMI-source reporting: comes with FRED, and the APIC model delivers no vector with an NMI",
    ),
    (
        Feature::new(0x8000_0001, Register::Ecx, 2),
        "SVM: no nested guests",
    ),
    (
        Feature::new(0x8000_0001, Register::Ecx, 3),
        "extended APIC space is not modelled",
    ),
    (
        Feature::new(0x8000_0001, Register::Ecx, 10),
        "IBS raises NMIs",
    ),
    (
        Feature::new(0x8000_0001, Register::Ecx, 23),
        "PerfCtrExtCore: there is no PMU",
    ),
    (
        Feature::new(0x8000_0001, Register::Ecx, 24),
        "PerfCtrExtNB: there is no PMU",
    ),
    (
        Feature::new(0x8000_0001, Register::Ecx, 28),
        "PerfCtrExtLLC: there is no PMU",
    ),
    (
        Feature::new(0x8000_0001, Register::Ecx, 29),
        "MWAITX, as MONITOR",
    ),
    (
        Feature::new(0x8000_0008, Register::Ebx, 3),
        "INVLPGB flushes other CPUs' TLBs with no IPI",
    ),
];

/// Leaves that are emptied: PMU (0xa, 0x1c, 0x23, 0x80000022), MWAIT (5), SGX (0x12), Intel PT (0x14),
/// and AMD's extended topology (0x80000026), for which 0xb stands.
const EMPTIED: &[u32] = &[5, 0xa, 0x12, 0x14, 0x1c, 0x23, 0x8000_0022, 0x8000_0026];
/// All that is left of leaf 6, thermal and power: ARAT, the APIC timer runs in every idle state.
/// Without it Linux wants a PIT (`apic_needs_pit`).
const ARAT: u32 = 1 << 2;

/// The policy could not be applied.
#[derive(Debug, Error)]
#[error("the CPUID table would have more than KVM's limit of entries")]
pub struct CpuidError;

/// What the policy depends on.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// Number of vCPUs, 1 to 64.
    pub(crate) cpus: usize,
    /// Whether to offer x2APIC.
    pub(crate) x2apic: bool,
    /// Whether to offer the APIC timer's TSC-deadline mode.
    pub(crate) tsc_deadline: bool,
    /// TSC frequency in kHz, 0 if unknown.
    pub(crate) tsc_khz: u32,
    /// What the host's quirks need hidden.
    pub(crate) hide: Vec<Feature>,
}

/// The CPUID table of vCPU `cpu`, from what the host supports.
pub(crate) fn table(supported: &CpuId, policy: &Policy, cpu: usize) -> Result<CpuId, CpuidError> {
    let mut entries: Vec<kvm_cpuid_entry2> = supported
        .as_slice()
        .iter()
        .filter(|e| !matches!(e.function, 0xb | 0x1f | 0x15 | 0x16))
        .copied()
        .collect();
    let family = entries
        .iter()
        .find(|e| e.function == 0)
        .copied()
        .unwrap_or_default();
    let leaf_15 = is_intel(&family) && policy.tsc_khz != 0;
    let kept = if leaf_15 && !policy.tsc_deadline {
        KVM_KEPT_FOR_LEAF_15
    } else {
        KVM_KEPT
    };
    for entry in &mut entries {
        adjust(entry, policy, kept, cpu as u32);
    }
    for feature in HIDDEN
        .iter()
        .map(|(feature, _)| feature)
        .chain(&policy.hide)
    {
        for entry in entries
            .iter_mut()
            .filter(|e| e.function == feature.leaf && e.index == feature.subleaf)
        {
            clear(entry, *feature);
        }
    }
    entries.extend(topology(policy, cpu as u32));
    if leaf_15 {
        entries.push(crystal(policy.tsc_khz));
        raise_limit(&mut entries, 0x15);
    }
    raise_limit(&mut entries, 0xb);
    CpuId::from_entries(&entries).map_err(|_| CpuidError)
}

/// `kept`: the paravirtual features that stay.
fn adjust(entry: &mut kvm_cpuid_entry2, policy: &Policy, kept: u32, cpu: u32) {
    let cpus = policy.cpus as u32;
    match entry.function {
        1 => {
            // Initial APIC id, logical processor count, CLFLUSH size kept.
            entry.ebx = (entry.ebx & 0xffff) | cpu << 24 | cpus << 16;
            set(&mut entry.ecx, 21, policy.x2apic);
            set(&mut entry.ecx, 24, policy.tsc_deadline);
            set(&mut entry.ecx, 31, true); // a hypervisor is present
            set(&mut entry.edx, 9, true); // an APIC
            set(&mut entry.edx, 28, cpus > 1); // HTT: the count in EBX is valid
        }
        // Deterministic cache parameters: no cache is shared, one core id a vCPU.
        4 => {
            entry.eax &= !(0xfff << 14 | 0x3f << 26);
            if entry.eax & 0x1f != 0 {
                entry.eax |= (cpus - 1).min(0x3f) << 26;
            }
        }
        6 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (ARAT, 0, 0, 0),
        KVM_SIGNATURE => entry.eax = KVM_FEATURES,
        KVM_FEATURES => {
            entry.eax &= kept;
            entry.edx = 0;
        }
        // AMD: number of cores less one, and bits of the APIC id that number them.
        0x8000_0008 => entry.ecx = (cpus - 1) | id_bits(cpus) << 12,
        // AMD: this core's APIC id, one thread a core, one node.
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (cpu, cpu & 0xff, 0),
        leaf if EMPTIED.contains(&leaf) => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
        _ => {}
    }
}

/// Leaf 0xb: one thread a core, all cores in one package (SDM vol. 2, CPUID, "Extended Topology").
fn topology(policy: &Policy, cpu: u32) -> [kvm_cpuid_entry2; 3] {
    let cpus = policy.cpus as u32;
    let level = |index, shift, count, kind: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: index | kind << 8,
        edx: cpu,
        ..kvm_cpuid_entry2::default()
    };
    [
        level(0, 0, 1, 1),
        level(1, id_bits(cpus), cpus, 2),
        level(2, 0, 0, 0),
    ]
}

/// Leaf 0x15: TSC = crystal × EBX / EAX. It spares Intel guests a calibration against a PIT that
/// is not there, for the TSC and for the APIC timer (`native_calibrate_tsc`).
fn crystal(tsc_khz: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function: 0x15,
        eax: CRYSTAL_HZ / 1000,
        ebx: tsc_khz,
        ecx: CRYSTAL_HZ,
        ..kvm_cpuid_entry2::default()
    }
}

fn id_bits(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

fn is_intel(leaf0: &kvm_cpuid_entry2) -> bool {
    let mut vendor = Vec::new();
    for register in [leaf0.ebx, leaf0.edx, leaf0.ecx] {
        vendor.extend_from_slice(&register.to_le_bytes());
    }
    vendor == b"GenuineIntel"
}

fn raise_limit(entries: &mut [kvm_cpuid_entry2], leaf: u32) {
    for entry in entries.iter_mut().filter(|e| e.function == 0) {
        entry.eax = entry.eax.max(leaf);
    }
}

fn set(register: &mut u32, bit: u8, on: bool) {
    *register = *register & !(1 << bit) | u32::from(on) << bit;
}

fn clear(entry: &mut kvm_cpuid_entry2, feature: Feature) {
    let register = match feature.register {
        Register::Eax => &mut entry.eax,
        Register::Ebx => &mut entry.ebx,
        Register::Ecx => &mut entry.ecx,
        Register::Edx => &mut entry.edx,
    };
    set(register, feature.bit, false);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..kvm_cpuid_entry2::default()
        }
    }

    fn vendor(name: &[u8; 12]) -> kvm_cpuid_entry2 {
        let word = |at: usize| u32::from_le_bytes(name[at..at + 4].try_into().unwrap());
        entry(0, 0xd, word(0), word(8), word(4))
    }

    fn apply(entries: &[kvm_cpuid_entry2], policy: &Policy, cpu: usize) -> Vec<kvm_cpuid_entry2> {
        let table = table(&CpuId::from_entries(entries).unwrap(), policy, cpu).unwrap();
        table.as_slice().to_vec()
    }

    fn policy() -> Policy {
        Policy {
            cpus: 3,
            x2apic: true,
            tsc_deadline: false,
            tsc_khz: 2_600_000,
            hide: vec![],
        }
    }

    #[test]
    fn everything_that_hides_an_ipi_is_off_and_the_topology_is_true() {
        let all = u32::MAX;
        let host = [
            vendor(b"AuthenticAMD"),
            entry(1, 0x0010_0f00, 0xffff_0800, all, all),
            entry(0x4000_0000, 0x4000_0010, 1, 2, 3),
            entry(0x4000_0001, all, 0, 0, all),
            entry(0x8000_0008, 0x3030, all, all, 0),
        ];
        let expected = [
            entry(0, 0xd, host[0].ebx, host[0].ecx, host[0].edx),
            entry(
                1,
                0x0010_0f00,
                2 << 24 | 3 << 16 | 0x0800,
                all & !(1 << 2 | 1 << 3 | 1 << 5 | 1 << 15 | 1 << 24),
                all & !(1 << 7 | 1 << 21),
            ),
            entry(0x4000_0000, 0x4000_0001, 1, 2, 3),
            entry(0x4000_0001, 1 << 1 | 1 << 3 | 1 << 24, 0, 0, 0),
            entry(0x8000_0008, 0x3030, all & !(1 << 3), 2 | 2 << 12, 0),
        ];
        let table = apply(&host, &policy(), 2);
        assert_eq!(table[..5], expected);
        let levels: Vec<_> = table[5..]
            .iter()
            .map(|e| (e.function, e.eax, e.ebx, e.ecx, e.edx))
            .collect();
        assert_eq!(
            levels,
            [
                (0xb, 0, 1, 0x100, 2),
                (0xb, 2, 3, 0x201, 2),
                (0xb, 0, 0, 2, 2)
            ],
        );
    }

    #[test]
    fn a_feature_is_hidden_in_its_own_subleaf_and_in_no_other() {
        let all = u32::MAX;
        let subleaf = |index| kvm_cpuid_entry2 {
            index,
            flags: kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            ..entry(7, all, all, all, all)
        };
        let host = [subleaf(0), subleaf(1), subleaf(2)];
        let mut expected = host;
        expected[0].ebx &= !(1 << 25);
        expected[0].edx &= !(1 << 5 | 1 << 19 | 1 << 30);
        // FRED goes, and what comes with it; LKGS, bit 18, stays.
        expected[1].eax &= !(1 << 8 | 1 << 17 | 1 << 20);
        assert_eq!(apply(&host, &policy(), 0)[..3], expected);
    }

    #[test]
    fn intel_guests_learn_both_frequencies_from_leaf_15() {
        let table = apply(&[vendor(b"GenuineIntel")], &policy(), 0);
        assert_eq!(table[0].eax, 0x15);
        let leaf = table.iter().find(|e| e.function == 0x15).unwrap();
        assert_eq!(
            (leaf.eax, leaf.ebx, leaf.ecx),
            (1_000_000, 2_600_000, 1_000_000_000)
        );
    }

    #[test]
    fn an_intel_guest_without_the_deadline_mode_gets_no_clock_that_keeps_it_from_leaf_15() {
        let host = [
            vendor(b"GenuineIntel"),
            entry(0x4000_0001, u32::MAX, 0, 0, 0),
        ];
        let features = |tsc_deadline| {
            let policy = Policy {
                tsc_deadline,
                ..policy()
            };
            apply(&host, &policy, 0)[1].eax
        };
        assert_eq!(features(false), 1 << 1);
        assert_eq!(features(true), 1 << 1 | 1 << 3 | 1 << 24);
    }

    #[test]
    fn what_a_quirk_hides_is_hidden_and_the_apic_follows_the_probes() {
        let mut policy = policy();
        policy.x2apic = false;
        policy.tsc_deadline = true;
        policy.hide = vec![Feature::new(1, Register::Ecx, 13)];
        let table = apply(&[entry(1, 0, 0, u32::MAX, 0)], &policy, 0);
        assert_eq!(table[0].ecx >> 13 & 1, 0);
        assert_eq!(table[0].ecx >> 21 & 1, 0);
        assert_eq!(table[0].ecx >> 24 & 1, 1);
    }
}
