//! KTAP, the kernel's Test Anything Protocol (Documentation/dev-tools/ktap.rst), version 1: a
//! scenario is a test, each of its checks a subtest.
//!
//! | verdict | line |
//! | --- | --- |
//! | `held` | `ok` |
//! | `violated` | `not ok` |
//! | `error` | `not ok`, directive `ERROR` |
//! | `skipped` | `ok`, directive `SKIP` |

use std::fmt::Write as _;

use ipirig_checks::check::{Check, Verdict};
use ipirig_verdict::result::RunResult;

/// What ends the output for the kernel's own reader (KTAP_END in tools/testing/kunit/kunit_parser.py),
/// wherever in a line it is. A guest's console may well have them, and evidence quotes it.
const ENDS: [(&str, &str); 3] = [
    ("List of all partitions:", "List of all partitions :"),
    (
        "Kernel panic - not syncing: VFS:",
        "Kernel panic - not syncing: VFS :",
    ),
    ("reboot: System halted", "reboot : System halted"),
];

/// The results as one KTAP stream, with a newline at its end.
#[must_use]
pub fn ktap(runs: &[RunResult]) -> String {
    stream(runs, runs.len())
}

/// The results of those of `planned` tests that ended before `why` ended the whole. The plan has all of them, so that what
/// is missing is missed; the last line is that of the Test Anything Protocol itself, of which KTAP says nothing.
#[must_use]
pub fn bail_out(runs: &[RunResult], planned: usize, why: &str) -> String {
    let mut out = stream(runs, planned);
    let why: Vec<String> = lines(why).collect();
    let _ = writeln!(out, "Bail out! {}", why.join(" "));
    out
}

fn stream(runs: &[RunResult], planned: usize) -> String {
    let mut out = format!("KTAP version 1\n1..{planned}\n");
    for (number, run) in (1..).zip(runs) {
        scenario(&mut out, number, run);
    }
    out
}

fn scenario(out: &mut String, number: usize, run: &RunResult) {
    let name = &run.scenario.name;
    let _ = writeln!(out, "  KTAP version 1\n  # Subtest: {name}");
    let _ = writeln!(out, "  1..{}", run.checks.len());
    for (number, check) in (1..).zip(&run.checks) {
        diagnostic(out, "  ", check.name, &check.evidence);
        result(out, "  ", number, check.name, check.status, &check.evidence);
    }
    let deferral = if run.scenario.deferral { "on" } else { "off" };
    let only = if run.isolation_only {
        ", isolation only"
    } else {
        ""
    };
    let about = format!("{}, deferral {deferral}{only}", run.scenario.storm);
    diagnostic(out, "", name, &about);
    if let Some(kernel) = &run.kernel {
        let release = kernel.release.as_deref().unwrap_or(&kernel.path);
        diagnostic(out, "", name, &format!("Linux {release}"));
    }
    if let Some(report) = &run.report {
        diagnostic(out, "", name, report.trim_end());
    }
    result(out, "", number, name, run.verdict, &why(run));
}

/// The evidence of the first check that has the run's verdict.
fn why(run: &RunResult) -> String {
    let decisive = |check: &&Check| check.status == run.verdict;
    let check = run.checks.iter().find(decisive);
    check.map_or_else(String::new, |check| {
        format!("{}: {}", check.name, check.evidence)
    })
}

/// A result line. The reason follows a directive only: the checks' own evidence is in diagnostic
/// lines, and a plain `not ok` needs none.
pub(crate) fn result(
    out: &mut String,
    indent: &str,
    number: usize,
    name: &str,
    status: Verdict,
    why: &str,
) {
    let (word, directive) = match status {
        Verdict::Held => ("ok", None),
        Verdict::Violated => ("not ok", None),
        Verdict::Error => ("not ok", Some("ERROR")),
        Verdict::Skipped => ("ok", Some("SKIP")),
    };
    let _ = write!(out, "{indent}{word} {number} {name}");
    if let Some(directive) = directive {
        let why: Vec<String> = lines(why).collect();
        let _ = write!(out, " # {directive} {}", why.join(" "));
    }
    out.push('\n');
}

/// Diagnostic lines about `name`.
pub(crate) fn diagnostic(out: &mut String, indent: &str, name: &str, text: &str) {
    for line in lines(text) {
        let _ = writeln!(out, "{indent}# {name}: {line}");
    }
}

/// The lines of `text`, without what would mean something to a reader or a terminal.
fn lines(text: &str) -> impl Iterator<Item = String> {
    text.lines().map(|line| {
        let plain: String = line
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        ENDS.iter()
            .fold(plain, |line, (end, harmless)| line.replace(end, harmless))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::runs;

    #[test]
    fn each_scenario_is_a_test_and_each_check_a_subtest_with_its_evidence_before_it() {
        assert_eq!(
            ktap(&runs()),
            "\
KTAP version 1
1..4
  KTAP version 1
  # Subtest: static-key-flip
  1..5
  # isolated-ipis: vCPU 2: no IPI
  ok 1 isolated-ipis
  # user-space-throughout: vCPU 2: CPL 3 at both ends
  ok 2 user-space-throughout
  # storm-ran: 101 operations
  ok 3 storm-ran
  # danger-zone: no symbol `x`, so # of 100%
  ok 4 danger-zone # SKIP no symbol `x`, so # of 100%
  # nothing-lost: all 5 events recorded
  ok 5 nothing-lost
# static-key-flip: 101 static key flips, deferral on, isolation only
ok 1 static-key-flip
  KTAP version 1
  # Subtest: vunmap-storm
  1..3
  # isolated-ipis: vCPU 2: 101 <IPIs>, \"1\" & 'more'
  not ok 1 isolated-ipis
  # storm-ran: 100 rounds
  ok 2 storm-ran
  # flag-order: a record of
  # flag-order: two lines|
  # flag-order: or three
  not ok 3 flag-order # ERROR a record of two lines| or three
# vunmap-storm: 100 rounds of vmalloc and vfree, 8 pages each, deferral on
# vunmap-storm: Linux 6.12.1-test
not ok 2 vunmap-storm
  KTAP version 1
  # Subtest: vmap-stack
  1..1
  # run: boot: Kernel panic - not syncing: VFS :  [1mno root
  not ok 1 run # ERROR boot: Kernel panic - not syncing: VFS :  [1mno root
# vmap-stack: 16 processes created and killed, 4 at once, deferral on
# vmap-stack: vCPU 0: RIP 0x10
# vmap-stack:   reboot : System halted
not ok 3 vmap-stack # ERROR run: boot: Kernel panic - not syncing: VFS :  [1mno root
  KTAP version 1
  # Subtest: set-memory
  1..1
  # run: /dev/kvm does not exist
  ok 1 run # SKIP /dev/kvm does not exist
# set-memory: 20 times 1 pages uncached and cached again, deferral on
ok 4 set-memory # SKIP run: /dev/kvm does not exist
"
        );
    }

    #[test]
    fn what_ended_before_an_interruption_is_told_under_the_whole_plan_and_the_last_line_says_why() {
        let runs = runs();
        let whole = ktap(&runs[..2]);
        let cut = bail_out(&runs[..2], 4, "interrupted during:\nreboot: System halted");
        let expected = whole.replacen("1..2\n", "1..4\n", 1);
        assert_eq!(
            cut,
            format!("{expected}Bail out! interrupted during: reboot : System halted\n")
        );
        assert_eq!(
            bail_out(&[], 4, "no"),
            "KTAP version 1\n1..4\nBail out! no\n"
        );
    }
}
