//! The rig's commands: decoded, carried out, answered.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ipirig_abi::module::LetGo;
use ipirig_abi::{Command, Control, KernelText, Mailbox, Status, StormKind};

use crate::behaviour::{Behaviour, Obedience};
use crate::execute::Executed;
use crate::tracing::Step;
use ipirig_storms as storms;
use ipirig_storms::{Interfaces, Progress, StormError, StormRequest, Symbols, Triggers};
use ipirig_system::{During, Failure};

/// What commands act on: the real guest, or a test's.
pub(crate) trait Guest {
    /// The module's triggers, if the guest has the module.
    fn triggers(&self) -> Option<&dyn Triggers>;
    /// What of the guest storms act on.
    fn interfaces(&self) -> Interfaces<'_>;
    /// Remembers, for the storms from now on, where the kernel has what it does not export.
    fn learn(&self, symbols: Symbols);
    /// The kernel's deferral counters; empty if it has none.
    fn counters(&self) -> Result<Vec<u8>, Failure>;
    /// The same, as they were before the first isolated task.
    fn boot_counters(&self) -> Vec<u8>;
    /// `/proc/interrupts`.
    fn interrupts(&self) -> Result<Vec<u8>, Failure>;
    /// `uname -srvm`.
    fn version(&self) -> Result<Vec<u8>, Failure>;
    /// The next part of what the kernel says of itself, or the first one.
    fn kernel_text(&self, text: KernelText, next: bool) -> Result<Vec<u8>, Failure>;
    /// Signals the isolated task of `cpu`.
    fn signal(&self, cpu: u64) -> Result<(), Failure>;
    /// Starts `count` processes that take part in the relays of `cpu`; how many do then.
    fn add_address_spaces(&self, cpu: u64, count: u64) -> Result<u64, StormError>;
    /// Starts a process that stays in a user-space loop on `cpu`.
    fn occupy(&self, cpu: u64) -> Result<(), Failure>;
    /// Takes `cpu` offline and brings it back.
    fn replug(&self, cpu: u64) -> Result<(), Failure>;
    /// Makes `cpus`, one bit each, a partition with the isolated tasks in it; what the kernel says of it.
    fn partition(&self, cpus: u64) -> Result<Vec<u8>, StormError>;
    /// Takes a step of recording what the kernel itself says of IPIs.
    fn trace(&self, step: Step) -> Result<Vec<u8>, StormError>;
    /// Writes a part of a file, as [`Command::Put`] explains; the file's length.
    fn put(&self, path_len: u64, from: u64, mode: u64) -> Result<u64, Failure>;
    /// Runs the command that was put for no longer than `limit`.
    fn execute(&self, limit: Duration) -> Result<Executed, Failure>;
    /// What it printed, from byte `from` on.
    fn output(&self, from: u64) -> Result<Vec<u8>, Failure>;
}

/// A command as the mailbox holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    seq: u32,
    code: u32,
    args: [u64; 4],
}

/// An answer as the mailbox holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    status: Status,
    errno: u32,
    results: [u64; 4],
    text: Vec<u8>,
}

/// What to do once the answer is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextAction {
    /// Wait for the next command.
    Wait,
    /// Stop the machine.
    PowerOff,
}

impl Request {
    /// The newest command if it is not the one numbered `seen`. No system call.
    pub(crate) fn newer_than(seen: u32, control: &Control) -> Option<Self> {
        let seq = control.seq.load(Ordering::Acquire);
        (seq != seen).then(|| Self {
            seq,
            code: control.command.load(Ordering::Relaxed),
            args: [0, 1, 2, 3].map(|at: usize| control.args[at].load(Ordering::Relaxed)),
        })
    }

    /// The command's number.
    pub(crate) fn seq(&self) -> u32 {
        self.seq
    }

    /// Does what the command says, as far as `behaviour` has it so.
    pub(crate) fn obey_as(
        &self,
        behaviour: &dyn Behaviour,
        guest: &impl Guest,
    ) -> (Answer, NextAction) {
        let Ok(command) = Command::try_from(self.code) else {
            return self.obey(guest);
        };
        let (mut answer, next) = match behaviour.obey(command, self.args) {
            Obedience::With(args) => Self { args, ..*self }.obey(guest),
            Obedience::Never => (Answer::text(Vec::new()), NextAction::Wait),
        };
        behaviour.answer(command, self.args, &mut answer.results, &mut answer.text);
        (answer, next)
    }

    /// Does what the command says.
    pub(crate) fn obey(&self, guest: &impl Guest) -> (Answer, NextAction) {
        let answer = match Command::try_from(self.code) {
            Ok(Command::ReadCounters) => Answer::said(guest.counters()),
            Ok(Command::ReadBootCounters) => Answer::text(guest.boot_counters()),
            Ok(Command::ReadInterrupts) => Answer::said(guest.interrupts()),
            Ok(Command::ReadVersion) => Answer::said(guest.version()),
            Ok(Command::ReadKernelText) => self.kernel_text(guest),
            Ok(Command::Signal) => self.signal(guest),
            Ok(Command::Storm) => self.storm(guest, storms::run),
            Ok(Command::Prepare) => self.storm(guest, storms::prepare),
            Ok(Command::Symbols) => self.symbols(guest),
            Ok(Command::LetGo) => self.with_triggers(guest, Self::let_go),
            Ok(Command::Trace) => self.trace(guest),
            Ok(Command::Put) => self.put(guest),
            Ok(Command::Execute) => self.execute(guest),
            Ok(Command::ReadOutput) => Answer::said(guest.output(self.args[0])),
            Ok(Command::AddressSpaces) => self.address_spaces(guest),
            Ok(Command::Occupy) => Answer::new([0; 4], guest.occupy(self.args[0])),
            Ok(Command::Replug) => Answer::new([0; 4], guest.replug(self.args[0])),
            Ok(Command::Partition) => Answer::said(guest.partition(self.args[0])),
            Ok(Command::PowerOff) => return (Answer::text(Vec::new()), NextAction::PowerOff),
            Err(_) => Answer {
                status: Status::Unknown,
                text: format!("this agent knows no command {}", self.code).into(),
                ..Answer::text(Vec::new())
            },
        };
        (answer, NextAction::Wait)
    }

    fn with_triggers(
        &self,
        guest: &impl Guest,
        run: impl Fn(&Self, &dyn Triggers) -> Answer,
    ) -> Answer {
        match guest.triggers() {
            Some(triggers) => run(self, triggers),
            None => Answer::no_module(),
        }
    }

    fn storm(
        &self,
        guest: &impl Guest,
        run: fn(&Interfaces<'_>, &StormRequest, &mut Progress) -> Result<(), StormError>,
    ) -> Answer {
        let [code, operations, size, target] = self.args;
        let kind = u32::try_from(code).ok();
        let Some(kind) = kind.and_then(|code| StormKind::try_from(code).ok()) else {
            let text = format!("this agent knows no storm {code}");
            return Answer::lacking([0; 4], text);
        };
        let request = StormRequest {
            kind,
            operations,
            size,
            target,
        };
        let mut progress = Progress::default();
        let outcome = run(&guest.interfaces(), &request, &mut progress);
        let results = [progress.done, progress.value, 0, 0];
        match outcome {
            Ok(()) => Answer::new(results, Ok(())),
            Err(stopped) => Answer::stopped(results, stopped),
        }
    }

    fn trace(&self, guest: &impl Guest) -> Answer {
        let Some(step) = Step::new(self.args) else {
            let text = format!("this agent knows no trace step {}", self.args[0]);
            return Answer::lacking([0; 4], text);
        };
        Answer::said(guest.trace(step))
    }

    fn kernel_text(&self, guest: &impl Guest) -> Answer {
        let [code, next, ..] = self.args;
        let text = u32::try_from(code).ok();
        let Some(text) = text.and_then(|code| KernelText::try_from(code).ok()) else {
            return Answer::lacking([0; 4], format!("this agent knows no kernel text {code}"));
        };
        Answer::said(guest.kernel_text(text, next != 0))
    }

    fn symbols(&self, guest: &impl Guest) -> Answer {
        let [text_poke, text_mutex, ..] = self.args;
        guest.learn(Symbols {
            text_poke,
            text_mutex,
        });
        Answer::text(Vec::new())
    }

    fn address_spaces(&self, guest: &impl Guest) -> Answer {
        let [cpu, count, ..] = self.args;
        match guest.add_address_spaces(cpu, count) {
            Ok(members) => Answer::new([members, 0, 0, 0], Ok(())),
            Err(stopped) => Answer::stopped([0; 4], stopped),
        }
    }

    fn put(&self, guest: &impl Guest) -> Answer {
        let [path_len, from, mode, _] = self.args;
        match guest.put(path_len, from, mode) {
            Ok(len) => Answer::new([len, 0, 0, 0], Ok(())),
            Err(failure) => Answer::failed([0; 4], &failure),
        }
    }

    fn execute(&self, guest: &impl Guest) -> Answer {
        let [limit_ms, ..] = self.args;
        match guest.execute(Duration::from_millis(limit_ms)) {
            Ok(Executed {
                ending,
                code,
                printed,
            }) => Answer::new([u32::from(ending).into(), code, printed, 0], Ok(())),
            Err(failure) => Answer::failed([0; 4], &failure),
        }
    }

    fn let_go(&self, triggers: &dyn Triggers) -> Answer {
        let mut request = LetGo::default();
        let outcome = triggers
            .let_go(&mut request)
            .during(|| "let go of the tasks that stay in the kernel");
        Answer::new([request.staying.into(), 0, 0, 0], outcome)
    }

    fn signal(&self, guest: &impl Guest) -> Answer {
        let [cpu, ..] = self.args;
        let outcome = guest.signal(cpu);
        Answer::new([outcome.is_ok().into(), 0, 0, 0], outcome)
    }
}

impl Answer {
    fn text(text: Vec<u8>) -> Self {
        Self {
            status: Status::Ok,
            errno: 0,
            results: [0; 4],
            text,
        }
    }

    /// A command that has a text for an answer, or was stopped.
    fn said<E: Into<StormError>>(text: Result<Vec<u8>, E>) -> Self {
        match text {
            Ok(text) => Self::text(text),
            Err(stopped) => Self::stopped([0; 4], stopped.into()),
        }
    }

    /// A command stopped by a failure.
    pub(crate) fn failed(results: [u64; 4], failure: &Failure) -> Self {
        let text = failure.to_string().into_bytes();
        Self {
            status: Status::Failed,
            errno: failure.code(),
            results,
            text,
        }
    }

    /// A command that did not come to its end.
    fn stopped(results: [u64; 4], stopped: StormError) -> Self {
        match stopped {
            StormError::Failed(failure) => Self::failed(results, &failure),
            StormError::Lacking(what) => Self::lacking(results, what),
            StormError::NoModule => Self::no_module(),
        }
    }

    fn no_module() -> Self {
        Self {
            status: Status::NoModule,
            ..Self::text(b"the initramfs has no /ipirig.ko".into())
        }
    }

    fn lacking(results: [u64; 4], what: String) -> Self {
        Self {
            status: Status::Lacking,
            results,
            ..Self::text(what.into())
        }
    }

    fn new(results: [u64; 4], outcome: Result<(), Failure>) -> Self {
        match outcome {
            Ok(()) => Self {
                results,
                ..Self::text(Vec::new())
            },
            Err(failure) => Self::failed(results, &failure),
        }
    }

    /// Puts the answer to `request` into the mailbox. The doorbell is the caller's.
    pub(crate) fn post(&self, request: &Request, mailbox: &Mailbox) {
        let reply = &mailbox.control.reply;
        reply.status.store(self.status.into(), Ordering::Relaxed);
        reply.errno.store(self.errno, Ordering::Relaxed);
        for (cell, &result) in reply.results.iter().zip(&self.results) {
            cell.store(result, Ordering::Relaxed);
        }
        mailbox.text.set(&self.text);
        reply.ack.store(request.seq, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
