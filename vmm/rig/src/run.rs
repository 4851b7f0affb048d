//! One run, from a plan to evidence: makes the machine, and has the conductor take it through.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipirig_abi::Role;
use ipirig_entry::KernelLayout;
use ipirig_evidence::ledger::{DETAILS, Ledger};
use ipirig_evidence::stacks::Code;
pub use ipirig_evidence::stacks::SymbolSource;
use ipirig_evidence::timeline::{Diary, Timeline};
use ipirig_evidence::{Evidence, Phase, chain};
use ipirig_machine::{
    ApicMode, Config, ConsoleSinks, Host, HostFacts, Machine, MachineError, clock,
};
use ipirig_scenario::cmdline::command_line;
use ipirig_scenario::plan::{Plan, Planned};
use ipirig_snapshots::{SnapshotPath, Snapshots};

use crate::conductor::{self, Ended, Guest, LayoutOf, Start};

/// What a run needs besides a host.
#[derive(Clone, Debug)]
pub struct Setup<P = Plan> {
    /// What to do.
    pub plan: P,
    /// What to boot.
    pub kernel: KernelFiles,
    /// The APIC's face.
    pub apic: ApicMode,
    /// The vCPUs' threads are confined.
    pub sandbox: bool,
    /// Where console output goes.
    pub console: ConsoleSinks,
    /// Where snapshots of booted guests are; `None`: each run boots.
    pub snapshots: Option<Snapshots>,
}

/// Which files to boot, and what is known of where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFiles {
    /// vmlinux or bzImage.
    pub kernel: PathBuf,
    /// Where the names of its addresses come from.
    pub symbols: SymbolSource,
    /// The initramfs with the agent.
    pub initramfs: PathBuf,
    /// The Debian version of the source, if we built it.
    pub package: Option<String>,
    /// A hash of the patches, if we built it.
    pub series: Option<String>,
}

impl KernelFiles {
    /// Files of which nothing else is known.
    #[must_use]
    pub fn new(kernel: impl Into<PathBuf>, initramfs: impl Into<PathBuf>) -> Self {
        Self {
            kernel: kernel.into(),
            symbols: SymbolSource::Kernel,
            initramfs: initramfs.into(),
            package: None,
            series: None,
        }
    }
}

/// What a run came to. `ipirig-checks` says what that means.
#[derive(Debug)]
pub struct Outcome<E> {
    /// What the machine did; or why there was none.
    pub course: Result<Box<Conducted<E>>, MachineError>,
    /// The host.
    pub host: HostFacts,
    /// How long it took, with making the machine.
    pub total: Duration,
    /// What was recorded of IPIs.
    pub ledger: Arc<Ledger>,
}

/// What a guest was taken through.
#[derive(Debug)]
pub struct Conducted<E> {
    /// What was seen; or why it ended before that.
    pub evidence: Result<E, Ended>,
    /// The kernel's whole command line.
    pub cmdline: String,
    /// `xapic`, `x2apic`, or `kernel` for KVM's own.
    pub apic: &'static str,
    /// Host core of each vCPU.
    pub cores: Vec<usize>,
    /// Of the placement of the vCPUs, and of snapshots.
    pub warnings: Vec<String>,
    /// Whether the guest was restored from a snapshot.
    pub restored: bool,
    /// Until the agent was ready, if it came to that: from the first instruction, or from looking for the snapshot.
    pub ready: Option<Duration>,
    /// What happened when.
    pub timeline: Timeline,
}

/// Why there is no outcome. Everything else that goes wrong is one, because whoever reads results wants to
/// know.
#[derive(Debug, thiserror::Error)]
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

impl RunError {
    /// What ended a run if somebody interrupted it.
    #[must_use]
    pub fn interrupted(ended: &Ended) -> Option<Self> {
        match ended {
            Ended::Interrupted { phase } => Some(Self::Interrupted { phase: *phase }),
            _ => None,
        }
    }
}

/// Runs `setup` on `host`. `phase` hears of each phase as it begins. The machine is gone when this
/// returns.
///
/// # Errors
///
/// See [`RunError`].
pub fn run(
    host: &Host,
    setup: &Setup,
    phase: &dyn Fn(Phase),
) -> Result<Outcome<Evidence>, RunError> {
    let plan = &setup.plan;
    on_machine(
        host,
        setup,
        DETAILS,
        phase,
        |guest, start, layout, ledger, phase| {
            conductor::conduct(guest, plan, start, layout, ledger, phase)
        },
    )
}

/// Makes the machine, and has `conduct` take the started guest through. The ledger has room for
/// `details` events.
pub(crate) fn on_machine<E, P: Planned>(
    host: &Host,
    setup: &Setup<P>,
    details: usize,
    phase: &dyn Fn(Phase),
    conduct: impl FnOnce(
        &mut Machine,
        Start<'_>,
        LayoutOf<'_>,
        &Ledger,
        &dyn Fn(Phase),
    ) -> Result<E, Ended>,
) -> Result<Outcome<E>, RunError> {
    let started = Instant::now();
    let plan = setup.plan.guest();
    let ledger = Arc::new(Ledger::new(plan.roles.len(), details));
    let config = Config {
        roles: plan.roles.clone(),
        memory_mib: plan.memory_mib,
        kernel: setup.kernel.kernel.clone(),
        symbols: setup.kernel.symbols.file().map(Path::to_owned),
        initramfs: setup.kernel.initramfs.clone(),
        cmdline: command_line(plan),
        apic: setup.apic,
        pin: plan.pin.clone(),
        sandbox: setup.sandbox,
        console: setup.console.clone(),
    };
    let course = match made(host, setup, &config, &ledger) {
        Ok(made) => {
            let conducted = conducted(made, started, setup, &ledger, phase, conduct);
            if let Err(ended) = &conducted.evidence
                && let Some(error) = RunError::interrupted(ended)
            {
                return Err(error);
            }
            Ok(Box::new(conducted))
        }
        Err(error) if error.is_usage() => return Err(RunError::Input(error)),
        Err(error) => Err(error),
    };
    Ok(Outcome {
        course,
        host: host.facts().clone(),
        total: started.elapsed(),
        ledger,
    })
}

/// Has `conduct` take the guest of a machine through, which then is stopped.
fn conducted<E, P: Planned>(
    made: NewMachine,
    started: Instant,
    setup: &Setup<P>,
    ledger: &Ledger,
    phase: &dyn Fn(Phase),
    conduct: impl FnOnce(
        &mut Machine,
        Start<'_>,
        LayoutOf<'_>,
        &Ledger,
        &dyn Fn(Phase),
    ) -> Result<E, Ended>,
) -> Conducted<E> {
    let NewMachine {
        mut machine,
        origin,
        warnings,
    } = made;
    let mut warnings = [machine.placement().warnings.clone(), warnings].concat();
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
    let began = match origin {
        Origin::Snapshot => started,
        Origin::Kernel { .. } => Instant::now(),
    };
    let ready = Cell::new(None);
    let diary = Diary::default();
    let announce = |begun| {
        if !matches!(begun, Phase::Boot | Phase::Restore) && ready.get().is_none() {
            ready.set(Some(began.elapsed()));
        }
        diary.begin(begun, clock::now());
        phase(begun);
    };
    let evidence = start_and(&mut machine, setup, ledger, |machine, layout, ledger| {
        conduct(machine, start, layout, ledger, &announce)
    });
    let ended = clock::now();
    machine.stop();
    warnings.extend(unsaved.into_inner());
    let log = machine.log_fault();
    warnings
        .extend(log.map(|fault| format!("the log of the guest's console is not whole: {fault}")));
    Conducted {
        evidence,
        cmdline: machine.cmdline().to_owned(),
        apic: match (machine.kernel_apic(), machine.x2apic()) {
            (true, _) => "kernel",
            (false, true) => "x2apic",
            (false, false) => "xapic",
        },
        cores: machine.placement().cores.clone(),
        warnings,
        restored: matches!(origin, Origin::Snapshot),
        ready: ready.get(),
        timeline: Timeline::new(setup.plan.entries(), ledger, &diary, ended),
    }
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
    Kernel { saved_to: Option<SnapshotPath> },
}

/// A machine, and how it came to be.
struct NewMachine {
    machine: Machine,
    origin: Origin,
    /// Why it is not restored although it might have been.
    warnings: Vec<String>,
}

/// From a snapshot, if there is one that fits; else from the kernel.
fn made<P: Planned>(
    host: &Host,
    setup: &Setup<P>,
    config: &Config,
    ledger: &Arc<Ledger>,
) -> Result<NewMachine, MachineError> {
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
                    return Ok(NewMachine {
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
        machine.trace_kvm(&setup.plan.guest().cpus(Role::Isolated))?;
        ledger.count_only();
        warnings.push(COUNTS_ONLY.to_owned());
    }
    Ok(NewMachine {
        machine,
        origin: Origin::Kernel { saved_to: place },
        warnings,
    })
}

/// Saves the guest that is ready for later runs; a run that cannot goes on without.
fn save(guest: &dyn Guest, place: &SnapshotPath) -> Result<(), String> {
    let mut written = place.begin().map_err(|error| chain(&error))?;
    guest
        .save(&place.key, written.file())
        .map_err(|error| format!("no snapshot was kept: {}", chain(&*error)))?;
    place.keep(written).map_err(|error| chain(&error))
}

fn start_and<E, P: Planned>(
    machine: &mut Machine,
    setup: &Setup<P>,
    ledger: &Ledger,
    conduct: impl FnOnce(&mut Machine, LayoutOf<'_>, &Ledger) -> Result<E, Ended>,
) -> Result<E, Ended> {
    machine.start().map_err(|error| Ended::Machine {
        phase: Phase::Boot,
        source: error.into(),
    })?;
    // While the guest boots, on a core that it may not need.
    let files = &setup.kernel;
    let image = files.symbols.image(&files.kernel);
    if setup.plan.guest().stacks {
        let code = Code::read(&files.kernel, &files.symbols, &files.initramfs);
        ledger.stacks().of(code);
    }
    let layout =
        Box::new(move |lstar| KernelLayout::new(image?, lstar).map_err(|error| chain(&error)));
    conduct(machine, layout, ledger)
}
