//! From the outcome of a run to its result.

use std::error::Error;

use ipirig_checks::check::{Check, RUN, Verdict};
use ipirig_checks::judge;
use ipirig_evidence::ledger::Ledger;
use ipirig_evidence::{Evidence, chain};
use ipirig_machine::MachineError;
use ipirig_rig::conductor::Ended;
use ipirig_rig::run::{Conducted, Outcome, Setup};
use ipirig_scenario::plan::{Plan, Planned};

use crate::result::{KernelInfo, MachineInfo, RunResult, seconds};

/// The result of a run of `setup`.
#[must_use]
pub fn conclude(setup: &Setup, outcome: Outcome<Evidence>) -> RunResult {
    let plan = &setup.plan;
    finish(
        setup,
        outcome,
        |evidence, kernel, _| of_scenario(plan, evidence, kernel),
        |verdict, why| not_run(plan, verdict, why),
    )
}

/// The result of a run for which the host lacks something, or that failed before it began.
#[must_use]
pub fn not_run(plan: &Plan, verdict: Verdict, why: &dyn Error) -> RunResult {
    RunResult::new(plan, vec![Check::new(RUN, verdict, chain(why))])
}

/// What `judged` makes of what was seen, or `not_made` of that there was no machine, with all that is the
/// same for every run.
pub fn finish<E, P: Planned>(
    setup: &Setup<P>,
    outcome: Outcome<E>,
    judged: impl FnOnce(Result<E, Ended>, KernelInfo, &Ledger) -> RunResult,
    not_made: impl FnOnce(Verdict, &dyn Error) -> RunResult,
) -> RunResult {
    let plan = setup.plan.guest();
    let mut result = match outcome.course {
        Ok(conducted) => {
            let Conducted {
                evidence,
                cmdline,
                apic,
                cores,
                warnings,
                restored,
                ready,
                timeline,
            } = *conducted;
            let kernel = KernelInfo::new(&setup.kernel, &cmdline);
            let mut result = judged(evidence, kernel, &outcome.ledger);
            result.machine = Some(MachineInfo {
                apic: apic.to_owned(),
                cores,
                memory_mib: plan.memory_mib,
                warnings,
            });
            let timing = &mut result.timing;
            if restored {
                timing.restored_s = ready.map(seconds);
            } else {
                timing.boot_s = ready.map(seconds);
            }
            result.timeline = timeline;
            result
        }
        Err(error) => not_made(without_machine(&error), &error),
    };
    result.host = Some(outcome.host);
    result.timing.total_s = seconds(outcome.total);
    result
}

/// What it means that there is no machine.
fn without_machine(error: &MachineError) -> Verdict {
    if error.is_lack() {
        Verdict::Skipped
    } else {
        Verdict::Error
    }
}

/// What it means that there is no evidence.
pub fn without_evidence(ended: &Ended) -> Verdict {
    match ended {
        Ended::Lacking { .. } => Verdict::Skipped,
        _ => Verdict::Error,
    }
}

/// From how the conductor's work ended to a result.
fn of_scenario(plan: &Plan, outcome: Result<Evidence, Ended>, kernel: KernelInfo) -> RunResult {
    match outcome {
        Ok(evidence) => {
            let (checks, entries) = judge(plan, &evidence);
            let result = RunResult {
                entries,
                kernel: Some(kernel),
                ..RunResult::new(plan, checks)
            };
            result.with_evidence(plan, &evidence)
        }
        Err(ended) => RunResult {
            kernel: Some(kernel),
            report: ended.report().map(str::to_owned),
            ..not_run(plan, without_evidence(&ended), &ended)
        },
    }
}

#[cfg(test)]
mod tests {
    use ipirig_evidence::ledger::DETAILS;
    use ipirig_fake::kernel::layout;
    use ipirig_fake::{Fake, Moment, Script, plan};
    use ipirig_rig::conductor::{self, Start};
    use ipirig_rig::run::{KernelFiles, RunError};

    use super::*;
    use crate::exit::Code;

    fn run(script: Script) -> Result<RunResult, RunError> {
        let plan = plan("static-key-flip", None);
        let ledger = Ledger::new(plan.roles.len(), DETAILS);
        let mut guest = Fake::new(&plan, &ledger, script);
        let layout = Box::new(layout);
        let outcome = conductor::conduct(&mut guest, &plan, Start::Boot, layout, &ledger, &|_| {});
        let files = KernelFiles::new("k", "i");
        if let Err(ended) = &outcome
            && let Some(error) = RunError::interrupted(ended)
        {
            return Err(error);
        }
        let kernel = KernelInfo::new(&files, "");
        Ok(of_scenario(&plan, outcome, kernel))
    }

    fn code(script: Script) -> u8 {
        let code = match run(script) {
            Ok(result) => Code::from(result.verdict),
            Err(error) => Code::from(&error),
        };
        code as u8
    }

    #[test]
    fn every_ending_has_its_exit_code() {
        let stops = Script {
            stops_in: Some(Moment::Boot),
            ..Script::default()
        };
        let interrupted = Script {
            interrupted_in: Some(Moment::Order),
            ..Script::default()
        };
        let cases = [
            (Script::default(), 0),
            (
                Script {
                    ipis_per_operation: 3,
                    ..Script::default()
                },
                1,
            ),
            (
                Script {
                    no_witness: true,
                    ..Script::default()
                },
                3,
            ),
            (
                Script {
                    silent: true,
                    ..Script::default()
                },
                3,
            ),
            (stops, 3),
            (
                Script {
                    no_module: true,
                    ..Script::default()
                },
                4,
            ),
            (interrupted, 130),
        ];
        for (script, expected) in cases {
            assert_eq!(code(script.clone()), expected, "{script:?}");
        }
    }

    #[test]
    fn no_machine_is_skipped_only_where_the_host_lacks_something() {
        let io = std::io::Error::other;
        let parameters = vec!["kvm_intel.enable_ipiv".to_owned()];
        for (error, verdict) in [
            (MachineError::NoX2apic, Verdict::Skipped),
            (MachineError::IpisPastKvm { parameters }, Verdict::Skipped),
            (MachineError::NoStopping("steps".into()), Verdict::Skipped),
            (MachineError::Cpus(0), Verdict::Error),
            (MachineError::NoAnswer(1), Verdict::Error),
            (
                MachineError::Host {
                    what: "eventfd",
                    source: io("none left"),
                },
                Verdict::Error,
            ),
        ] {
            assert_eq!(without_machine(&error), verdict, "{error}");
        }
    }

    #[test]
    fn a_guest_that_comes_to_the_end_says_what_it_is_and_how_it_was_entered() {
        let result = run(Script::default()).unwrap();
        let entries = result.entries.iter().map(|it| (it.cpu, it.kind));
        assert_eq!(entries.collect::<Vec<_>>(), [(2, "syscall")]);
        let expected = KernelInfo {
            release: Some("6.12.1-fake".to_owned()),
            module: Some(true),
            paging: Some(ipirig_entry::Paging::default()),
            ..KernelInfo::new(&KernelFiles::new("k", "i"), "")
        };
        assert_eq!(result.kernel, Some(expected));
    }

    #[test]
    fn a_guest_that_stops_leaves_its_report_in_the_result() {
        let script = Script {
            stops_in: Some(Moment::Boot),
            ..Script::default()
        };
        let result = run(script).unwrap();
        let checks: Vec<(&str, Verdict, &str)> = result
            .checks
            .iter()
            .map(|c| (c.name, c.status, c.evidence.as_str()))
            .collect();
        let expected = "the guest stopped during: boot: triple fault on vCPU 1";
        assert_eq!(checks, [("run", Verdict::Error, expected)]);
        assert_eq!(
            result.report.as_deref(),
            Some("report: triple fault on vCPU 1")
        );
        let kernel = KernelInfo::new(&KernelFiles::new("k", "i"), "");
        assert_eq!(result.kernel, Some(kernel));
    }
}
