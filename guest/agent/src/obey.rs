//! The rig's commands: decoded, carried out, answered.

use std::sync::atomic::Ordering;

use ipirig_abi::module::{Flip, Move, Storm};
use ipirig_abi::{Command, Control, Mailbox, Status};

use crate::errno::Errno;
use crate::failure::{During, Failure};

/// What commands act on: the real guest, or a test's.
pub(crate) trait Guest {
    /// The module's triggers, if the guest has the module.
    fn triggers(&self) -> Option<&dyn Triggers>;
    /// The kernel's deferral counters; empty if it has none.
    fn counters(&self) -> Result<Vec<u8>, Failure>;
    /// `/proc/interrupts`.
    fn interrupts(&self) -> Result<Vec<u8>, Failure>;
    /// `uname -srvm`.
    fn version(&self) -> Result<Vec<u8>, Failure>;
    /// Signals the isolated task of `cpu`.
    fn signal(&self, cpu: u64) -> Result<(), Failure>;
}

/// The calls of `/dev/ipirig` that make the kernel send IPIs.
pub(crate) trait Triggers {
    /// Flips the private static key.
    fn flip(&self, request: &mut Flip) -> Result<(), Errno>;
    /// Maps, touches, unmaps and purges.
    fn storm(&self, request: &mut Storm) -> Result<(), Errno>;
    /// Puts another page behind the alias.
    fn move_alias(&self, request: &mut Move) -> Result<(), Errno>;
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
pub(crate) enum Then {
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

    /// Does what the command says.
    pub(crate) fn obey(&self, guest: &impl Guest) -> (Answer, Then) {
        let text = |text: Result<Vec<u8>, Failure>| match text {
            Ok(text) => Answer::text(text),
            Err(failure) => Answer::failed([0; 4], &failure),
        };
        let answer = match Command::try_from(self.code) {
            Ok(Command::Flip) => self.with_triggers(guest, Self::flip),
            Ok(Command::Vunmap) => self.with_triggers(guest, Self::vunmap),
            Ok(Command::ReadCounters) => text(guest.counters()),
            Ok(Command::ReadInterrupts) => text(guest.interrupts()),
            Ok(Command::ReadVersion) => text(guest.version()),
            Ok(Command::Signal) => self.signal(guest),
            Ok(Command::PowerOff) => return (Answer::text(Vec::new()), Then::PowerOff),
            Err(_) => Answer {
                status: Status::Unknown,
                text: format!("this agent knows no command {}", self.code).into(),
                ..Answer::text(Vec::new())
            },
        };
        (answer, Then::Wait)
    }

    fn with_triggers(
        &self,
        guest: &impl Guest,
        run: impl Fn(&Self, &dyn Triggers) -> Answer,
    ) -> Answer {
        match guest.triggers() {
            Some(triggers) => run(self, triggers),
            None => Answer {
                status: Status::NoModule,
                text: b"the initramfs has no /ipirig.ko".into(),
                ..Answer::text(Vec::new())
            },
        }
    }

    fn flip(&self, triggers: &dyn Triggers) -> Answer {
        let [count, ..] = self.args;
        let mut flip = Flip {
            count,
            ..Flip::default()
        };
        let outcome = triggers
            .flip(&mut flip)
            .during(|| format!("flip the static key {count} times"));
        Answer::new([flip.done, flip.enabled.into(), 0, 0], outcome)
    }

    fn signal(&self, guest: &impl Guest) -> Answer {
        let [cpu, ..] = self.args;
        let outcome = guest.signal(cpu);
        Answer::new([outcome.is_ok().into(), 0, 0, 0], outcome)
    }

    fn vunmap(&self, triggers: &dyn Triggers) -> Answer {
        let [rounds, pages, ..] = self.args;
        // Too many for the field are too many for the module, which says so.
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        let mut storm = Storm {
            rounds,
            pages,
            ..Storm::default()
        };
        let outcome = triggers
            .storm(&mut storm)
            .during(|| format!("{rounds} rounds of vmalloc and vfree of {pages} pages"));
        let mut moved = Move::default();
        let outcome = outcome.and_then(|()| {
            triggers
                .move_alias(&mut moved)
                .during(|| "move the vmalloc alias")
        });
        let word = if outcome.is_ok() { moved.word } else { 0 };
        Answer::new([storm.done, word, 0, 0], outcome)
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
