//! What only a guest says is no ground of `violated`, where the rig saw that it is not true, or saw nothing.

use ipirig_evidence::vectors::Kind;
use proptest::prelude::*;

use super::*;

/// What completed-on-entry says where `pokes` of 303 were seen, the first entry took the branch `taken`, and the guest
/// says that it should have been `value`.
fn said(pokes: u64, taken: u32, value: u64, done: u64) -> Check {
    let (plan, mut evidence) = evidence("static-key-flip", None, Script::default());
    let window = &mut evidence.windows[0];
    window.changed.pokes = pokes;
    window.storm[0].done = done;
    window.storm[0].value = value;
    for report in window.released.values_mut() {
        report.branch = taken;
    }
    named(COMPLETED, &plan, &evidence)
}

#[test]
fn the_old_branch_is_a_violation_only_if_the_storm_was_seen() {
    let check = said(303, 0, 1, 101);
    assert_eq!(
        (check.status, check.evidence.as_str()),
        (
            Violated,
            "vCPU 2: still the old branch (0x0) on first entry"
        )
    );
    let check = said(0, 0, 1, 101);
    assert_eq!(check.status, Error);
    let words = "still the old branch (0x0) on first entry, but 0 pokes were seen before the entry by SYSCALL, of at least \
                 303: that may be right";
    assert!(check.evidence.contains(words), "{}", check.evidence);
}

#[test]
fn the_old_branch_is_in_doubt_where_patches_could_not_be_seen_and_nobody_was_witness() {
    let judged = |text: Option<String>, mappings: Option<String>, witnessed| {
        let (plan, mut evidence) = evidence("static-key-flip", None, Script::default());
        let tally = &mut evidence.ledger.cpus[1].window;
        tally.targeted = [(Kind::Vector(0xfc), witnessed)].into();
        let window = &mut evidence.windows[0];
        (window.changed.blind.text, window.changed.blind.mappings) = (text, mappings);
        for report in window.released.values_mut() {
            report.branch = 0;
        }
        let check = named(COMPLETED, &plan, &evidence);
        check.evidence.contains("that may be right")
    };
    let blind = || Some("no symbols".to_owned());
    assert!(judged(blind(), None, 1));
    assert!(!judged(None, blind(), 1));
    assert!(!judged(blind(), None, 303));
}

#[test]
fn a_way_in_that_fails_in_the_guest_is_an_error_and_one_that_it_has_not_is_none() {
    let said = |errno| {
        let (plan, mut evidence) = evidence("static-key-flip", None, Script::default());
        let window = &mut evidence.windows[0];
        window.baseline.clear();
        for report in window.released.values_mut() {
            report.errno = errno;
        }
        let check = named(COMPLETED, &plan, &evidence);
        check
            .evidence
            .contains("SYSCALL failed in the guest (errno 5)")
    };
    assert_eq!([0, 5].map(said), [false, true]);
}

proptest! {
    #[test]
    fn no_word_of_a_guest_whose_storm_was_not_seen_is_a_violation(
        pokes in 0_u64..303,
        taken in any::<u32>(),
        value in prop_oneof![Just(0), Just(1), any::<u64>()],
        done in prop_oneof![Just(101), any::<u64>()],
    ) {
        prop_assert_ne!(said(pokes, taken, value, done).status, Violated);
    }
}
