use ipirig_fake::kernel::Path;
use ipirig_fake::{Counting, Debugging, Script, evidence, plan};
use ipirig_scenario::{EntryKind, IsolatedIpis};

use super::*;
use crate::check::Verdict::{Error, Held, Skipped, Violated};
use crate::check::*;
use crate::overall::*;

mod bounds;
mod cross_check;
mod doubt;
mod faults;
mod joined;
mod kinds;
mod misplaced;
mod overall;
mod paging;
mod unproduced;
mod unwatched;

/// A kernel that sends three IPIs an operation, and defers nothing.
fn sends() -> Script {
    Script {
        ipis_per_operation: 3,
        ..Script::default()
    }
}

fn statuses(script: Script) -> Vec<(&'static str, Verdict)> {
    let (plan, evidence) = evidence("static-key-flip", None, script);
    let (checks, _) = judge(&plan, &evidence);
    checks
        .iter()
        .filter(|c| c.status != Held)
        .map(|c| (c.name, c.status))
        .collect()
}

fn check(name: &str, scenario: &str, script: Script) -> Check {
    let (plan, evidence) = evidence(scenario, None, script);
    named(name, &plan, &evidence)
}

fn named(name: &str, plan: &Plan, evidence: &Evidence) -> Check {
    let (checks, _) = judge(plan, evidence);
    checks.into_iter().find(|check| check.name == name).unwrap()
}

#[test]
fn a_healthy_guest_holds_every_check_in_every_scenario_and_size() {
    for scenario in [
        "static-key-flip",
        "vunmap-storm",
        "address-space-switch",
        "entry-matrix",
    ] {
        for vcpus in [None, Some(2), Some(5), Some(64)] {
            let (plan, evidence) = evidence(scenario, vcpus, Script::default());
            let (checks, _) = judge(&plan, &evidence);
            let not_held: Vec<&Check> = checks.iter().filter(|c| c.status != Held).collect();
            assert!(not_held.is_empty(), "{scenario} {vcpus:?}: {not_held:?}");
            assert_eq!(overall(&plan, &checks), Held);
            let names: Vec<&str> = checks.iter().map(|check| check.name).collect();
            assert_eq!(names, CHECKS);
        }
    }
}

#[test]
fn evidence_says_how_many_what_and_how_often() {
    let script = sends();
    assert_eq!(
        check(ISOLATED_IPIS, "static-key-flip", script.clone()).evidence,
        "vCPU 2: 303 IPIs (call-function 303) from vCPU 0, 3.00 per operation"
    );
    assert_eq!(
        check(ISOLATED_IPIS, "vunmap-storm", script).evidence,
        "vCPU 2: 300 IPIs (call-function 300) from vCPU 0, 3.00 per operation"
    );
}

#[test]
fn a_timer_does_not_excuse_a_storm_of_ipis() {
    let script = Script {
        ipis_per_operation: 3,
        timers: 2,
        ..Script::default()
    };
    assert_eq!(
        check(ISOLATED_IPIS, "static-key-flip", script).status,
        Violated
    );
}

/// What KVM's own APICs tell: how many IPIs interrupted user space at least.
#[test]
fn ipis_known_to_have_interrupted_user_space_are_violated_beyond_what_others_excuse() {
    let script = Script {
        ipis_per_operation: 3,
        timers: 2,
        counters: Counting::NothingDeferred,
        ..Script::default()
    };
    let (plan, mut evidence) = evidence("static-key-flip", None, script);
    evidence.ledger.counts_only = true;
    let mut judged = |at_user| {
        evidence.ledger.cpus[2].window.ipis_at_user = at_user;
        let ipis = named(ISOLATED_IPIS, &plan, &evidence);
        let others = [USER_SPACE, COUNTERS].map(|name| named(name, &plan, &evidence).status);
        (ipis.status, others, ipis.evidence)
    };
    let sent = "vCPU 2: 303 IPIs (call-function 303) from vCPU 0, 3.00 per operation";
    let excused = format!("{sent}, but 2 other interrupts had it in the kernel: window not clean");
    for at_user in [0, 2] {
        let expected = (Error, [Error, Error], excused.clone());
        assert_eq!(judged(at_user), expected, "{at_user}");
    }
    let bound = |n| {
        format!(
            "{sent}; at least {n} interrupted user space, of which 2 other interrupts excuse at most 2"
        )
    };
    for at_user in [3, 300] {
        let expected = (Violated, [Violated, Violated], bound(at_user));
        assert_eq!(judged(at_user), expected, "{at_user}");
    }
}

#[test]
fn a_stale_page_is_as_bad_as_a_stale_branch() {
    let stale = || Script {
        stale: true,
        ..Script::default()
    };
    assert_eq!(
        check(COMPLETED, "vunmap-storm", stale()).evidence,
        "vCPU 2: still the old page behind the alias (0x1111) on first entry"
    );
    assert_eq!(
        check(COMPLETED, "static-key-flip", stale()).evidence,
        "vCPU 2: still the old branch (0x0) on first entry"
    );
}

#[test]
fn an_outcome_that_changes_nothing_proves_nothing() {
    let (plan, mut evidence) = evidence("static-key-flip", None, Script::default());
    evidence.windows[0].storm[0].value = 0;
    assert_eq!(named(COMPLETED, &plan, &evidence).status, Error);
    evidence.windows[0].storm[0].value = 7;
    let check = named(COMPLETED, &plan, &evidence);
    assert_eq!(
        (check.status, check.evidence.contains("neither")),
        (Violated, true)
    );
}

#[test]
fn what_was_executed_is_said_with_its_place_and_what_was_pending() {
    assert_eq!(
        check(COMPLETED, "static-key-flip", Script::default()).evidence,
        "vCPU 2: by what was executed, caught up (303 pokes, 0 flushes pending) at instruction: \
         SYSCALL 3 of 9; vCPU 2: the new branch (0x0 -> 0x1) on first entry"
    );
    let late = Script {
        path: Path::NoCatchUp,
        ..Script::default()
    };
    assert_eq!(
        check(COMPLETED, "static-key-flip", late.clone()).evidence,
        "vCPU 2, SYSCALL: text not caught up with before instruction 4, ordinary kernel code"
    );
    assert_eq!(
        check(COMPLETED, "vunmap-storm", late).evidence,
        "vCPU 2, SYSCALL: translations not caught up with before instruction 4, ordinary kernel \
         code"
    );
    assert_eq!(
        check(FLAG_ORDER, "static-key-flip", Script::default()).evidence,
        "vCPU 2: flag set before the catch-up, cleared with the user page table loaded; by \
         instruction: SYSCALL 2 < 3"
    );
}

#[test]
fn without_a_module_what_was_executed_still_decides() {
    let (plan, mut evidence) = evidence("static-key-flip", None, Script::default());
    evidence.module = false;
    evidence.windows[0].baseline.clear();
    let check = named(COMPLETED, &plan, &evidence);
    assert_eq!(
        (check.status, check.evidence.contains("branch")),
        (Held, false)
    );
}

#[test]
fn without_breakpoints_the_right_value_is_told_and_proves_nothing_but_a_stale_one_does() {
    let script = |stale| Script {
        debug: Debugging::NO_BREAKPOINTS,
        stale,
        ..Script::default()
    };
    let skipped = check(COMPLETED, "static-key-flip", script(false));
    assert_eq!(skipped.status, Skipped);
    assert!(
        skipped.evidence.contains("no working breakpoints"),
        "{skipped:?}"
    );
    assert!(skipped.evidence.contains("proves little"), "{skipped:?}");
    let (mut plan, evidence) = evidence("static-key-flip", None, script(false));
    let mut verdict = |isolation_only| {
        plan.isolation_only = isolation_only;
        overall(&plan, &judge(&plan, &evidence).0)
    };
    assert_eq!([verdict(false), verdict(true)], [Skipped, Held]);
    // A flip takes three IPIs: a witness of one did not see flips.
    let stale = |further_witness_ipis| Script {
        further_witness_ipis,
        ..script(true)
    };
    let said = |script| check(COMPLETED, "static-key-flip", script).status;
    assert_eq!([stale(0), stale(2)].map(said), [Error, Violated]);
}

#[test]
fn a_way_in_that_cannot_be_produced_is_named_and_hides_no_other() {
    let script = |path| Script {
        unproducible: vec![EntryKind::Debug],
        path,
        ..Script::default()
    };
    let held = check(DANGER_ZONE, "entry-matrix", script(Path::Right));
    assert_eq!(held.status, Held);
    assert!(
        held.evidence.contains("not looked at: vCPU 2, #DB:"),
        "{held:?}"
    );
    assert_eq!(
        check(DANGER_ZONE, "entry-matrix", script(Path::StaticKey)).status,
        Violated
    );
}

#[test]
fn a_kernel_without_a_known_flag_has_no_order_to_keep() {
    let (plan, mut evidence) = evidence("static-key-flip", None, Script::default());
    evidence.layout = Err("no vmlinux".to_owned());
    let (checks, entries) = judge(&plan, &evidence);
    for name in [COMPLETED, DANGER_ZONE, FLAG_ORDER] {
        let check = checks.iter().find(|check| check.name == name).unwrap();
        assert_eq!(check.status, Skipped, "{name}");
        assert!(check.evidence.contains("no vmlinux"), "{check:?}");
    }
    assert_eq!(entries[0].why.as_deref(), Some("no vmlinux"));
}

#[test]
fn what_must_be_delivered_is_held_when_it_comes_and_violated_when_it_does_not() {
    let script = |ipis_per_operation| Script {
        ipis_per_operation,
        ..Script::default()
    };
    for scenario in ["noinstr-key-flip", "entry-text-poke", "target-in-kernel"] {
        let (plan, all) = evidence(scenario, None, script(3));
        let (checks, _) = judge(&plan, &all);
        assert_eq!(overall(&plan, &checks), Held, "{scenario}: {checks:?}");
        let (plan, none) = evidence(scenario, None, script(0));
        let check = named(ISOLATED_IPIS, &plan, &none);
        assert_eq!(check.status, Violated, "{scenario}");
        assert!(check.evidence.contains("must be delivered"), "{check:?}");
    }
    assert_eq!(
        check(ISOLATED_IPIS, "noinstr-key-flip", script(3)).evidence,
        "vCPU 2: 99 IPIs (call-function 99) from vCPU 0, 3.00 per operation, as it must be: at \
         least 99"
    );
}

#[test]
fn the_handler_of_the_last_ipi_may_take_its_time() {
    let script = |in_handler| Script {
        ipis_per_operation: 3,
        in_handler,
        ..Script::default()
    };
    // The first look is the window's opening, before the storm.
    let held = check(USER_SPACE, "noinstr-key-flip", script(3));
    assert_eq!(held.status, Held, "{held:?}");
    let stuck = check(USER_SPACE, "noinstr-key-flip", script(u32::MAX));
    assert_eq!(stuck.status, Error, "{stuck:?}");
}

#[test]
fn ipis_that_must_come_have_to_interrupt_user_space_or_the_kernel_as_the_scenario_says() {
    let (plan, mut evidence) = evidence("noinstr-key-flip", None, sends());
    let held = named(USER_SPACE, &plan, &evidence);
    assert!(
        held.evidence
            .ends_with("interrupted there by 99 of 99 IPIs"),
        "{held:?}"
    );
    // One that came on the way out of the one before is one that came.
    evidence.ledger.cpus[2].window.ipis_at_user -= 1;
    assert_eq!(named(USER_SPACE, &plan, &evidence).status, Held);
    evidence.ledger.cpus[2].window.ipis_at_user = 1;
    assert_eq!(named(USER_SPACE, &plan, &evidence).status, Error);

    let (plan, mut evidence) = self::evidence("target-in-kernel", None, sends());
    assert_eq!(named(KERNEL, &plan, &evidence).status, Held);
    evidence.ledger.cpus[2].window.ipis_at_user = 1;
    assert_eq!(named(KERNEL, &plan, &evidence).status, Error);
    evidence.ledger.cpus[2].window.ipis_at_user = 0;
    evidence.windows[0].marks.get_mut(&2).unwrap().1.cpl = 3;
    assert_eq!(named(KERNEL, &plan, &evidence).status, Error);
    evidence.windows[0].marks.get_mut(&2).unwrap().1.cpl = 0;
    evidence.windows[0].released.get_mut(&2).unwrap().errno = 110;
    assert_eq!(named(KERNEL, &plan, &evidence).status, Error);
    // Too few IPIs say nothing then.
    assert_eq!(named(ISOLATED_IPIS, &plan, &evidence).status, Held);
    let spared = Script::default();
    let (plan, mut evidence) = self::evidence("target-in-kernel", None, spared);
    assert_eq!(named(ISOLATED_IPIS, &plan, &evidence).status, Violated);
    evidence.windows[0].released.get_mut(&2).unwrap().errno = 110;
    let check = named(ISOLATED_IPIS, &plan, &evidence);
    assert_eq!(check.status, Error, "{check:?}");
    assert!(
        check.evidence.ends_with("it did not stay (errno 110)"),
        "{check:?}"
    );
}

#[test]
fn as_many_ipis_as_are_allowed_interrupt_user_space_and_nothing_else_may() {
    let judged = |allowed, timers| {
        let script = Script {
            ipis_per_operation: 1,
            timers,
            ..Script::default()
        };
        let (mut plan, evidence) = evidence("static-key-flip", None, script);
        plan.scenario.expect.isolated = IsolatedIpis::AtMost(allowed);
        let user_space = named(USER_SPACE, &plan, &evidence);
        let ipis = named(ISOLATED_IPIS, &plan, &evidence);
        (ipis.status, user_space.status, user_space.evidence)
    };
    let (ipis, user_space, words) = judged(101, 0);
    assert_eq!((ipis, user_space), (Held, Held), "{words}");
    assert!(
        words.ends_with("interrupted there by 101 of 101 IPIs"),
        "{words}"
    );
    let (ipis, user_space, _) = judged(100, 0);
    assert_eq!((ipis, user_space), (Violated, Violated));
    let (ipis, user_space, words) = judged(101, 1);
    assert_eq!((ipis, user_space), (Held, Error), "{words}");
}

#[test]
fn without_a_housekeeping_vcpu_the_guests_count_must_do_and_the_check_says_so() {
    let (plan, evidence) = evidence("static-key-flip", Some(2), Script::default());
    let check = soundness::storm_ran(&plan, &evidence);
    assert_eq!(
        (check.status, check.evidence.as_str()),
        (
            Held,
            "101 operations by the guest's count; no housekeeping vCPU to bear witness"
        )
    );
}

#[test]
fn with_deferral_off_counters_that_stand_still_are_skipped_and_others_violated() {
    let (mut plan, still) = evidence(
        "static-key-flip",
        None,
        Script {
            counters: Counting::NothingDeferred,
            ..Script::default()
        },
    );
    plan.deferral = false;
    assert_eq!(counters::kernel_counters(&plan, &still).status, Skipped);
    let (_, grown) = evidence("static-key-flip", None, Script::default());
    assert_eq!(counters::kernel_counters(&plan, &grown).status, Violated);
}

#[test]
fn with_deferral_off_a_stock_storm_is_violated_and_nothing_else() {
    let (mut plan, evidence) = evidence("static-key-flip", None, sends());
    plan.deferral = false;
    let (checks, _) = judge(&plan, &evidence);
    let counters = checks.iter().find(|check| check.name == COUNTERS).unwrap();
    assert_eq!(
        (counters.status, overall(&plan, &checks)),
        (Skipped, Violated)
    );
}

#[test]
fn deferred_work_that_is_forgotten_is_violated_unless_it_is_pending_again() {
    let script = Script {
        counters: Counting::OneForgotten,
        ..Script::default()
    };
    let (plan, mut evidence) = evidence("static-key-flip", None, script);
    let check = counters::kernel_counters(&plan, &evidence);
    assert_eq!(
        (check.status, check.evidence.as_str()),
        (Violated, "CPU 2: 303 deferred, only 302 caught up with")
    );
    if let Ok(Some(counters)) = &mut evidence.after.counters {
        counters.get_mut(&2).unwrap().pending = Some(1);
    }
    assert_eq!(counters::kernel_counters(&plan, &evidence).status, Held);
}

#[test]
fn counters_that_run_backwards_or_vanish_are_errors() {
    let (plan, good) = evidence("static-key-flip", None, Script::default());
    let mut backwards = good.clone();
    std::mem::swap(
        &mut backwards.before.counters,
        &mut backwards.after.counters,
    );
    assert_eq!(counters::kernel_counters(&plan, &backwards).status, Error);
    let mut vanished = good;
    vanished.after.counters = Ok(None);
    assert_eq!(counters::kernel_counters(&plan, &vanished).status, Error);
}

#[test]
fn what_the_ledger_could_not_keep_is_an_error() {
    let (_, good) = evidence("static-key-flip", None, Script::default());
    let status = |evidence: &Evidence| soundness::nothing_lost(evidence, "a smaller one").status;
    let mut dropped = good.clone();
    dropped.ledger.dropped = 1;
    let mut strange = good.clone();
    strange.ledger.strangers = 1;
    let all = [good, dropped, strange];
    assert_eq!(all.each_ref().map(status), [Held, Error, Error]);
}

#[test]
fn without_interrupt_rows_the_way_round_cannot_be_looked_for() {
    let (_, mut evidence) = evidence("static-key-flip", None, Script::default());
    evidence.after.interrupts.rows.clear();
    assert_eq!(soundness::no_way_round(&evidence).status, Skipped);
}

#[test]
fn evidence_that_lacks_an_isolated_vcpu_is_never_held() {
    let (plan, good) = evidence("static-key-flip", None, Script::default());
    let mut blind = good.clone();
    blind.windows[0].marks.clear();
    blind.windows[0].released.clear();
    blind.windows[0].records.clear();
    blind.ledger.cpus.truncate(2);
    let (checks, _) = judge(&plan, &blind);
    for name in [ISOLATED_IPIS, USER_SPACE, COMPLETED] {
        let check = checks.iter().find(|check| check.name == name).unwrap();
        assert_eq!(check.status, Error, "{name}");
    }
}

#[test]
fn an_allowed_number_of_ipis_is_allowed_and_no_more() {
    let script = Script {
        ipis_per_operation: 1,
        ..Script::default()
    };
    let (mut plan, evidence) = evidence("static-key-flip", None, script);
    plan.scenario.expect.isolated = IsolatedIpis::AtMost(101);
    assert_eq!(ipis::isolated_ipis(&plan, &evidence).status, Held);
    plan.scenario.expect.isolated = IsolatedIpis::AtMost(100);
    assert_eq!(ipis::isolated_ipis(&plan, &evidence).status, Violated);
}
