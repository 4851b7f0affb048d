//! Several address spaces after the entry, and page tables that are not isolated.

use ipirig_entry::Paging;

use super::*;

const SPACES: &str = "address-space-switch";

fn completed(path: Path, pcids: bool) -> Check {
    let script = Script {
        path,
        paging: Paging {
            pcids,
            ..Paging::default()
        },
        ..Script::default()
    };
    check(COMPLETED, SPACES, script)
}

#[test]
fn each_pcid_is_flushed_before_it_is_used_or_the_load_that_uses_it_is_named() {
    let seen = "; vCPU 2: the new page behind the alias (0x1111 -> 0x2222) on first entry";
    let held = |how: &str| {
        let words = format!(
            "vCPU 2: by what was executed, caught up (0 pokes, 100 flushes pending) at instruction: \
             SYSCALL 3 of 33, then through 7 other address spaces and back ({how}){seen}"
        );
        Check::new(COMPLETED, Held, words)
    };
    let flushed = "8 PCIDs, none stale: 8 of 8 loads of CR3 flush";
    assert_eq!(completed(Path::Right, true), held(flushed));
    let none = "no PCIDs in use: each load of CR3 flushes";
    assert_eq!(completed(Path::Right, false), held(none));
    // There the bit that keeps translations means nothing.
    assert_eq!(completed(Path::StalePcids, false), held(none));
    let words = "vCPU 2, SYSCALL: instruction 7 touches memory at 0xfffffffffffffff8 under PCID 1, \
                 loaded by instruction 6 and not flushed since the window";
    assert_eq!(
        completed(Path::StalePcids, true),
        Check::new(COMPLETED, Violated, words)
    );
}

#[test]
fn an_entry_that_keeps_translations_is_violated_unless_ipis_had_them_flushed() {
    assert_eq!(completed(Path::KeepsNoflush, false).status, Held);
    let pcids = Paging {
        pcids: true,
        ..Paging::default()
    };
    let violated = |scenario, ipis_per_operation| -> Vec<&str> {
        let script = Script {
            path: Path::KeepsNoflush,
            paging: pcids,
            ipis_per_operation,
            ..Script::default()
        };
        let (plan, evidence) = evidence(scenario, None, script);
        let (checks, _) = judge(&plan, &evidence);
        let violated = checks.iter().filter(|check| check.status == Violated);
        violated.map(|check| check.name).collect()
    };
    for scenario in ["vunmap-storm", SPACES] {
        let entry = [COMPLETED, DANGER_ZONE, FLAG_ORDER];
        assert_eq!(violated(scenario, 0), entry, "{scenario}");
        // A kernel that does not defer keeps them rightly.
        let window = [ISOLATED_IPIS, USER_SPACE, COUNTERS];
        assert_eq!(violated(scenario, 3), window, "{scenario}");
    }
}

#[test]
fn fewer_address_spaces_than_there_are_prove_nothing() {
    let words = "vCPU 2, SYSCALL: the 21 instructions recorded are to go through 7 other address \
                 spaces and back, but load 4 page tables";
    assert_eq!(
        completed(Path::FewSpaces, true),
        Check::new(COMPLETED, Error, words)
    );
}

/// The checks that are not held in a guest without page table isolation that was sent IPIs.
fn without_isolation(scenario: &str, append: Option<&str>, path: Path) -> Vec<(Check, Verdict)> {
    let script = Script {
        ipis_per_operation: 3,
        path,
        paging: Paging {
            pcids: false,
            isolated: false,
            global: true,
        },
        ..Script::default()
    };
    let (mut plan, evidence) = evidence(scenario, None, script);
    plan.append = append.map(str::to_owned);
    let (checks, _) = judge(&plan, &evidence);
    let verdict = overall(&plan, &checks);
    checks
        .into_iter()
        .filter(|check| check.status != Held)
        .map(|check| (check, verdict))
        .collect()
}

#[test]
fn a_kernel_whose_isolation_the_user_switched_off_is_not_blamed() {
    for scenario in ["static-key-flip", "vunmap-storm", SPACES] {
        let checks = without_isolation(scenario, Some("quiet pti=off"), Path::Right);
        let names: Vec<_> = checks.iter().map(|(check, _)| check.name).collect();
        let expected = [
            ISOLATED_IPIS,
            USER_SPACE,
            COMPLETED,
            DANGER_ZONE,
            FLAG_ORDER,
            COUNTERS,
        ];
        assert_eq!(names, expected, "{scenario}");
        for (check, verdict) in &checks {
            assert_eq!((check.status, *verdict), (Skipped, Skipped), "{check:?}");
        }
        let why = "page table isolation is off, by `pti=off` on the command line";
        assert!(checks[0].0.evidence.ends_with(why), "{checks:?}");
        assert!(checks[5].0.evidence.ends_with(why), "{checks:?}");
    }
    // Off by itself, where the kernel's deferral is of a kind that needs it.
    let (check, verdict) = without_isolation("vunmap-storm", None, Path::Right).remove(0);
    assert_eq!(verdict, Skipped);
    let why =
        "page table isolation is off, without which a kernel with `kernel_cr3` defers nothing";
    assert!(check.evidence.ends_with(why), "{check:?}");
}

#[test]
fn a_kernel_that_may_defer_without_isolation_is_blamed_as_any_other() {
    let script = Script {
        ipis_per_operation: 3,
        paging: Paging {
            isolated: false,
            ..Paging::default()
        },
        ..Script::default()
    };
    let (plan, mut evidence) = evidence("vunmap-storm", None, script);
    evidence.layout = Err("no flag is known".to_owned());
    assert_eq!(named(ISOLATED_IPIS, &plan, &evidence).status, Violated);
}

#[test]
fn what_was_deferred_and_forgotten_is_no_fault_of_page_tables() {
    let script = Script {
        counters: Counting::OneForgotten,
        paging: Paging {
            isolated: false,
            ..Paging::default()
        },
        ..Script::default()
    };
    assert_eq!(check(COUNTERS, "vunmap-storm", script).status, Violated);
}

#[test]
fn global_translations_are_not_flushed_by_the_load_of_cr3() {
    let script = Script {
        paging: Paging {
            global: true,
            ..Paging::default()
        },
        ..Script::default()
    };
    let check = check(COMPLETED, "vunmap-storm", script);
    assert_eq!(check.status, Violated);
    let words = "translations not caught up with before instruction 5, ordinary kernel code";
    assert!(check.evidence.contains(words), "{check:?}");
}
