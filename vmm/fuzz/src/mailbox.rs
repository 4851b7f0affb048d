//! A whole run whose guest writes into the mailbox what it likes, when it likes: also where the rig writes, and texts of
//! noise. All else of the guest obeys (`ipirig-fake`).

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use ipirig_abi::{Command, Mailbox};
use ipirig_checks::judge;
use ipirig_entry::{Began, Paging, Record};
use ipirig_evidence::ledger::Ledger;
use ipirig_fake::{Fake, Script, kernel, plan};
use ipirig_machine::clock::Moment;
use ipirig_machine::{Line, StopReason, Wakeup};
use ipirig_rig::conductor::{Failure, Guest, Start, VcpuSample, conduct};
use ipirig_scenario::plan::Timeouts;

/// So short that a guest which does not answer costs nothing.
const TIMEOUTS: Timeouts = Timeouts {
    boot: Duration::from_millis(20),
    prepare: Duration::from_millis(20),
    phase: Duration::from_millis(20),
    quiet: Duration::from_millis(1),
    refused: Duration::from_millis(1),
    timer: Duration::from_millis(1),
    poll: Duration::from_millis(1),
};

/// Six bytes of the input: where something is written, and what.
const DEED: usize = 6;

struct Scribbler<'a> {
    guest: Fake<'a>,
    /// So many occasions pass before the first deed, so that each phase has its turn.
    idle: Cell<u8>,
    deeds: RefCell<std::slice::Chunks<'a, u8>>,
    /// Text that goes with a deed.
    noise: &'a [u8],
}

impl Scribbler<'_> {
    /// The next deed, if there is one.
    fn scribble(&self) {
        if self.idle.get() > 0 {
            self.idle.set(self.idle.get() - 1);
            return;
        }
        let Some(&[place, which, kind, a, b, c]) = self.deeds.borrow_mut().next() else {
            return;
        };
        let mailbox = self.guest.mailbox();
        let small = u32::from_le_bytes([a, b, 0, 0]);
        let word = match kind & 3 {
            0 => small & 0xf,
            1 => small,
            2 => u32::MAX - small,
            _ => u32::from_le_bytes([a, b, c, kind]),
        };
        let long = u64::from(word) << (kind >> 2 & 0x1f);
        let cpu = usize::from(which) % mailbox.cpus.len();
        let (slot, gaps) = match (mailbox.cpus.get(cpu), mailbox.gaps.get(cpu)) {
            (Some(slot), Some(gaps)) => (slot, gaps),
            _ => return,
        };
        let task = &slot.task;
        let reply = &mailbox.control.reply;
        let noise = self
            .noise
            .get(usize::from(a).min(self.noise.len())..)
            .unwrap_or_default();
        match place % 24 {
            0 => mailbox.header.agent.store(word, Relaxed),
            1 => mailbox.header.module.store(word, Relaxed),
            2 => mailbox.header.cpus.store(word, Relaxed),
            3 => reply.ack.store(word, Relaxed),
            4 => reply.status.store(word, Relaxed),
            5 => reply.errno.store(word, Relaxed),
            6..=9 => {
                for (cell, value) in reply.results.iter().zip([long, !long, 0, u64::from(small)]) {
                    cell.store(value, Relaxed);
                }
            }
            10 => task.heartbeat.store(long, Relaxed),
            11 => task.state.store(word, Relaxed),
            12 => task.order_ack.store(word, Relaxed),
            13 => task.branch.store(word, Relaxed),
            14 => task.errno.store(word, Relaxed),
            15 => task.alias.store(long, Relaxed),
            16 => task.signals.store(long, Relaxed),
            17 => task.signal.store(word, Relaxed),
            18 => slot.order_seq.store(word, Relaxed),
            19 | 20 => mailbox.text.set(noise),
            21 => mailbox.text.len.store(word, Relaxed),
            22 => mailbox.handed.set(noise),
            _ => {
                gaps.told.count.store(long, Relaxed);
                gaps.told.ticks.store(!long, Relaxed);
                gaps.told.longest.store(long, Relaxed);
                for [begin, ticks] in &gaps.told.ring {
                    begin.store(long, Relaxed);
                    ticks.store(u64::MAX - long, Relaxed);
                }
            }
        }
    }
}

impl Guest for Scribbler<'_> {
    fn mailbox(&self) -> &Mailbox {
        self.guest.mailbox()
    }

    fn wait(&mut self, deadline: Instant) -> Result<Wakeup, Failure> {
        self.scribble();
        let control = &self.guest.mailbox().control;
        // The guest of the script believes what its own half says.
        if Command::try_from(control.command.load(Relaxed)).is_err() {
            control.command.store(0, Relaxed);
        }
        let woken = self.guest.wait(deadline);
        self.scribble();
        woken
    }

    fn save(&self, key: &str, file: &mut File) -> Result<(), Failure> {
        self.guest.save(key, file)
    }

    fn settle(&mut self) -> Result<(), Failure> {
        self.guest.settle()
    }

    fn sample(&self, cpu: usize) -> Option<VcpuSample> {
        self.scribble();
        self.guest.sample(cpu)
    }

    fn moment(&self, cpu: usize) -> Result<Moment, Failure> {
        self.guest.moment(cpu)
    }

    fn cannot_stop(&self) -> Option<String> {
        self.guest.cannot_stop()
    }

    fn lstar(&self, cpu: usize) -> Result<u64, Failure> {
        self.guest.lstar(cpu)
    }

    fn read(&self, cpu: usize, address: u64, len: usize) -> Result<Option<Vec<u8>>, Failure> {
        self.guest.read(cpu, address, len)
    }

    fn kernel_word(&self, cpu: usize, address: u64) -> Result<Option<u64>, Failure> {
        self.guest.kernel_word(cpu, address)
    }

    fn paging(&self, cpu: usize, vmalloc: &Range<u64>) -> Result<Option<Paging>, Failure> {
        self.guest.paging(cpu, vmalloc)
    }

    fn watch(&self, cpu: usize, addresses: &[u64]) -> Result<(), Failure> {
        self.guest.watch(cpu, addresses)
    }

    fn arm(&self, cpu: usize, limit: usize, ways: &[Began]) -> Result<(), Failure> {
        // Who is told too early that the storm is over arms too early, which the guest of the script takes for a mistake.
        if self.guest.stormed() {
            return self.guest.arm(cpu, limit, ways);
        }
        Ok(())
    }

    fn follow(&self, cpu: usize, limit: usize, vectors: &[u8]) -> Result<(), Failure> {
        self.guest.follow(cpu, limit, vectors)
    }

    fn follow_calls(&self, cpu: usize, limit: usize, addresses: &[u64]) -> Result<(), Failure> {
        self.guest.follow_calls(cpu, limit, addresses)
    }

    fn followed(&self, cpu: usize) -> Result<Option<Vec<Record>>, Failure> {
        self.guest.followed(cpu)
    }

    fn disarm(&self, cpu: usize) -> Result<(), Failure> {
        self.guest.disarm(cpu)
    }

    fn record(&self, cpu: usize) -> Result<Option<Record>, Failure> {
        self.guest.record(cpu)
    }

    fn recorded(&self, cpu: usize) -> Result<usize, Failure> {
        self.guest.recorded(cpu)
    }

    fn raise(&self, cpu: usize, line: Line) -> Result<bool, Failure> {
        self.guest.raise(cpu, line)
    }

    fn report(&mut self, reason: StopReason) -> String {
        self.guest.report(reason)
    }
}

/// A run of the static-key flip; what comes to an end is judged.
pub(crate) fn mailbox(bytes: &[u8]) {
    let Some((&idle, bytes)) = bytes.split_first() else {
        return;
    };
    let mut plan = plan("static-key-flip", None);
    plan.timeouts = TIMEOUTS;
    let ledger = Ledger::new(plan.roles.len(), 1000);
    let mut guest = Scribbler {
        guest: Fake::new(&plan, &ledger, Script::default()),
        idle: Cell::new(idle),
        deeds: RefCell::new(bytes.chunks(DEED)),
        noise: bytes,
    };
    let layout = Box::new(kernel::layout);
    if let Ok(evidence) = conduct(&mut guest, &plan, Start::Boot, layout, &ledger, &|_| {}) {
        let (checks, _) = judge(&plan, &evidence);
        // Each says something, in a line or two.
        assert!(checks.iter().all(|check| check.evidence.len() <= 4096));
    }
}
