//! A result as a person reads it: a table of vCPUs, the checks, the verdict.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ipirig_checks::check::Verdict;
use ipirig_checks::overall::isolation_held;
use ipirig_scenario::Scenario;
use ipirig_verdict::result::{KernelInfo, RunResult, Vcpu};

use crate::attribution::Account;
use crate::cross_check;
use crate::paint::Paint;

/// The whole report, with a newline at its end.
#[must_use]
pub fn render(result: &RunResult, paint: Paint) -> String {
    let mut out = String::new();
    let scenario = &result.scenario;
    let deferral = if scenario.deferral { "on" } else { "off" };
    let title = paint.bold(&scenario.name);
    line(
        &mut out,
        format!("{title}: {}, deferral {deferral}", scenario.storm),
    );
    if let Some(kernel) = &result.kernel {
        let apic = result
            .machine
            .as_ref()
            .map(|machine| format!(", {}", machine.apic));
        let about = format!(
            "{}{}{}",
            describe(kernel),
            apic.unwrap_or_default(),
            kernel
                .paging
                .map(|paging| format!(", {paging}"))
                .unwrap_or_default()
        );
        line(&mut out, paint.dim(about));
    }
    warnings(&mut out, result);
    if !result.vcpus.is_empty() {
        line(&mut out, "");
        out += &table(&result.vcpus, paint);
    }
    let senders = Account::from(result).lines();
    if !senders.is_empty() {
        line(&mut out, "");
        line(&mut out, paint.dim("IPIs to isolated vCPUs"));
        for sender in senders {
            line(&mut out, format!("  {sender}"));
        }
    }
    if let Some(report) = &result.report {
        line(&mut out, "");
        line(&mut out, report.trim_end());
    }
    line(&mut out, "");
    let width = result
        .checks
        .iter()
        .map(|check| check.name.len())
        .max()
        .unwrap_or(0);
    for check in &result.checks {
        let status = paint.verdict(check.status, format!("{:<8}", check.status));
        line(
            &mut out,
            format!("{status}  {:<width$}  {}", check.name, check.evidence),
        );
    }
    if let Some(compared) = &result.cross_check {
        line(&mut out, "");
        out += &cross_check::render(compared);
    }
    line(&mut out, "");
    line(&mut out, verdict_line(result, paint));
    out
}

/// What there is to know before any number is read: how the kernel is not set up as planned and what it refused, then how
/// the machine is.
pub(crate) fn warnings(out: &mut String, result: &RunResult) {
    for setup in result.kernel.iter().flat_map(|kernel| &kernel.setup) {
        for difference in &setup.differences {
            line(out, format!("warning: {difference}"));
        }
        let refused = setup.switched_off.iter();
        for refused in refused.filter(|it| it.refused.is_some()) {
            line(out, format!("warning: {refused}"));
        }
    }
    for warning in result.machine.iter().flat_map(|machine| &machine.warnings) {
        line(out, format!("warning: {warning}"));
    }
}

/// The scenarios, by group, with a newline at the end.
#[must_use]
pub fn list(scenarios: &[Scenario], paint: Paint) -> String {
    let mut groups: BTreeMap<&str, Vec<&Scenario>> = BTreeMap::new();
    for scenario in scenarios {
        groups.entry(&scenario.group).or_default().push(scenario);
    }
    let width = scenarios
        .iter()
        .map(|scenario| scenario.name.len())
        .max()
        .unwrap_or(0);
    let mut out = String::new();
    for (group, members) in groups {
        line(&mut out, paint.bold(group));
        for scenario in members {
            line(
                &mut out,
                format!("  {:<width$}  {}", scenario.name, scenario.summary),
            );
        }
    }
    out
}

pub(crate) fn line(out: &mut String, text: impl AsRef<str>) {
    out.push_str(text.as_ref().trim_end());
    out.push('\n');
}

pub(crate) fn describe(kernel: &KernelInfo) -> String {
    let mut text = match &kernel.release {
        Some(release) => format!("Linux {release}"),
        None => kernel.path.clone(),
    };
    let origin: Vec<String> = kernel
        .package
        .iter()
        .map(|package| format!("linux-source {package}"))
        .chain(
            kernel
                .series
                .iter()
                .map(|series| format!("series {series}")),
        )
        .collect();
    if origin.is_empty() {
        if kernel.release.is_some() {
            let _ = write!(text, " ({})", kernel.path);
        }
    } else {
        let _ = write!(text, " ({})", origin.join(", "));
    }
    text
}

fn table(vcpus: &[Vcpu], paint: Paint) -> String {
    const HEAD: [&str; 6] = [
        "vCPU",
        "role",
        "IPIs in window",
        "other interrupts",
        "deferred",
        "caught up",
    ];
    let number = |count: Option<u64>| count.map_or("-".to_owned(), |count| count.to_string());
    let rows: Vec<[String; 6]> = vcpus
        .iter()
        .map(|vcpu| {
            [
                vcpu.id.to_string(),
                vcpu.role.to_owned(),
                counts(&vcpu.window.by_vector),
                counts(&vcpu.window.other_interrupts),
                number(vcpu.deferred),
                number(vcpu.caught_up),
            ]
        })
        .collect();
    let widths: [usize; 6] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].len());
        cells.chain([HEAD[column].len()]).max().unwrap_or(0)
    });
    let format_row = |cells: [&str; 6]| {
        let padded = std::array::from_fn::<_, 6, _>(|column| {
            let (cell, width) = (cells[column], widths[column]);
            // Numbers to the right, words to the left.
            if matches!(column, 0 | 4 | 5) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        padded.join("  ")
    };
    let mut out = String::new();
    line(&mut out, paint.dim(format_row(HEAD)));
    for (row, vcpu) in rows.iter().zip(vcpus) {
        let text = format_row(row.each_ref().map(String::as_str));
        // The rows that the verdict is about stand out.
        line(
            &mut out,
            if vcpu.role == "isolated" {
                paint.bold(text)
            } else {
                text
            },
        );
    }
    out
}

/// `0`, `303 call-function`, or `306: call-function 303, reschedule 3`.
pub(crate) fn counts(counts: &BTreeMap<String, u64>) -> String {
    let mut each = counts.iter();
    match (each.next(), counts.len()) {
        (None, _) => "0".to_owned(),
        (Some((name, count)), 1) => format!("{count} {name}"),
        _ => {
            let total: u64 = counts.values().sum();
            let list: Vec<String> = counts
                .iter()
                .map(|(name, count)| format!("{name} {count}"))
                .collect();
            format!("{total}: {}", list.join(", "))
        }
    }
}

/// What a `held` that was asked for with `--isolation-only` says besides.
pub(crate) const ISOLATION_ONLY: &str = "isolation only, so deferred work need not have been done";

fn verdict_line(result: &RunResult, paint: Paint) -> String {
    let with = |status| {
        let names = result.checks.iter().filter(|check| check.status == status);
        names.map(|check| check.name).collect::<Vec<_>>().join(", ")
    };
    let why = match result.verdict {
        Verdict::Held => {
            let skipped = with(Verdict::Skipped);
            let mut but = if result.isolation_only {
                format!("; {ISOLATION_ONLY}")
            } else {
                String::new()
            };
            if !skipped.is_empty() {
                let _ = write!(but, " (not checked: {skipped})");
            }
            let isolated = result.vcpus.iter().filter(|vcpu| vcpu.role == "isolated");
            let alone = isolated.map(|vcpu| vcpu.window.ipis_targeted).sum::<u64>() == 0;
            let what = match (alone, result.scenario.must_deliver) {
                (true, _) => "isolated CPUs were left alone",
                (false, true) => "the IPIs that must come came",
                (false, false) => "isolated CPUs got no IPIs but those that are allowed",
            };
            format!("{what}{but}")
        }
        Verdict::Violated => with(Verdict::Violated),
        Verdict::Error => format!("the rig could not tell: {}", with(Verdict::Error)),
        Verdict::Skipped => {
            let skipped = with(Verdict::Skipped);
            if isolation_held(&result.checks) {
                format!(
                    "isolated CPUs were left alone, but whether deferred work was done is not known \
                     (not checked: {skipped})"
                )
            } else {
                format!("not checked: {skipped}")
            }
        }
    };
    let timing = &result.timing;
    let mut times = String::new();
    if let (Some(ready), Some(window)) = (timing.ready(), timing.window_s) {
        let total = timing.total_s;
        let _ = write!(
            times,
            " [{ready}, window {window:.2} s, total {total:.1} s]"
        );
    }
    let word = result.verdict.to_string();
    format!(
        "{}: {why}{}",
        paint.verdict(result.verdict, word),
        paint.dim(times)
    )
}

#[cfg(test)]
mod tests {
    use ipirig_checks::check::Check;
    use ipirig_checks::{self as checks, check};
    use ipirig_entry::Paging;
    use ipirig_evidence::{KernelSetup, SwitchedOff};
    use ipirig_fake::{Counting, Script, evidence, plan};
    use ipirig_rig::run::KernelFiles;
    use ipirig_verdict::result::{MachineInfo, Timing};

    use super::*;

    /// The last line about a guest whose kernel file is stripped.
    fn last_line_of_stripped(isolation_only: bool) -> String {
        let (mut plan, mut evidence) = evidence("static-key-flip", None, Script::default());
        plan.isolation_only = isolation_only;
        evidence.layout = Err("no symbol `x`".to_owned());
        let result = RunResult::new(&plan, checks::judge(&plan, &evidence).0);
        let text = render(&result.with_evidence(&plan, &evidence), Paint::PLAIN);
        let last = text.lines().last().unwrap();
        last.split(" [").next().unwrap().to_owned()
    }

    #[test]
    fn a_verdict_on_isolation_alone_says_so_and_one_that_is_skipped_for_want_of_more_too() {
        assert_eq!(
            last_line_of_stripped(true),
            "held: isolated CPUs were left alone; isolation only, so deferred work need not have been \
             done (not checked: completed-on-entry, danger-zone, flag-order)"
        );
        assert_eq!(
            last_line_of_stripped(false),
            "skipped: isolated CPUs were left alone, but whether deferred work was done is not known \
             (not checked: completed-on-entry, danger-zone, flag-order)"
        );
    }

    fn rendered(script: Script, own: bool) -> String {
        let (plan, mut evidence) = evidence("static-key-flip", None, script);
        // The number of turns depends on the test machine.
        for (open, close) in evidence.windows[0].marks.values_mut() {
            close.heartbeat = open.heartbeat + 5000;
        }
        let files = KernelFiles {
            package: own.then(|| "6.12.1-1".to_owned()),
            series: own.then(|| "1a2b".to_owned()),
            ..KernelFiles::new("/boot/vmlinux", "/boot/initramfs")
        };
        let mut result = RunResult::new(&plan, checks::judge(&plan, &evidence).0);
        result.kernel = Some(KernelInfo::new(&files, "quiet"));
        result.machine = Some(MachineInfo {
            apic: "x2apic".into(),
            cores: vec![0, 0, 1],
            memory_mib: 256,
            warnings: vec!["vCPUs 0 and 1 share a core".into()],
        });
        let mut result = result.with_evidence(&plan, &evidence);
        result.timing = Timing {
            boot_s: Some(5.04),
            restored_s: None,
            window_s: Some(0.5),
            total_s: 7.0,
        };
        render(&result, Paint::PLAIN)
    }

    #[test]
    fn what_the_kernel_does_not_do_as_planned_or_refused_is_said_first() {
        let plan = plan("static-key-flip", None);
        let mut result = RunResult::new(&plan, Vec::new());
        let files = KernelFiles::new("/boot/vmlinux", "/boot/initramfs");
        let off = SwitchedOff::by_word("nowatchdog", "a watchdog bites");
        let refused = SwitchedOff {
            by: "0 in /sys/runtime".into(),
            would: "a server kicks".into(),
            refused: Some("EBUSY".into()),
        };
        result.kernel = Some(KernelInfo {
            setup: Some(KernelSetup {
                differences: vec!["it ticks".into()],
                switched_off: vec![off, refused],
                ..KernelSetup::default()
            }),
            ..KernelInfo::new(&files, "quiet")
        });
        let mut out = String::new();
        warnings(&mut out, &result);
        assert_eq!(
            out,
            "warning: it ticks\nwarning: 0 in /sys/runtime: refused (EBUSY), so a server kicks\n"
        );
    }

    #[test]
    fn a_held_run_reads_at_a_glance() {
        assert_eq!(
            rendered(Script::default(), true),
            "\
static-key-flip: 101 static key flips, deferral on
Linux 6.12.1-fake (linux-source 6.12.1-1, series 1a2b), x2apic, no PCIDs
warning: vCPUs 0 and 1 share a core

vCPU  role          IPIs in window     other interrupts  deferred  caught up
   0  control       0                  0                        0          0
   1  housekeeping  101 call-function  0                        0          0
   2  isolated      0                  0                      303        303

held      isolated-ipis          vCPU 2: no IPI
held      user-space-throughout  vCPU 2: CPL 3 at both ends, 5000 turns, no interrupt taken
held      storm-ran              101 operations; housekeeping vCPU 1 got 101 IPIs
held      completed-on-entry     vCPU 2: by what was executed, caught up (303 pokes, 0 flushes pending) at instruction: SYSCALL 3 of 9; vCPU 2: the new branch (0x0 -> 0x1) on first entry
held      danger-zone            vCPU 2: nothing patchable executed and no stale memory touched before that, in instructions: SYSCALL 2
held      flag-order             vCPU 2: flag set before the catch-up, cleared with the user page table loaded; by instruction: SYSCALL 2 < 3
held      kernel-counters        CPU 2: 303 deferred, 303 caught up with
held      nothing-lost           all 202 events of the window recorded
held      no-way-round           CAL: the kernel counts 101, the rig 101

held: isolated CPUs were left alone [boot 5.0 s, window 0.50 s, total 7.0 s]
"
        );
    }

    #[test]
    fn a_violated_run_says_what_came_and_how_often() {
        let script = Script {
            ipis_per_operation: 3,
            timers: 1,
            counters: Counting::Absent,
            paging: Paging {
                pcids: true,
                ..Paging::default()
            },
            ..Script::default()
        };
        assert_eq!(
            rendered(script, false),
            "\
static-key-flip: 101 static key flips, deferral on
Linux 6.12.1-fake (/boot/vmlinux), x2apic, PCIDs in use
warning: vCPUs 0 and 1 share a core

vCPU  role          IPIs in window     other interrupts  deferred  caught up
   0  control       0                  0                        -          -
   1  housekeeping  101 call-function  0                        -          -
   2  isolated      303 call-function  1 local-timer            -          -

violated  isolated-ipis          vCPU 2: 303 IPIs (call-function 303) from vCPU 0, 3.00 per operation
violated  user-space-throughout  vCPU 2: taken out of user space by 303 IPIs
held      storm-ran              101 operations; housekeeping vCPU 1 got 101 IPIs
skipped   completed-on-entry     vCPU 2, SYSCALL: nothing was deferred, 303 IPIs did the work; vCPU 2: the new branch (0x0 -> 0x1) on first entry, which proves little
skipped   danger-zone            vCPU 2, SYSCALL: nothing was deferred, 303 IPIs did the work
held      flag-order             vCPU 2: flag set before the catch-up, cleared with the user page table loaded; by instruction: SYSCALL 2 < 3
skipped   kernel-counters        the kernel has no /sys/kernel/debug/ipi_deferral
held      nothing-lost           all 809 events of the window recorded
held      no-way-round           CAL: the kernel counts 404, the rig 404

violated: isolated-ipis, user-space-throughout [boot 5.0 s, window 0.50 s, total 7.0 s]
"
        );
    }

    #[test]
    fn a_run_without_evidence_shows_the_report_and_why() {
        let plan = plan("static-key-flip", None);
        let check = Check::new(check::RUN, Verdict::Error, "the guest stopped during: boot");
        let mut result = RunResult::new(&plan, vec![check]);
        result.report = Some("vCPU 0: rip 0x10\n".into());
        assert_eq!(
            render(&result, Paint::PLAIN),
            "\
static-key-flip: 101 static key flips, deferral on

vCPU 0: rip 0x10

error     run  the guest stopped during: boot

error: the rig could not tell: run
"
        );
    }

    #[test]
    fn scenarios_are_listed_by_group() {
        assert_eq!(
            list(
                &["vunmap-storm", "entry-matrix", "static-key-flip"]
                    .map(|name| Scenario::find(name).unwrap()),
                Paint::PLAIN
            ),
            "\
entry
  entry-matrix     Enter the kernel by each way that x86-64 has: each must catch up first
text
  static-key-flip  Flip a static key: each flip syncs every CPU's instruction stream three times
tlb
  vunmap-storm     Map, touch and free vmalloc areas: each purge flushes every CPU's kernel translations
"
        );
    }

    #[test]
    fn several_kinds_of_interrupt_are_summed_and_listed() {
        let both = BTreeMap::from([
            ("call-function".to_owned(), 300),
            ("reschedule".to_owned(), 3),
        ]);
        assert_eq!(counts(&both), "303: call-function 300, reschedule 3");
        assert_eq!(counts(&BTreeMap::new()), "0");
    }
}
