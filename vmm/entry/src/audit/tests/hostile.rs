//! Records that make no sense.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use ipirig_instruction::{Code, Step, StepRegisters};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Addresses that mean something, and others.
fn addresses() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0..0x100_u64).prop_map(|offset| ENTRY + offset),
        (0..0x100_u64).prop_map(|offset| WORK + offset),
        (0..0x100_u64).prop_map(|offset| STACK - offset),
        Just(GS),
        Just(u64::MAX),
        Just(0),
    ]
}

prop_compose! {
    fn steps()(
        general in prop::array::uniform16(addresses()),
        (rip, fs_base, gs_base) in (addresses(), addresses(), addresses()),
        (cr3, cr4, rflags) in any::<(u64, u64, u64)>(),
        descriptor in any::<Option<[u64; 2]>>(),
        (prefix, code) in (
            prop_oneof![
                Just(&[][..]),
                Just(&[0xf3][..]),
                Just(&[0x0f, 0x22][..]),
                Just(&[0x0f, 0x01][..]),
                Just(&[0x65, 0x48][..]),
                Just(&[0x66, 0x0f, 0x38, 0x82][..]),
            ],
            vec(any::<u8>(), 0..16),
        ),
    ) -> Step {
        let code = Code::new(&[prefix, &code].concat());
        let registers =
            StepRegisters { general, rip, rflags, cr3, cr4, fs_base, gs_base, cpl: 0 };
        Step { registers, code, descriptor }
    }
}

fn pending() -> impl Strategy<Value = Pending> {
    prop_oneof![
        Just(Pending::everything("unknown")),
        vec((addresses(), addresses()), 0..8)
            .prop_map(|ranges| ranges.into_iter().map(|(start, end)| start..end).collect()),
    ]
}

static LAYOUTS: LazyLock<[KernelLayout; 2]> =
    LazyLock::new(|| [layout(), layout_with(ENTRY + 12, SiteKind::Ftrace)]);

proptest! {
    #[test]
    fn no_record_makes_judging_or_listing_panic(
        steps in vec(steps(), 0..20),
        (text, translations) in (pending(), pending()),
        ended in prop_oneof![Just(Ended::User), Just(Ended::Limit), Just(Ended::Halted)],
        vector in any::<Option<u8>>(),
        alternatives_open in any::<bool>(),
        (isolated, global) in any::<(bool, bool)>(),
    ) {
        let began = vector.map_or(Began::Syscall, Began::Vector);
        let record = Record { cpu: 0, began, handlers: BTreeSet::new(), steps, ended };
        let paging = Paging { pcids: false, isolated, global };
        let input = PendingInput { text, translations, alternatives_open, paging };
        for layout in LAYOUTS.iter() {
            let audit = audit(&record, layout, &input);
            let number = record.steps.len();
            prop_assert_eq!(audit.steps, number);
            prop_assert!(audit.danger_zone <= number);
            prop_assert!(audit.catch_up.is_none_or(|step| step <= number));
            let findings = audit.danger.iter().chain(&audit.order).chain(&audit.stale_pcids);
            for finding in findings {
                prop_assert!((1..=number).contains(&finding.step), "{}", finding);
            }
            for extent in [crate::Extent::Ends, crate::Extent::Whole] {
                let text = crate::Listing::new(&record, layout, &audit).text(extent);
                prop_assert!(text.lines().count() >= 2);
            }
        }
    }
}
