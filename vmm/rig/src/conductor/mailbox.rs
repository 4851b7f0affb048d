//! The rig's half of the mailbox protocol: commands, orders, and waiting for either. Everything
//! read here is the guest's claim.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ipirig_abi::{AgentState, Command, Mailbox, Order, Status, TaskState, UnknownCode};
use ipirig_machine::{StopReason, Wakeup};

use super::{Conductor, Ended, EntryReport, NOT_PRODUCED, Phase, VcpuSample};

/// Loads that see everything the guest wrote before the word they read.
pub(super) const LOAD: Ordering = Ordering::Acquire;
/// Stores that make everything written before visible first.
const STORE: Ordering = Ordering::Release;

/// Characters of a guest's text that go into a message.
const TEXT_SHOWN: usize = 500;

/// Orders the task on an isolated vCPU to enter the kernel.
pub(super) fn post_order(mailbox: &Mailbox, cpu: usize, order: Order) {
    let slot = &mailbox.cpus[cpu];
    let seq = slot.order_seq.load(Ordering::Relaxed).wrapping_add(1);
    slot.order.store(order.into(), Ordering::Relaxed);
    slot.order_seq.store(seq, STORE);
}

pub(super) fn agent_state(mailbox: &Mailbox) -> Result<AgentState, UnknownCode> {
    AgentState::try_from(mailbox.header.agent.load(LOAD))
}

impl Conductor<'_> {
    /// Begins a phase and its deadline.
    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.deadline = Instant::now() + self.time_for(phase);
        (self.announce)(phase);
    }

    pub(super) fn time_for(&self, phase: Phase) -> std::time::Duration {
        let timeouts = &self.plan.timeouts;
        match phase {
            Phase::Boot | Phase::Restore => timeouts.boot,
            Phase::Prepare => timeouts.prepare,
            Phase::Observe => timeouts.phase + self.limit,
            // The sender waits for handlers that are stepped.
            Phase::Storm if self.follows_handlers() => timeouts.phase * 2,
            _ => timeouts.phase,
        }
    }

    /// Waits until `ready` finds what it looks for, the guest fails, or the phase's time is up.
    pub(super) fn wait_for<T>(
        &mut self,
        ready: impl Fn(&Mailbox) -> Option<T>,
    ) -> Result<T, Ended> {
        loop {
            if let Some(found) = ready(self.guest.mailbox()) {
                return Ok(found);
            }
            self.check_agent()?;
            if Instant::now() >= self.deadline {
                let (phase, waited) = (self.phase, self.time_for(self.phase));
                let (name, seconds) = (phase.to_string(), waited.as_secs());
                let reason = StopReason::Timeout {
                    phase: name,
                    seconds,
                };
                return Err(Ended::Timeout {
                    phase,
                    waited,
                    report: self.guest.report(reason),
                });
            }
            self.pause()?;
        }
    }

    /// Sleeps until the doorbell, but no longer than the poll interval.
    pub(super) fn pause(&mut self) -> Result<(), Ended> {
        self.pause_until((Instant::now() + self.plan.timeouts.poll).min(self.deadline))
    }

    /// Looks whether the guest still runs, and does not wait.
    pub(super) fn glance(&mut self) -> Result<(), Ended> {
        self.pause_until(Instant::now())
    }

    pub(super) fn pause_until(&mut self, until: Instant) -> Result<(), Ended> {
        let phase = self.phase;
        let woken = self
            .guest
            .wait(until)
            .map_err(|source| Ended::Machine { phase, source })?;
        self.machine(|guest| guest.catch_up())?;
        self.fetch_gaps();
        match woken {
            Wakeup::Doorbell | Wakeup::Deadline => Ok(()),
            Wakeup::Interrupted if self.ending => {
                // The request stays, so that no wait for the doorbell would last.
                std::thread::sleep(Duration::from_millis(1));
                Ok(())
            }
            Wakeup::Interrupted => Err(Ended::Interrupted { phase }),
            Wakeup::Stopped(reason) => Err(self.stopped(reason)),
        }
    }

    /// The guest's end, as the run's.
    pub(super) fn stopped(&mut self, reason: StopReason) -> Ended {
        // An agent that fails says why before its end stops the guest.
        if let Err(failed) = self.check_agent() {
            return failed;
        }
        let report = self.guest.report(reason.clone());
        Ended::Stopped {
            phase: self.phase,
            reason,
            report,
        }
    }

    fn check_agent(&self) -> Result<(), Ended> {
        let mailbox = self.guest.mailbox();
        let dead = self.isolated.iter().copied().find(|&cpu| {
            let state = mailbox.cpus[cpu].task.state.load(LOAD);
            TaskState::try_from(state) == Ok(TaskState::Failed)
        });
        // The agent outlives its tasks.
        match (agent_state(mailbox), dead) {
            (Ok(AgentState::Failed), _) | (Ok(_), Some(_)) => {}
            (Ok(_), None) => return Ok(()),
            (Err(UnknownCode(code)), _) => {
                return Err(self.protocol(format!("agent state {code}")));
            }
        }
        let text = self.text();
        Err(match dead {
            Some(cpu) => Ended::Task {
                phase: self.phase,
                cpu,
                text,
            },
            None => Ended::Agent {
                phase: self.phase,
                text,
            },
        })
    }

    /// Has the control task carry out a command and returns its results.
    pub(super) fn command(&mut self, command: Command, args: [u64; 4]) -> Result<[u64; 4], Ended> {
        self.begin_command(command, args);
        self.end_command(command)
    }

    /// Has the control task begin to carry out a command.
    pub(super) fn begin_command(&mut self, command: Command, args: [u64; 4]) {
        self.seq += 1;
        let seq = self.seq;
        let control = &self.guest.mailbox().control;
        control.command.store(command.into(), Ordering::Relaxed);
        for (cell, arg) in control.args.iter().zip(args) {
            cell.store(arg, Ordering::Relaxed);
        }
        control.seq.store(seq, STORE);
    }

    /// Whether the newest command has been carried out.
    pub(super) fn acknowledged(&self) -> bool {
        self.guest.mailbox().control.reply.ack.load(LOAD) == self.seq
    }

    /// Waits until the newest command, which is `command`, has been carried out, and returns its results.
    pub(super) fn end_command(&mut self, command: Command) -> Result<[u64; 4], Ended> {
        let seq = self.seq;
        self.wait_for(|mailbox| (mailbox.control.reply.ack.load(LOAD) == seq).then_some(()))?;

        let reply = &self.guest.mailbox().control.reply;
        let errno = reply.errno.load(LOAD);
        match Status::try_from(reply.status.load(LOAD)) {
            Ok(Status::Ok) => Ok([0, 1, 2, 3].map(|i| reply.results[i].load(LOAD))),
            Ok(Status::Failed) => Err(Ended::Command {
                command,
                errno,
                text: self.text(),
            }),
            Ok(Status::NoModule) => Err(Ended::Lacking {
                what: format!("{command:?} needs ipirig.ko in the guest"),
            }),
            Ok(Status::Lacking) => Err(Ended::Lacking { what: self.text() }),
            Ok(Status::Unknown) => {
                Err(self.protocol(format!("the agent does not know {command:?}")))
            }
            Err(UnknownCode(code)) => Err(self.protocol(format!("{command:?} ended as {code}"))),
        }
    }

    /// A command whose result is a text.
    pub(super) fn read(&mut self, command: Command) -> Result<String, Ended> {
        self.command(command, [0; 4])?;
        Ok(self.whole_text())
    }

    /// The guest's text as it is.
    pub(super) fn whole_text(&self) -> String {
        let bytes: Vec<u8> = self.guest.mailbox().text.iter().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Has the task on an isolated vCPU enter the kernel once.
    pub(super) fn order(&mut self, cpu: usize, order: Order) -> Result<EntryReport, Ended> {
        self.begin_order(cpu, order);
        self.end_order(cpu, order)
    }

    /// Orders the task on an isolated vCPU to enter the kernel.
    pub(super) fn begin_order(&mut self, cpu: usize, order: Order) {
        post_order(self.guest.mailbox(), cpu, order);
    }

    /// Whether the newest order is carried out.
    pub(super) fn obeyed(&self, cpu: usize) -> bool {
        let slot = &self.guest.mailbox().cpus[cpu];
        slot.task.order_ack.load(LOAD) == slot.order_seq.load(Ordering::Relaxed)
    }

    /// Whether the newest order was answered, and cannot be carried out on this host or kernel.
    pub(super) fn refused(&self, cpu: usize) -> bool {
        let errno = self.guest.mailbox().cpus[cpu].task.errno.load(LOAD);
        self.obeyed(cpu) && errno == NOT_PRODUCED
    }

    /// Waits until the newest order is carried out.
    pub(super) fn end_order(&mut self, cpu: usize, order: Order) -> Result<EntryReport, Ended> {
        let slot = &self.guest.mailbox().cpus[cpu];
        let seq = slot.order_seq.load(Ordering::Relaxed);
        self.wait_for(|mailbox| {
            let task = &mailbox.cpus[cpu].task;
            (task.order_ack.load(LOAD) == seq).then(|| EntryReport {
                order,
                branch: task.branch.load(LOAD),
                alias: task.alias.load(LOAD),
                errno: task.errno.load(LOAD),
            })
        })
    }

    pub(super) fn heartbeat(&self, cpu: usize) -> u64 {
        self.guest.mailbox().cpus[cpu].task.heartbeat.load(LOAD)
    }

    pub(super) fn sample(&mut self, cpu: usize) -> Result<VcpuSample, Ended> {
        match self.guest.sample(cpu) {
            Some(place) => Ok(place),
            None => {
                // It stopped; waiting says why.
                self.pause()?;
                Err(self.protocol(format!("vCPU {cpu} does not answer")))
            }
        }
    }

    pub(super) fn protocol(&self, what: String) -> Ended {
        Ended::Protocol {
            phase: self.phase,
            what,
        }
    }

    /// The guest's text, fit for a terminal: one line, no control characters, not endless.
    pub(super) fn text(&self) -> String {
        let bytes: Vec<u8> = self.guest.mailbox().text.iter().collect();
        let text = String::from_utf8_lossy(&bytes);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        words
            .chars()
            .filter(|c| ipirig_terminal::text::is_shown(*c))
            .take(TEXT_SHOWN)
            .collect()
    }
}
