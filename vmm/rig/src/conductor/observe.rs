//! An observation: the same boot, quiet and window as a scenario's, with a command of the user's in
//! the place of the storm, and nothing expected of anybody.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ipirig_abi::{Command, Ending, Role, TEXT_LEN};
use ipirig_evidence::gaps::GapRecord;
use ipirig_evidence::ledger::Ledger;
use ipirig_machine::clock;
use ipirig_scenario::EntryKind;
use ipirig_scenario::guest_files::GuestFile;
use ipirig_scenario::plan::GuestPlan;

use super::{Conductor, Ended, Evidence, Guest, LayoutOf, Phase, Start};

/// Most bytes of a command's output that are fetched from the guest.
const OUTPUT_MAX: u64 = 1 << 20;

/// What an observation brought to light.
#[derive(Clone, Debug)]
pub struct Observed {
    /// What a scenario's run brings to light too; one window, without a storm.
    pub evidence: Evidence,
    /// When the window opened and closed, in nanoseconds of the machine's clock.
    pub open_ns: (u64, u64),
    /// How long the isolated tasks were kept from their loops while the command ran, by vCPU.
    pub gaps: BTreeMap<usize, GapRecord>,
    /// Why the isolated vCPUs were not left alone before the window, if they were not.
    pub unrest: Option<String>,
    /// What became of the command.
    pub command: CommandEnd,
}

/// What became of a command in the guest, as the guest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandEnd {
    /// How it ended.
    pub ending: Ending,
    /// Its exit code, or the number of the signal that killed it.
    pub code: u64,
    /// Bytes that it printed.
    pub printed: u64,
    /// The first of these bytes: at most a MiB.
    pub output: Vec<u8>,
}

/// What the guest is to do while it is observed.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    /// The file with the command, as the agent looks for it.
    pub command: &'a GuestFile,
    /// What the command needs besides.
    pub files: &'a [GuestFile],
    /// How long the command may run.
    pub limit: Duration,
}

/// Conducts the observation of a guest that has just been started.
///
/// # Errors
///
/// See [`Ended`].
pub fn observe(
    guest: &mut dyn Guest,
    plan: &GuestPlan,
    workload: Workload<'_>,
    start: Start<'_>,
    layout: LayoutOf<'_>,
    ledger: &Ledger,
    phase: &dyn Fn(Phase),
) -> Result<Observed, Ended> {
    let isolated = plan.cpus(Role::Isolated);
    ledger
        .stacks()
        .tell_timers_of(isolated.into_iter().collect());
    let mut conductor = Conductor::of(guest, plan, ledger, phase);
    conductor.limit = workload.limit;
    conductor.observe(workload, start, layout)
}

impl Conductor<'_> {
    fn observe(
        mut self,
        workload: Workload<'_>,
        start: Start<'_>,
        layout: LayoutOf<'_>,
    ) -> Result<Observed, Ended> {
        let booted = self.boot(start, layout)?;
        for file in workload.files.iter().chain([workload.command]) {
            self.hand_over(file)?;
        }
        let unrest = self.quiet_if_it_can_be()?;

        let thresholds = self.thresholds()?;
        self.enter(Phase::Observe);
        let limit_ms = u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX);
        let (window, (opened, results, gaps, closed), time) =
            self.open_for(EntryKind::Syscall, false, |this, _| {
                let opened = clock::now();
                this.measure(&thresholds)?;
                this.begin_command(Command::Execute, [limit_ms, 0, 0, 0]);
                let results = match this.end_command(Command::Execute) {
                    // Ctrl-C ends the command, and what was seen so far is told. A second one ends us.
                    Err(Ended::Interrupted { .. }) => {
                        this.ending = true;
                        this.guest.mailbox().control.args[1].store(1, Ordering::Release);
                        this.deadline = Instant::now() + this.plan.timeouts.phase;
                        this.end_command(Command::Execute)?
                    }
                    results => results?,
                };
                let gaps = this.measured()?;
                Ok((opened, results, gaps, clock::now()))
            })?;
        let command = self.command_end(results)?;
        let evidence = self.conclude(booted, vec![window], time)?;
        Ok(Observed {
            evidence,
            open_ns: (opened, closed),
            gaps,
            unrest,
            command,
        })
    }

    /// Has the guest write a file, part by part.
    fn hand_over(&mut self, file: &GuestFile) -> Result<(), Ended> {
        self.enter(Phase::HandOver);
        let path = file.path.as_bytes();
        let mut from = 0;
        loop {
            // As long for each part as for any other phase: the file may be large.
            self.deadline = Instant::now() + self.time_for(self.phase);
            let rest = file.content.get(from..).unwrap_or_default();
            let part = rest.get(..TEXT_LEN / 2).unwrap_or(rest);
            self.guest.mailbox().handed.set(&[path, part].concat());
            let mode = u64::from(file.mode);
            let [len, ..] =
                self.command(Command::Put, [path.len() as u64, from as u64, mode, 0])?;
            from += part.len();
            if len != from as u64 {
                let file = &file.path;
                return Err(self.protocol(format!("{file} has {len} bytes, not {from}")));
            }
            if from == file.content.len() {
                return Ok(());
            }
        }
    }

    /// Waits for quiet, but not for ever: a kernel that ticks on isolated CPUs never is.
    fn quiet_if_it_can_be(&mut self) -> Result<Option<String>, Ended> {
        self.enter(Phase::Quiet);
        // So that a timer that is waited for in vain is not taken for unrest.
        let patience = self.plan.timeouts.timer + 4 * self.quiet_time;
        self.deadline = self.deadline.min(Instant::now() + patience);
        match self.quiet() {
            Ok(()) => Ok(None),
            Err(Ended::NeverQuiet { disturbed, .. }) => Ok(Some(disturbed)),
            Err(ended) => Err(ended),
        }
    }

    fn command_end(&mut self, results: [u64; 4]) -> Result<CommandEnd, Ended> {
        let [ending, code, printed, _] = results;
        let known = u32::try_from(ending).ok();
        let Some(ending) = known.and_then(|code| Ending::try_from(code).ok()) else {
            return Err(self.protocol(format!("the command ended as {ending}")));
        };
        let wanted = printed.min(OUTPUT_MAX);
        let mut output = Vec::new();
        while (output.len() as u64) < wanted {
            let from = output.len() as u64;
            self.command(Command::ReadOutput, [from, 0, 0, 0])?;
            let before = output.len();
            output.extend(self.guest.mailbox().text.iter().take(TEXT_LEN));
            // The guest says how much there is; it need not be so.
            if output.len() == before {
                break;
            }
        }
        output.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
        Ok(CommandEnd {
            ending,
            code,
            printed,
            output,
        })
    }
}
