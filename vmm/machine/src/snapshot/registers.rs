//! Which registers of a vCPU are in a snapshot: what KVM says makes up a guest's state, and the little
//! that it does not say.

use std::ops::RangeInclusive;

use kvm_bindings::kvm_msr_entry;

use crate::msr;
use crate::vm;

/// What KVM has of a vCPU's state on this host.
#[derive(Clone, Debug)]
pub(crate) struct RegisterList {
    /// `KVM_GET_MSR_INDEX_LIST`.
    pub(crate) listed: Vec<u32>,
    /// Bytes of the XSAVE area (`KVM_CAP_XSAVE2`); `None` where KVM only has the old one of 4 KiB.
    pub(crate) xsave_bytes: Option<usize>,
}

/// MSRs of KVM's list that are in no snapshot, with the reason.
const LEFT_OUT: [(RangeInclusive<u32>, &str); 10] = [
    (vm::APIC_BASE..=vm::APIC_BASE, "in the APIC's state"),
    (vm::TSC_DEADLINE..=vm::TSC_DEADLINE, "in the APIC's state"),
    // Some cannot be written (KVM API, `KVM_GET_MSR_INDEX_LIST`).
    (
        0x4000_0000..=0x4000_01ff,
        "Hyper-V's, which no guest is offered",
    ),
    // What the CPU can do, by CPUID and KVM, which are in the key: SDM vol. 4, table 2-2.
    (0x8b..=0x8b, "a feature: the microcode's revision"),
    (
        0xce..=0xcf,
        "a feature: MSR_PLATFORM_INFO, IA32_CORE_CAPABILITIES",
    ),
    (msr::MTRRCAP..=msr::MTRRCAP, "a feature: IA32_MTRRCAP"),
    (0x10a..=0x10a, "a feature: IA32_ARCH_CAPABILITIES"),
    (0x179..=0x179, "a feature: IA32_MCG_CAP"),
    (0x345..=0x345, "a feature: IA32_PERF_CAPABILITIES"),
    (0x480..=0x493, "features: IA32_VMX_BASIC and those after it"),
];

/// Most pairs of variable-range MTRRs that have numbers (SDM vol. 4, table 2-2).
const VARIABLE_MTRRS: u64 = 10;
/// `IA32_MTRR_PHYSBASE0`; its mask and the other pairs follow.
const MTRR_PHYSBASE0: u32 = 0x200;
/// Fixed-range MTRRs (SDM vol. 3, 12.11.2.2).
const FIXED_MTRRS: [u32; 11] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
];
/// `IA32_MTRR_DEF_TYPE`: after the others, as it enables them.
const MTRR_DEF_TYPE: u32 = 0x2ff;

/// `IA32_U_CET` and `IA32_S_CET`, and their bit that turns shadow stacks on (SDM vol. 1, 17.3).
const CET: [u32; 2] = [0x6a0, 0x6a2];
const SHADOW_STACKS: u64 = 1;

impl RegisterList {
    /// The MSRs to save, in the order in which they are to be written. KVM's list has all that its
    /// guests have but the MTRRs, which it keeps and does not name (`kvm_mtrr_set_msr`).
    /// `mtrrcap`: `IA32_MTRRCAP`, whose low byte is the number of pairs (SDM vol. 3, 12.11.1).
    pub(crate) fn msrs(&self, mtrrcap: u64) -> Vec<u32> {
        let left_out = |msr: &u32| LEFT_OUT.iter().any(|(range, _)| range.contains(msr));
        let pairs = (mtrrcap & 0xff).min(VARIABLE_MTRRS) as u32;
        let variable = MTRR_PHYSBASE0..MTRR_PHYSBASE0 + 2 * pairs;
        let mtrrs = variable.chain(FIXED_MTRRS).chain([MTRR_DEF_TYPE]);
        let mut msrs: Vec<u32> = Vec::with_capacity(self.listed.len() + 32);
        for msr in self.listed.iter().copied().chain(mtrrs) {
            if !left_out(&msr) && !msrs.contains(&msr) {
                msrs.push(msr);
            }
        }
        msrs
    }
}

/// Whether the guest has shadow stacks on. The shadow-stack pointer is no MSR, so such a guest cannot be
/// saved.
pub(crate) fn has_shadow_stacks(msrs: &[kvm_msr_entry]) -> bool {
    msrs.iter()
        .any(|entry| CET.contains(&entry.index) && entry.data & SHADOW_STACKS != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn msrs(listed: &[u32], mtrrcap: u64) -> Vec<u32> {
        let list = RegisterList {
            listed: listed.to_vec(),
            xsave_bytes: None,
        };
        list.msrs(mtrrcap)
    }

    #[test]
    fn state_is_saved_and_features_and_what_is_elsewhere_is_not() {
        let state = [
            0x10,        // IA32_TIME_STAMP_COUNTER
            0x174,       // IA32_SYSENTER_CS
            0x277,       // IA32_PAT
            0x6a0,       // IA32_U_CET
            0x6a2,       // IA32_S_CET
            0x6a4,       // IA32_PL0_SSP
            0x6a8,       // IA32_INTERRUPT_SSP_TABLE_ADDR
            0xda0,       // IA32_XSS
            0xc000_0102, // IA32_KERNEL_GS_BASE
            0xc000_0103, // IA32_TSC_AUX
            0x4b56_4d01, // MSR_KVM_SYSTEM_TIME_NEW
        ];
        let other = [
            0x1b,
            0x6e0,
            0x4000_0000,
            0x4000_0118,
            0x8b,
            0xce,
            0xfe,
            0x10a,
            0x179,
            0x345,
            0x480,
            0x491,
        ];
        let listed = [&state[..], &other].concat();
        let saved = msrs(&listed, 0);
        assert_eq!(saved[..state.len()], state);
        assert_eq!(saved[state.len()..], [&FIXED_MTRRS[..], &[0x2ff]].concat());
    }

    #[test]
    fn mtrrs_are_saved_once_as_many_as_there_are_and_enabled_last() {
        let mut expected = vec![0x250, 0x200, 0x201, 0x202, 0x203];
        expected.extend(&FIXED_MTRRS[1..]);
        expected.push(0x2ff);
        assert_eq!(msrs(&[0x250], 0x502), expected);
        let most = msrs(&[], 0xff);
        assert_eq!((most[0], most[19], most[20]), (0x200, 0x213, 0x250));
    }

    #[test]
    fn shadow_stacks_are_on_where_their_bit_is() {
        let entry = |index, data| kvm_msr_entry {
            index,
            data,
            ..kvm_msr_entry::default()
        };
        for (index, data, on) in [
            (0x6a0, 1, true),
            (0x6a2, 0x3, true),
            (0x6a2, 4, false), // ENDBR_EN alone
            (0x6a4, 1, false),
        ] {
            let msrs = [entry(0x10, 1), entry(index, data)];
            assert_eq!(has_shadow_stacks(&msrs), on, "{index:#x}");
        }
    }
}
