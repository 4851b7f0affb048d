//! One run, from a plan to a result: makes the machine, has the conductor take it through, judges.

use std::cell::Cell;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ipirig_abi::Role;
use ipirig_entry::KernelLayout;
use ipirig_image::Image;
use ipirig_machine::{
    ApicMode, BootError, Config, ConsoleSinks, Host, Machine, MachineError, clock,
};

use crate::cmdline::command_line;
use crate::conductor::{self, Ended, Evidence, Guest, LayoutOf, Phase, Start};
use crate::ledger::{DETAILS, Ledger};
use crate::plan::Plan;
use crate::result::{KernelFiles, KernelInfo, MachineInfo, RunResult, seconds};
use crate::snapshots::{Place, Snapshots};
use crate::stacks::Code;
use crate::timeline::{Diary, Timeline};
use crate::verdict::{Check, RUN, Verdict, judge};

/// What a run needs besides a host.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What to do.
    pub plan: Plan,
    /// What to boot.
    pub kernel: KernelFiles,
    /// The APIC's face.
    pub apic: ApicMode,
    /// Where console output goes.
    pub console: ConsoleSinks,
    /// Where snapshots of booted guests are; `None`: each run boots.
    pub snapshots: Option<Snapshots>,
}

/// Why there is no result. Everything else that goes wrong is a result with the verdict `error`
/// or `skipped`, because whoever reads results wants to know.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// SIGINT or SIGTERM; the machine has been stopped.
    #[error("interrupted during: {phase}")]
    Interrupted {
        /// The phase.
        phase: Phase,
    },
    /// The machine cannot be made of what the user gave.
    #[error(transparent)]
    Input(MachineError),
}

/// Checks the kernel file before anything is started.
///
/// # Errors
///
/// What is wrong with the file.
pub fn check_kernel(path: &Path) -> Result<(), BootError> {
    ipirig_machine::check_kernel(path).map(|_format| ())
}

/// Checks an initramfs file before anything is started.
///
/// # Errors
///
/// What is wrong with the file.
pub fn check_initramfs(path: &Path) -> Result<(), BootError> {
    ipirig_machine::check_initramfs(path)
}

/// The result of a run for which the host lacks something, or that failed before it began.
#[must_use]
pub fn not_run(plan: &Plan, verdict: Verdict, why: &dyn Error) -> RunResult {
    RunResult::new(plan, vec![Check::new(RUN, verdict, chain(why))])
}

/// Runs `setup` on `host`. `phase` hears of each phase as it begins. The machine is gone when this
/// returns.
///
/// # Errors
///
/// See [`RunError`].
pub fn run(host: &Host, setup: &Setup, phase: &dyn Fn(Phase)) -> Result<RunResult, RunError> {
    let plan = &setup.plan;
    on_machine(
        host,
        setup,
        DETAILS,
        phase,
        |guest, start, layout, ledger, phase| {
            conductor::conduct(guest, plan, start, layout, ledger, phase)
        },
        |outcome, kernel, _| conclude(plan, outcome, kernel),
    )
}

/// Makes the machine, has `conduct` take the started guest through, and `conclude` make a result of
/// how that ended. The ledger has room for `details` events.
pub(crate) fn on_machine<E>(
    host: &Host,
    setup: &Setup,
    details: usize,
    phase: &dyn Fn(Phase),
    conduct: impl FnOnce(
        &mut Machine,
        Start<'_>,
        LayoutOf<'_>,
        &Ledger,
        &dyn Fn(Phase),
    ) -> Result<E, Ended>,
    conclude: impl FnOnce(Result<E, Ended>, KernelInfo, &Ledger) -> Result<RunResult, RunError>,
) -> Result<RunResult, RunError> {
    let started = Instant::now();
    let plan = &setup.plan;
    let ledger = Arc::new(Ledger::new(plan.roles.len(), details));
    let config = Config {
        roles: plan.roles.clone(),
        memory_mib: plan.memory_mib,
        kernel: setup.kernel.kernel.clone(),
        initramfs: setup.kernel.initramfs.clone(),
        cmdline: command_line(plan),
        apic: setup.apic,
        pin: plan.pin.clone(),
        console: setup.console.clone(),
    };
    let mut result = match made(host, setup, &config, &ledger) {
        Ok(Made {
            mut machine,
            origin,
            warnings,
        }) => {
            let kernel = KernelInfo::new(&setup.kernel, machine.cmdline());
            let mut about = MachineInfo {
                apic: match (machine.kernel_apic(), machine.x2apic()) {
                    (true, _) => "kernel",
                    (false, true) => "x2apic",
                    (false, false) => "xapic",
                }
                .to_owned(),
                cores: machine.placement().cores.clone(),
                memory_mib: plan.memory_mib,
                warnings: [machine.placement().warnings.clone(), warnings].concat(),
            };
            let unsaved = Cell::new(None);
            let start = match &origin {
                Origin::Snapshot => Start::Restored,
                Origin::Kernel { saved_to: None } => Start::Boot,
                Origin::Kernel {
                    saved_to: Some(place),
                } => Start::BootAndSave(Box::new(|guest| {
                    unsaved.set(save(guest, place).err());
                })),
            };
            let ready = Cell::new(None);
            let diary = Diary::default();
            let announce = |begun| {
                if !matches!(begun, Phase::Boot | Phase::Restore) && ready.get().is_none() {
                    ready.set(Some(started.elapsed()));
                }
                diary.begin(begun, clock::now());
                phase(begun);
            };
            let outcome = start_and(&mut machine, setup, &ledger, |machine, layout, ledger| {
                conduct(machine, start, layout, ledger, &announce)
            });
            let ended = clock::now();
            machine.stop();
            let mut result = conclude(outcome, kernel, &ledger)?;
            about.warnings.extend(unsaved.into_inner());
            result.machine = Some(about);
            if matches!(origin, Origin::Snapshot) {
                result.timing.boot_s = None;
                result.timing.restored_s = ready.get().map(seconds);
            }
            result.timeline = Timeline::new(plan, &ledger, &diary, ended);
            result
        }
        Err(error) if error.is_usage() => return Err(RunError::Input(error)),
        Err(
            error @ (MachineError::NoX2apic
            | MachineError::KvmEvents(_)
            | MachineError::IpisPastKvm { .. }),
        ) => not_run(plan, Verdict::Skipped, &error),
        Err(error) => not_run(plan, Verdict::Error, &error),
    };
    result.host = Some(host.facts().clone());
    result.timing.total_s = seconds(started.elapsed());
    Ok(result)
}

/// What is less with KVM's own APICs.
const COUNTS_ONLY: &str = "KVM's own APICs: IPIs are counted by the host's trace; from where they were sent and \
                           which were merged is not known, and what they interrupted only where the \
                           trace has KVM's entries of isolated vCPUs";

/// What a machine starts from.
enum Origin {
    /// A snapshot.
    Snapshot,
    /// The kernel's entry point, for a snapshot to be written later if there is a place for it.
    Kernel { saved_to: Option<Place> },
}

/// A machine, and how it came to be.
struct Made {
    machine: Machine,
    origin: Origin,
    /// Why it is not restored although it might have been.
    warnings: Vec<String>,
}

/// From a snapshot, if there is one that fits; else from the kernel.
fn made(
    host: &Host,
    setup: &Setup,
    config: &Config,
    ledger: &Arc<Ledger>,
) -> Result<Made, MachineError> {
    let mut warnings = Vec::new();
    let keeps = |_: &&Snapshots| setup.apic != ApicMode::Kernel;
    let place = match setup.snapshots.as_ref().filter(keeps) {
        Some(snapshots) => match snapshots.place(host, config) {
            Ok(place) => Some(place),
            // What is the machine's own fault is told when it is made.
            Err(error) => {
                warnings.push(format!("no snapshot was looked for: {}", chain(&error)));
                None
            }
        },
        None => None,
    };
    if let Some(place) = &place {
        match place.find() {
            Ok(Some(snapshot)) => match Machine::restore(host, config, ledger.clone(), &snapshot) {
                Ok(machine) => {
                    return Ok(Made {
                        machine,
                        origin: Origin::Snapshot,
                        warnings,
                    });
                }
                Err(error) if error.is_usage() => return Err(error),
                Err(source) => warnings.push(chain(&place.throw_away(source))),
            },
            Ok(None) => {}
            Err(error) => warnings.push(chain(&error)),
        }
    }
    let mut machine = Machine::new(host, config, ledger.clone())?;
    machine.expect_boot();
    if machine.kernel_apic() {
        machine.trace_kvm(&setup.plan.cpus(Role::Isolated))?;
        ledger.count_only();
        warnings.push(COUNTS_ONLY.to_owned());
    }
    Ok(Made {
        machine,
        origin: Origin::Kernel { saved_to: place },
        warnings,
    })
}

/// Writes the guest that is ready down for later runs; a run that cannot goes on without.
fn save(guest: &dyn Guest, place: &Place) -> Result<(), String> {
    let mut written = place.begin().map_err(|error| chain(&error))?;
    guest
        .save(&place.key, written.as_file_mut())
        .map_err(|error| format!("no snapshot was kept: {}", chain(&*error)))?;
    place.keep(written).map_err(|error| chain(&error))
}

fn start_and<E>(
    machine: &mut Machine,
    setup: &Setup,
    ledger: &Ledger,
    conduct: impl FnOnce(&mut Machine, LayoutOf<'_>, &Ledger) -> Result<E, Ended>,
) -> Result<E, Ended> {
    machine.start().map_err(|error| Ended::Machine {
        phase: Phase::Boot,
        source: error.into(),
    })?;
    // While the guest boots, on a core that it may not need.
    let files = &setup.kernel;
    let image = Image::open(&files.kernel);
    if setup.plan.stacks {
        ledger
            .stacks()
            .of(Code::read(&files.kernel, &files.initramfs));
    }
    let layout = Box::new(move |lstar| {
        let image = image.map_err(|error| chain(&error))?;
        KernelLayout::new(image, lstar).map_err(|error| chain(&error))
    });
    conduct(machine, layout, ledger)
}

/// From how the conductor's work ended to a result.
fn conclude(
    plan: &Plan,
    outcome: Result<Evidence, Ended>,
    kernel: KernelInfo,
) -> Result<RunResult, RunError> {
    let mut result = match &outcome {
        Ok(evidence) => {
            let (checks, entries) = judge(plan, evidence);
            RunResult {
                entries,
                ..RunResult::new(plan, checks)
            }
        }
        Err(Ended::Interrupted { phase }) => return Err(RunError::Interrupted { phase: *phase }),
        Err(ended @ Ended::Lacking { .. }) => not_run(plan, Verdict::Skipped, ended),
        Err(ended) => not_run(plan, Verdict::Error, ended),
    };
    result.kernel = Some(kernel);
    Ok(match outcome {
        Ok(evidence) => result.with_evidence(plan, &evidence),
        Err(ended) => RunResult {
            report: ended.report().map(str::to_owned),
            ..result
        },
    })
}

/// An error with all its causes, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conductor::fake::{Fake, Moment, Script, plan};
    use crate::conductor::fake_kernel::layout;
    use crate::exit::Code;

    fn run(script: Script) -> Result<RunResult, RunError> {
        let plan = plan("static-key-flip", None);
        let ledger = Ledger::new(plan.roles.len(), DETAILS);
        let mut guest = Fake::new(&plan, &ledger, script);
        let layout = Box::new(layout);
        let outcome = conductor::conduct(&mut guest, &plan, Start::Boot, layout, &ledger, &|_| {});
        let files = KernelFiles {
            kernel: "k".into(),
            initramfs: "i".into(),
            package: None,
            series: None,
        };
        conclude(&plan, outcome, KernelInfo::new(&files, ""))
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
    }
}
