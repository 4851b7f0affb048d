//! Entries that a host cannot produce, and what the kernel's counters can say without them.

use ipirig_evidence::NoRecord;

use super::*;

/// What kernel-counters says of static-key-flip in which `caught_up` of 303 were caught up with, where the windows
/// ended with entries or, as `produced` says, without.
fn said(caught_up: u64, produced: &[bool]) -> (Verdict, String) {
    let (plan, mut evidence) = evidence("static-key-flip", None, Script::default());
    let before = match &evidence.before.counters {
        Ok(Some(counters)) => counters[&2].caught_up,
        other => panic!("{other:?}"),
    };
    if let Ok(Some(counters)) = &mut evidence.after.counters {
        counters.get_mut(&2).unwrap().caught_up = before + caught_up;
    }
    let window = evidence.windows[0].clone();
    evidence.windows = vec![];
    for produced in produced {
        let mut window = window.clone();
        if !produced {
            window.records.insert(2, Err(NoRecord::NotProduced));
        }
        evidence.windows.push(window);
    }
    let check = counters::kernel_counters(&plan, &evidence);
    (check.status, check.evidence)
}

#[test]
fn what_no_entry_could_catch_up_with_is_no_violation() {
    for (caught_up, produced, status, words) in [
        (
            0,
            &[false][..],
            Skipped,
            "303 deferred, 0 caught up with; no entry could be produced",
        ),
        (303, &[false], Held, "303 deferred, 303 caught up with"),
        (
            202,
            &[true, false],
            Skipped,
            "303 deferred, 202 caught up with; no entry could be produced after the last window",
        ),
        (
            303,
            &[true, false],
            Held,
            "303 deferred, 303 caught up with",
        ),
        // Entries that came and caught up with nothing are what they are.
        (
            0,
            &[true, false],
            Violated,
            "303 deferred, no entry caught up",
        ),
        (
            302,
            &[false, true],
            Violated,
            "303 deferred, only 302 caught up with",
        ),
        (0, &[true], Violated, "303 deferred, no entry caught up"),
    ] {
        let expected = (status, format!("CPU 2: {words}"));
        assert_eq!(said(caught_up, produced), expected, "{produced:?}");
    }
}
