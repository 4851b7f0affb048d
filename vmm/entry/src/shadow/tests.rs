//! Each clearing instruction, and a TLB that remembers single pages.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const BASE: u64 = 0xffff_c900_0000_0000;
const PCIDS: [u16; 4] = [0, 1, 2, 0x801];

fn registers(cr3: u64, cr4: u64) -> StepRegisters {
    StepRegisters {
        cr3,
        cr4,
        ..StepRegisters::default()
    }
}

/// The PCIDs of [`PCIDS`] that are stale after `effect` alone, with PCID 1 in force and two pages
/// pending.
fn stale_after(effect: Effect, cr4: u64, global: bool) -> Vec<u16> {
    let pending = Pending::from(BASE..BASE + 0x2000);
    let mut shadow = Shadow::new(Pending::default(), &pending, global);
    shadow.apply(effect, &registers(0x1000_0001, cr4));
    let stale = |pcid: &u16| shadow.translations_pending(*pcid);
    PCIDS.into_iter().filter(stale).collect()
}

#[test]
fn each_instruction_clears_what_the_manual_says() {
    let cr3 = |value| Effect::WriteCr3 { value };
    let cr4 = |old, new| Effect::WriteCr4 { old, new };
    let invpcid = |kind, descriptor| Effect::Invpcid { kind, descriptor };
    let all: &[u16] = &PCIDS;
    let expected: [(Effect, u64, &[u16]); 17] = [
        (Effect::None, PCIDE, all),
        (Effect::Serialising, PCIDE, all),
        (cr3(0x2000_0002), PCIDE, &[0, 1, 0x801]),
        (cr3(0x2000_0002), 0, &[]),
        (cr3(0x2000_0002 | NOFLUSH), PCIDE, all),
        (cr3(0x2000_0002 | NOFLUSH), 0, &[]),
        (cr4(PCIDE | PGE, PCIDE), PCIDE | PGE, &[]),
        (cr4(PCIDE, PCIDE | PGE), PCIDE, &[]),
        (cr4(PCIDE, 0), PCIDE, &[]),
        (cr4(0, PCIDE), 0, all),
        (cr4(PCIDE, PCIDE | 1 << 20), PCIDE, all),
        // One of two pages.
        (Effect::Invlpg { address: BASE }, PCIDE, all),
        (invpcid(0, None), PCIDE, all),
        (invpcid(1, None), PCIDE, all),
        (invpcid(1, Some((2, 0))), PCIDE, &[0, 1, 0x801]),
        (invpcid(2, None), PCIDE, &[]),
        (invpcid(3, None), PCIDE, &[]),
    ];
    for (effect, cr4, stale) in expected {
        let after = stale_after(effect, cr4, false);
        assert_eq!(after, stale, "{effect:x?}, CR4 {cr4:#x}");
    }
}

#[test]
fn global_translations_go_with_global_flushes_alone() {
    let cr3 = |value| Effect::WriteCr3 { value };
    let cr4 = |old, new| Effect::WriteCr4 { old, new };
    let invpcid = |kind, descriptor| Effect::Invpcid { kind, descriptor };
    let all: &[u16] = &PCIDS;
    let expected: [(Effect, u64, &[u16]); 9] = [
        (cr3(0x2000_0002), PCIDE, all),
        (cr3(0x2000_0002), 0, all),
        (cr4(PCIDE | PGE, PCIDE), PCIDE | PGE, &[]),
        (cr4(PCIDE, 0), PCIDE, &[]),
        // One of two pages.
        (Effect::Invlpg { address: BASE }, PCIDE, all),
        (invpcid(0, Some((1, BASE))), PCIDE, all),
        (invpcid(1, Some((1, 0))), PCIDE, all),
        (invpcid(2, None), PCIDE, &[]),
        (invpcid(3, None), PCIDE, all),
    ];
    for (effect, cr4, stale) in expected {
        let after = stale_after(effect, cr4, true);
        assert_eq!(after, stale, "{effect:x?}, CR4 {cr4:#x}");
    }
    // INVLPG clears a global translation for all PCIDs, and that of no other page.
    let pending = Pending::from(BASE..BASE + 0x2000);
    let mut shadow = Shadow::new(Pending::default(), &pending, true);
    for page in [BASE, BASE + PAGE] {
        shadow.apply(Effect::Invlpg { address: page }, &registers(1, PCIDE | PGE));
        let stale = shadow.is_stale(&(BASE + PAGE..BASE + 2 * PAGE), 0x801);
        assert_eq!(stale, page == BASE);
    }
    assert!(!shadow.translations_pending(2));
}

#[test]
fn only_what_serialises_clears_text() {
    let pending = |effect| {
        let mut shadow = Shadow::new(Pending::everything("x"), &Pending::default(), false);
        shadow.apply(effect, &registers(0, PCIDE));
        shadow.text_pending()
    };
    let clears = [
        Effect::WriteCr3 { value: NOFLUSH },
        Effect::WriteCr4 { old: 0, new: 0 },
        Effect::Invlpg { address: 0 },
        Effect::Serialising,
    ];
    let keeps = [
        Effect::None,
        Effect::Invpcid {
            kind: 2,
            descriptor: None,
        },
    ];
    assert_eq!(clears.map(pending), [false; 4]);
    assert_eq!(keeps.map(pending), [true; 2]);
}

#[test]
fn nothing_is_cleared_for_good_by_more_pages_than_are_noted() {
    let mut shadow = Shadow::new(Pending::default(), &Pending::everything("x"), false);
    let registers = registers(1, PCIDE);
    let page = |index: u64| BASE + index * PAGE;
    for index in 0..=RANGES_MAX as u64 {
        let address = page(index) + 5;
        shadow.apply(Effect::Invlpg { address }, &registers);
    }
    let stale = |index: u64| shadow.is_stale(&(page(index)..page(index) + 1), 1);
    assert!(!stale(0));
    assert!(!stale(RANGES_MAX as u64 - 1));
    assert!(stale(RANGES_MAX as u64));
    assert!(shadow.is_stale(&(page(0)..u64::MAX), 1));
    assert!(shadow.translations_pending(1));
}

#[test]
fn the_last_page_can_be_pending() {
    let last = u64::MAX - 0xfff;
    let pending = Pending::from(last..u64::MAX);
    let mut shadow = Shadow::new(Pending::default(), &pending, false);
    assert!(shadow.translations_pending(0));
    shadow.apply(Effect::Invlpg { address: u64::MAX }, &registers(0, 0));
    assert!(!shadow.translations_pending(0));
    assert!(!shadow.is_stale(&(last..u64::MAX), 0));
}

#[test]
fn an_access_of_no_bytes_uses_no_translation() {
    let shadow = Shadow::new(Pending::default(), &Pending::everything("x"), false);
    assert!(!shadow.is_stale(&(BASE + 1..BASE + 1), 0));
    assert!(shadow.is_stale(&(BASE + 1..BASE + 2), 0));
}

/// A TLB that remembers each stale page of each PCID.
#[derive(Debug)]
struct Naive {
    stale: BTreeSet<(u16, u64)>,
    text: bool,
}

impl Naive {
    fn apply(&mut self, effect: Effect, cr3: u64, cr4: u64) {
        let pcids = cr4 & PCIDE != 0;
        let here = if pcids { (cr3 & 0xfff) as u16 } else { 0 };
        match effect {
            Effect::None => return,
            Effect::Serialising => {}
            Effect::WriteCr3 { value } => self.stale.retain(|&(pcid, _)| {
                pcids && (value & NOFLUSH != 0 || pcid != (value & 0xfff) as u16)
            }),
            Effect::WriteCr4 { old, new } => {
                let lost = old & PCIDE != 0 && new & PCIDE == 0;
                if old & PGE != new & PGE || lost {
                    self.stale.clear();
                }
            }
            Effect::Invlpg { address } => {
                self.stale.remove(&(here, address / PAGE));
            }
            Effect::Invpcid { kind, descriptor } => {
                let (to, address) = descriptor.unwrap_or((0xfff, 0));
                match kind {
                    0 => drop(self.stale.remove(&(to, address / PAGE))),
                    1 => self.stale.retain(|&(pcid, _)| pcid != to),
                    2 | 3 => self.stale.clear(),
                    _ => {}
                }
                return;
            }
        }
        self.text = false;
    }
}

fn effects() -> impl Strategy<Value = Effect> {
    let address = || (0..8 * PAGE).prop_map(|offset| BASE + offset);
    let pcid = || prop::sample::select(&PCIDS[..]);
    let cr4 = || prop::sample::select(vec![0, PGE, PCIDE, PCIDE | PGE]);
    // Seldom what clears all.
    prop_oneof![
        4 => Just(Effect::None),
        1 => Just(Effect::Serialising),
        6 => (pcid(), any::<bool>()).prop_map(|(pcid, keep)| Effect::WriteCr3 {
            value: 0x1000_0000 | u64::from(pcid) | if keep { NOFLUSH } else { 0 },
        }),
        1 => (cr4(), cr4()).prop_map(|(old, new)| Effect::WriteCr4 { old, new }),
        24 => address().prop_map(|address| Effect::Invlpg { address }),
        24 => (0..2_u64, prop::option::of((pcid(), address())))
            .prop_map(|(kind, descriptor)| Effect::Invpcid { kind, descriptor }),
        1 => (2..6_u64).prop_map(|kind| Effect::Invpcid { kind, descriptor: None }),
    ]
}

proptest! {
    #[test]
    fn a_shadow_agrees_with_a_tlb_that_remembers_each_page(
        ranges in prop::option::of(vec((0..8 * PAGE, 1..2 * PAGE), 0..4)),
        effects in vec((effects(), prop::sample::select(&PCIDS[..]), prop::bool::weighted(0.95)), 0..40),
        probe in (0..9 * PAGE, 0..3 * PAGE),
    ) {
        // Of everything, the model has as many pages as are looked at.
        let (pending, pages): (Pending, Vec<u64>) = match &ranges {
            None => (Pending::everything("x"), (0..16).collect()),
            Some(ranges) => (
                ranges.iter().map(|&(start, len)| BASE + start..BASE + start + len).collect(),
                ranges
                    .iter()
                    .flat_map(|&(start, len)| start / PAGE..=(start + len - 1) / PAGE)
                    .collect(),
            ),
        };
        let mut naive = Naive {
            stale: PCIDS
                .into_iter()
                .flat_map(|pcid| pages.iter().map(move |page| (pcid, BASE / PAGE + page)))
                .collect(),
            text: true,
        };
        let mut shadow = Shadow::new(Pending::everything("x"), &pending, false);
        for (effect, pcid, pcids) in effects {
            let (cr3, cr4) = (u64::from(pcid), if pcids { PCIDE } else { 0 });
            shadow.apply(effect, &registers(cr3, cr4));
            naive.apply(effect, cr3, cr4);
            prop_assert_eq!(shadow.text_pending(), naive.text);
            for pcid in PCIDS {
                let any = naive.stale.iter().any(|&(of, _)| of == pcid);
                prop_assert_eq!(shadow.translations_pending(pcid), any, "{:?}", effect);
                let range = BASE + probe.0..BASE + probe.0 + probe.1;
                let mut probed = range.start / PAGE..range.end.div_ceil(PAGE);
                let stale = !range.is_empty()
                    && probed.any(|page| naive.stale.contains(&(pcid, page)));
                prop_assert_eq!(shadow.is_stale(&range, pcid), stale, "{:?}", effect);
            }
        }
    }
}

#[test]
fn a_write_of_a_control_register_is_in_force_after_it() {
    let registers = registers(1, PCIDE);
    for (effect, after) in [
        (Effect::None, (1, PCIDE)),
        (Effect::WriteCr3 { value: NOFLUSH | 2 }, (2, PCIDE)),
        (
            Effect::WriteCr4 {
                old: PCIDE,
                new: PGE,
            },
            (1, PGE),
        ),
        (Effect::Serialising, (1, PCIDE)),
    ] {
        assert_eq!(control_after(effect, &registers), after, "{effect:?}");
    }
}
