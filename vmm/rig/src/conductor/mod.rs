//! The conductor: takes a started guest through the phases of a run and gathers the evidence.
//!
//! boot → what the storm needs done once → what the kernel says before → for each entry kind: baseline entries → quiet →
//! window: look, storm, look again → first entries → what the kernel says after. Every phase has a deadline; whatever goes wrong
//! ends the run with the phase's name. It does not judge; `ipirig-checks` does.

mod crossing;
mod gaps;
mod guest;
mod handlers;
mod identify;
mod mailbox;
mod observe;
mod prepare;
mod quiet;
mod release;
pub mod sweep;
mod trace;
mod window;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipirig_abi::{AgentState, Command, Role};
use ipirig_entry::{KernelLayout, Paging};
use ipirig_evidence::{
    Edge, EntryReport, Evidence, Handled, KernelSetup, KernelView, Mark, NOT_PRODUCED, NoRecord,
    Phase, Recorded, Sequence, StormReport, Tracing, USER, WindowRecord,
};
use ipirig_image::BuildId;
use ipirig_machine::{StopReason, Wakeup};

use gaps::Metering;
pub use guest::{Failure, Guest, VcpuSample};
pub use ipirig_scenario::guest_files::GuestFile;
pub use observe::{CommandEnd, Observed, Workload, observe};

use ipirig_evidence::guest_text::{self, Counters};
use ipirig_evidence::ledger::changes::Watched;
use ipirig_evidence::ledger::{Ledger, LedgerCounts};
use ipirig_scenario::plan::{GuestPlan, Plan};
use ipirig_scenario::{Part, Scenario};

use mailbox::agent_state;

/// Why a run ended without evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// SIGINT or SIGTERM.
    #[error("interrupted during: {phase}")]
    Interrupted {
        /// The phase.
        phase: Phase,
    },
    /// The guest lacks what the scenario needs.
    #[error("{what}")]
    Lacking {
        /// What it lacks.
        what: String,
    },
    /// The guest stopped.
    #[error("the guest stopped during: {phase}")]
    Stopped {
        /// The phase.
        phase: Phase,
        /// Why it stopped.
        #[source]
        reason: StopReason,
        /// Registers, code and console, for a person.
        report: String,
    },
    /// The deadline passed.
    #[error(
        "no progress for {} s during: {phase} (a slow host may need a longer --timeout)",
        waited.as_secs()
    )]
    Timeout {
        /// The phase.
        phase: Phase,
        /// How long it was given.
        waited: Duration,
        /// Registers, code and console, for a person.
        report: String,
    },
    /// The agent cannot go on.
    #[error("the guest's agent failed during: {phase}: {text}")]
    Agent {
        /// The phase.
        phase: Phase,
        /// What it says.
        text: String,
    },
    /// The task on an isolated vCPU died.
    #[error("the task on isolated vCPU {cpu} failed during: {phase}: {text}")]
    Task {
        /// The phase.
        phase: Phase,
        /// The vCPU.
        cpu: usize,
        /// What the agent says about it.
        text: String,
    },
    /// The agent could not carry out a command.
    #[error("the guest could not carry out {command:?} (errno {errno}): {text}")]
    Command {
        /// The command.
        command: Command,
        /// The guest's error number.
        errno: u32,
        /// What it says.
        text: String,
    },
    /// The other side of the mailbox does not follow the protocol.
    #[error("the guest broke the mailbox protocol during: {phase}: {what}")]
    Protocol {
        /// The phase.
        phase: Phase,
        /// What it did.
        what: String,
    },
    /// The kernel that runs is another build than the vmlinux that was given for it.
    #[error(
        "the guest's kernel has build id {running} and --vmlinux {given}: they are not of one build"
    )]
    OtherBuild {
        /// That of the kernel, as it says.
        running: BuildId,
        /// That of the vmlinux, in hexadecimal digits.
        given: String,
    },
    /// The kernel did not set the isolation up that the scenario needs.
    #[error("{what}")]
    NotIsolated {
        /// What is missing, with what the kernel says of it.
        what: String,
    },
    /// The isolated vCPUs were never left alone for long enough to open a window.
    #[error("no quiet moment of {} ms within {} s: {disturbed}", quiet.as_millis(), waited.as_secs())]
    NeverQuiet {
        /// How long a moment had to be.
        quiet: Duration,
        /// How long the rig waited for it.
        waited: Duration,
        /// Who disturbed whom.
        disturbed: String,
    },
    /// The machine failed.
    #[error("the machine failed during: {phase}")]
    Machine {
        /// The phase.
        phase: Phase,
        /// How.
        #[source]
        source: Failure,
    },
}

impl Ended {
    /// Registers, code and console lines, where the guest's end left some.
    #[must_use]
    pub fn report(&self) -> Option<&str> {
        match self {
            Self::Stopped { report, .. } | Self::Timeout { report, .. } => Some(report),
            _ => None,
        }
    }
}

/// Where things are in the kernel that the guest boots, given where SYSCALL goes in it (IA32_LSTAR);
/// or why that cannot be known: then no entry is judged.
pub type LayoutOf<'a> = Box<dyn FnOnce(u64) -> Result<KernelLayout, String> + 'a>;

/// Writes down a guest that is ready.
pub type Saving<'a> = Box<dyn FnOnce(&dyn Guest) + 'a>;

/// How a guest that has just been started comes to be ready.
pub enum Start<'a> {
    /// It boots.
    Boot,
    /// It boots, and is written down by this once it is ready.
    BootAndSave(Saving<'a>),
    /// It is restored, as it was when it was ready.
    Restored,
}

impl fmt::Debug for Start<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boot => "Boot",
            Self::BootAndSave(_) => "BootAndSave",
            Self::Restored => "Restored",
        })
    }
}

/// Conducts the run of a guest that has just been started.
///
/// # Errors
///
/// See [`Ended`].
pub fn conduct(
    guest: &mut dyn Guest,
    plan: &Plan,
    start: Start<'_>,
    layout: LayoutOf<'_>,
    ledger: &Ledger,
    phase: &dyn Fn(Phase),
) -> Result<Evidence, Ended> {
    Conductor::new(guest, plan, ledger, phase).run(&plan.scenario, start, layout)
}

struct Conductor<'a> {
    guest: &'a mut dyn Guest,
    plan: &'a GuestPlan,
    /// What is provoked; `None` where a command is observed.
    scenario: Option<&'a Scenario>,
    ledger: &'a Ledger,
    announce: &'a dyn Fn(Phase),
    isolated: Vec<usize>,
    phase: Phase,
    /// When the current phase must be over.
    deadline: Instant,
    /// Number of the newest command.
    seq: u32,
    /// Which of the kernel's functions that change text and mappings are watched, if its functions are
    /// known.
    watched: Option<Watched>,
    /// What the storm's kind is told of this kernel.
    target: u64,
    /// The guest's kernel traces its IPIs.
    tracing: Tracing,
    /// Handlers of IPIs, to be watched on isolated vCPUs.
    handlers: Vec<u64>,
    /// The windows' beginnings and ends, while the kernel traces.
    edges: Vec<(Edge, Edge)>,
    /// How long a command is observed.
    limit: Duration,
    /// Somebody asked for the end, and what is left is done in order.
    ending: bool,
    /// What isolated vCPUs executed for the IPIs of the window.
    handled: Vec<Handled>,
    /// What isolated tasks measure, while they do.
    metering: Metering,
    /// How long nothing may come before a window opens.
    quiet_time: Duration,
}

/// What is known of a guest that has booted, before any window.
struct Booted {
    module: bool,
    setup: Option<KernelSetup>,
    version: String,
    at_boot: Result<Option<Counters>, String>,
    before: KernelView,
    ledger_before: LedgerCounts,
    layout: Result<Arc<KernelLayout>, String>,
    paging: Option<Paging>,
}

impl<'a> Conductor<'a> {
    /// Of a scenario's run.
    fn new(
        guest: &'a mut dyn Guest,
        plan: &'a Plan,
        ledger: &'a Ledger,
        announce: &'a dyn Fn(Phase),
    ) -> Self {
        Self {
            scenario: Some(&plan.scenario),
            ..Self::of(guest, &plan.guest, ledger, announce)
        }
    }

    /// Of a guest in which nothing is provoked by us.
    fn of(
        guest: &'a mut dyn Guest,
        plan: &'a GuestPlan,
        ledger: &'a Ledger,
        announce: &'a dyn Fn(Phase),
    ) -> Self {
        let isolated = plan.cpus(Role::Isolated);
        let deadline = Instant::now();
        Self {
            guest,
            plan,
            scenario: None,
            ledger,
            announce,
            isolated,
            phase: Phase::Boot,
            deadline,
            seq: 0,
            watched: None,
            target: 0,
            tracing: Tracing::NotAsked,
            handlers: Vec::new(),
            edges: Vec::new(),
            limit: Duration::ZERO,
            ending: false,
            handled: Vec::new(),
            metering: Metering::default(),
            quiet_time: plan.timeouts.quiet,
        }
    }

    fn run(
        mut self,
        scenario: &Scenario,
        start: Start<'_>,
        layout: LayoutOf<'_>,
    ) -> Result<Evidence, Ended> {
        let booted = self.boot(start, layout)?;
        if let Ok(layout) = &booted.layout {
            self.watch(layout)?;
        }

        let mut windows = Vec::new();
        let mut window = Duration::ZERO;
        for &nth in &scenario.enter_before {
            let (seen, open) = self.entered_window(nth)?;
            windows.push(seen);
            window += open;
        }
        let entries = scenario.entries.iter();
        for &entry in entries.filter(|_| scenario.enter_before.is_empty()) {
            let (seen, open) =
                self.window(scenario, entry, booted.module, booted.layout.is_ok())?;
            windows.push(seen);
            window += open;
        }
        self.conclude(booted, windows, window)
    }

    /// Waits for the boot, and takes down how things are before any window.
    fn boot(&mut self, start: Start<'_>, layout: LayoutOf<'_>) -> Result<Booted, Ended> {
        self.enter(match start {
            Start::Restored => Phase::Restore,
            Start::Boot | Start::BootAndSave(_) => Phase::Boot,
        });
        self.wait_for(|mailbox| (agent_state(mailbox) == Ok(AgentState::Ready)).then_some(()))?;
        if let Start::BootAndSave(save) = start {
            self.enter(Phase::Save);
            save(self.guest);
        }
        self.machine(|guest| guest.settle())?;
        let module = self.has_module()?;
        let setup = self.setup()?;
        if setup.as_ref().is_some_and(KernelSetup::refused) {
            self.quiet_time = self.plan.timeouts.quiet + self.plan.timeouts.refused;
        }
        self.identify()?;
        if self.ledger.stacks().wanted() {
            let cpu = self.isolated.first().copied().unwrap_or_default();
            let lstar = self.machine(|guest| guest.lstar(cpu))?;
            self.ledger.stacks().begin(lstar);
        }
        let layout = self.layout(layout)?;
        let paging = self.paging(&layout)?;

        self.enter(Phase::Prepare);
        self.prepare(&layout)?;

        self.start_trace(&layout)?;
        self.enter(Phase::Before);
        let version = self.read(Command::ReadVersion)?;
        let at_boot = self.counters(Command::ReadBootCounters)?;
        self.machine(|guest| guest.catch_up())?;
        let ledger_before = self.ledger.counts();
        let before = self.kernel_view()?;
        Ok(Booted {
            module,
            setup,
            version,
            at_boot,
            before,
            ledger_before,
            layout,
            paging,
        })
    }

    /// Takes down how things are after the last window.
    fn conclude(
        &mut self,
        booted: Booted,
        windows: Vec<WindowRecord>,
        window: Duration,
    ) -> Result<Evidence, Ended> {
        self.enter(Phase::After);
        let after = self.kernel_view()?;
        self.machine(|guest| guest.catch_up())?;
        let ledger = self.ledger.counts();
        let tracing = self.read_trace()?;
        let wanted = self
            .scenario
            .is_some_and(|scenario| !scenario.expect.by_cause.is_empty());
        let sequence = wanted.then(|| Sequence {
            details: self.ledger.details().iter().copied().collect(),
            sightings: self.ledger.changes().sightings(),
        });
        Ok(Evidence {
            module: booted.module,
            version: booted.version,
            setup: booted.setup,
            window,
            at_boot: booted.at_boot,
            before: booted.before,
            after,
            ledger_before: booted.ledger_before,
            ledger,
            blame: self.ledger.blame(),
            layout: booted.layout,
            paging: booted.paging,
            windows,
            tracing,
            sequence,
        })
    }

    /// What the storm consists of; nothing where there is none.
    fn parts(&self) -> Vec<Part> {
        self.scenario
            .map_or_else(Vec::new, |scenario| scenario.storm.parts())
    }

    /// Whether what isolated vCPUs execute for each IPI is followed.
    fn follows_handlers(&self) -> bool {
        self.scenario
            .is_some_and(|scenario| scenario.expect.handlers)
    }

    /// Has the machine do something.
    fn machine<T>(
        &mut self,
        job: impl FnOnce(&mut dyn Guest) -> Result<T, Failure>,
    ) -> Result<T, Ended> {
        let phase = self.phase;
        job(self.guest).map_err(|source| match self.guest.wait(Instant::now()) {
            // Whatever is asked of a guest that has stopped fails: why it stopped is what counts.
            Ok(Wakeup::Stopped(reason)) => self.stopped(reason),
            _ => Ended::Machine { phase, source },
        })
    }

    /// Where things are in the kernel that runs. `Ok(Err)`: entries cannot be judged, because of
    /// this.
    fn layout(&mut self, layout: LayoutOf<'_>) -> Result<Result<Arc<KernelLayout>, String>, Ended> {
        if let Some(why) = self.guest.cannot_stop() {
            return Ok(Err(why));
        }
        let cpu = self.isolated.first().copied().unwrap_or_default();
        let lstar = self.machine(|guest| guest.lstar(cpu))?;
        let mut layout = match layout(lstar) {
            Ok(layout) => layout,
            Err(why) => return Ok(Err(why)),
        };
        if let Some(variable) = layout.vmalloc_base() {
            let Some(base) = self.machine(|guest| guest.kernel_word(cpu, variable))? else {
                let why = "the kernel's variable vmalloc_base, which says where vmalloc memory is, cannot be read";
                return Ok(Err(why.to_owned()));
            };
            layout.put_vmalloc_at(base);
        }
        Ok(Ok(Arc::new(layout)))
    }

    /// How the kernel's page tables are set up, by those of an isolated vCPU that is in user space: it
    /// is most of the time.
    fn paging(
        &mut self,
        layout: &Result<Arc<KernelLayout>, String>,
    ) -> Result<Option<Paging>, Ended> {
        let vmalloc = match layout {
            Ok(layout) => layout.vmalloc.clone(),
            Err(_) => 0..0,
        };
        if !self.plan.isolated_in.has_task() {
            return Ok(None);
        }
        let cpu = self.isolated.first().copied().unwrap_or_default();
        let patience = Instant::now() + self.plan.timeouts.timer;
        loop {
            let paging = self.machine(|guest| guest.paging(cpu, &vmalloc))?;
            if paging.is_some() || Instant::now() >= patience {
                return Ok(paging);
            }
            self.pause()?;
        }
    }

    fn has_module(&self) -> Result<bool, Ended> {
        let module = match self.guest.mailbox().header.module.load(mailbox::LOAD) {
            0 => false,
            1 => true,
            other => return Err(self.protocol(format!("module = {other}"))),
        };
        if let Some(scenario) = self.scenario
            && scenario.needs_module()
            && !module
        {
            let name = &scenario.name;
            return Err(Ended::Lacking {
                what: format!(
                    "{name} needs the module ipirig.ko, which this guest's initramfs does not \
                     have for its kernel; give --initramfs with a module built for it"
                ),
            });
        }
        Ok(module)
    }

    fn kernel_view(&mut self) -> Result<KernelView, Ended> {
        let counters = self.counters(Command::ReadCounters)?;
        let interrupts = self.read(Command::ReadInterrupts)?;
        Ok(KernelView {
            counters,
            interrupts: guest_text::parse_interrupts(&interrupts),
        })
    }

    /// The deferral counters that `command` reads; the inner error is that they make no sense.
    fn counters(&mut self, command: Command) -> Result<Result<Option<Counters>, String>, Ended> {
        let text = self.read(command)?;
        Ok(guest_text::parse_counters(&text).map_err(|error| error.to_string()))
    }
}
