//! What is not known of the changes in a window: what was not watched, and what was too much.

use ipirig_entry::Pending;
use ipirig_evidence::ledger::changes::{Blind, Changed};

use super::*;

/// The checks of `names` and the verdict, with what was seen of the first window's changes replaced.
fn judged(
    scenario: &str,
    path: Path,
    change: impl Fn(Changed) -> Changed,
) -> (Vec<(&'static str, Verdict)>, Vec<Check>, Verdict) {
    let script = Script {
        path,
        ..Script::default()
    };
    let (plan, mut evidence) = evidence(scenario, None, script);
    for window in &mut evidence.windows {
        window.changed = change(window.changed.clone());
    }
    let (checks, _) = judge(&plan, &evidence);
    let names = [COMPLETED, DANGER_ZONE, WATCHED];
    let statuses = checks
        .iter()
        .filter(|check| names.contains(&check.name))
        .map(|check| (check.name, check.status))
        .collect();
    let verdict = overall(&plan, &checks);
    (statuses, checks, verdict)
}

fn evidence_of(checks: &[Check], name: &str) -> String {
    let check = checks.iter().find(|check| check.name == name).unwrap();
    check.evidence.clone()
}

/// As where the functions that patch text, or flush, are not in the kernel file.
fn without(text: bool, mappings: bool) -> impl Fn(Changed) -> Changed {
    let why = |what| Some(format!("the kernel file has no `{what}`"));
    move |mut changed| {
        changed.blind = Blind {
            text: text.then(|| why("__text_poke")).flatten(),
            mappings: mappings.then(|| why("flush")).flatten(),
        };
        if text {
            changed.pokes = 0;
            changed.text = Pending::everything("the kernel file has no `__text_poke`");
        }
        if mappings {
            changed.flushes = 0;
            changed.translations = Pending::everything("the kernel file has no `flush`");
        }
        changed
    }
}

#[test]
fn what_the_storm_changes_and_nobody_can_watch_is_never_held() {
    for (scenario, change, what) in [
        (
            "static-key-flip",
            without(true, false),
            "text that is patched",
        ),
        (
            "static-key-flip",
            without(true, true),
            "text that is patched",
        ),
        (
            "vunmap-storm",
            without(true, true),
            "memory that is unmapped",
        ),
        ("entry-matrix", without(true, true), "text that is patched"),
    ] {
        let (statuses, checks, verdict) = judged(scenario, Path::Right, change);
        assert_eq!(
            statuses,
            [
                (COMPLETED, Skipped),
                (DANGER_ZONE, Skipped),
                (WATCHED, Skipped)
            ],
            "{scenario}"
        );
        assert_eq!(verdict, Skipped, "{scenario}");
        let watched = evidence_of(&checks, WATCHED);
        assert!(
            watched.contains(what) && watched.contains("has no `"),
            "{watched}"
        );
    }
}

#[test]
fn each_check_says_what_it_cannot_know_and_why() {
    let (_, checks, _) = judged("static-key-flip", Path::Right, without(true, false));
    assert_eq!(
        evidence_of(&checks, COMPLETED),
        "vCPU 2, SYSCALL: which text was patched is not known: the kernel file has no \
         `__text_poke`; vCPU 2: the new branch (0x0 -> 0x1) on first entry, which proves little"
    );
    assert_eq!(
        evidence_of(&checks, DANGER_ZONE),
        "vCPU 2, SYSCALL: whether text executed there was patched is not known: the kernel file has \
         no `__text_poke`"
    );
    assert_eq!(
        evidence_of(&checks, WATCHED),
        "cannot be watched: text that is patched: the kernel file has no `__text_poke`"
    );
}

#[test]
fn what_the_storm_does_not_change_costs_the_danger_zone_and_so_the_verdict() {
    let (statuses, checks, verdict) = judged("static-key-flip", Path::Right, without(false, true));
    assert_eq!(statuses, [(COMPLETED, Held), (DANGER_ZONE, Skipped)]);
    assert_eq!(verdict, Skipped);
    let completed = evidence_of(&checks, COMPLETED);
    assert!(
        completed.contains("303 pokes, flushes not watched pending"),
        "{completed}"
    );
}

#[test]
fn what_is_seen_to_be_wrong_is_violated_whatever_could_not_be_watched() {
    let (statuses, _, verdict) = judged("static-key-flip", Path::NoCatchUp, without(true, true));
    assert_eq!((statuses[0].1, verdict), (Violated, Violated));
    let (statuses, _, verdict) = judged("static-key-flip", Path::StaticKey, without(true, true));
    assert_eq!((statuses[1].1, verdict), (Violated, Violated));
}

#[test]
fn too_many_changes_can_be_caught_up_with_but_not_told_apart_in_the_danger_zone() {
    let many = |mut changed: Changed| {
        for index in 0..5000_u64 {
            changed.text.add(index * 2..index * 2 + 1);
        }
        changed.pokes = 5000;
        changed
    };
    let (statuses, checks, verdict) = judged("static-key-flip", Path::Right, many);
    assert_eq!(statuses, [(COMPLETED, Held), (DANGER_ZONE, Skipped)]);
    assert_eq!(verdict, Skipped);
    assert_eq!(
        evidence_of(&checks, DANGER_ZONE),
        "vCPU 2, SYSCALL: whether text executed there was patched is not known: more than 4096 places \
         changed"
    );
    let (statuses, ..) = judged("static-key-flip", Path::NoCatchUp, many);
    assert_eq!(statuses[0], (COMPLETED, Violated));
}

#[test]
fn isolation_alone_does_not_need_the_changes_watched() {
    let (mut plan, mut evidence) = evidence("static-key-flip", None, Script::default());
    for window in &mut evidence.windows {
        window.changed = without(true, true)(window.changed.clone());
    }
    let checks = judge(&plan, &evidence).0;
    assert!(checks.iter().any(|check| check.name == WATCHED));
    plan.isolation_only = true;
    assert_eq!(overall(&plan, &checks), Held);
}

#[test]
fn where_work_must_be_delivered_nothing_is_left_to_be_watched() {
    let (statuses, _, _) = judged("noinstr-key-flip", Path::Right, without(true, true));
    assert!(
        statuses.iter().all(|(name, _)| *name != WATCHED),
        "{statuses:?}"
    );
}
