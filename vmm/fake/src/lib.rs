//! A guest that follows a script, for tests: obeys the mailbox protocol, writes the ledger as a
//! machine would, and can be told to go wrong in one way at a time. [`evidence`] and its neighbours take it
//! through a run. Its kernel is [`kernel`].
//!
//! What this crate does not do: run anything real. The conductor that it answers is `ipirig-rig`'s, and is tested here.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that fails should stop its test"
)]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use ipirig_abi::{
    AgentState, Command, Control, CpuSlot, Gap, Gaps, Header, MAX_CPUS, Mailbox, Order, Reply,
    Role, TEXT_LEN, TaskSlot, TaskState, Text,
};
use ipirig_apic::CpuSet;
use ipirig_entry::Began;
use ipirig_evidence::NOT_PRODUCED;
use ipirig_evidence::ledger::{Delivery, Ledger, Write};
use ipirig_evidence::vectors::Kind;
use ipirig_machine::WatchEvent;
use ipirig_scenario::plan::{GuestPlan, Plan};
use ipirig_scenario::{Scenario, Trigger};

use trace::{FakeClock, FakeTrace};

mod agent;
mod guest;
pub mod kernel;
mod runs;
mod script;
#[cfg(test)]
mod tests;
mod trace;

pub use runs::{Observing, evidence, observation_plan, observe, plan, traced};
pub use script::{Counting, Debugging, Moment, Script};

/// How long each interrupt keeps a task from its loop, in nanoseconds.
pub const GAP_NS: u64 = 400;

/// The guest.
#[expect(missing_debug_implementations, reason = "nobody prints a fixture")]
pub struct Fake<'a> {
    mailbox: Box<Mailbox>,
    ledger: &'a Ledger,
    plan: &'a GuestPlan,
    scenario: Option<&'a Scenario>,
    script: Script,
    stormed: Cell<bool>,
    key: u64,
    alias: u64,
    calls: BTreeMap<usize, u32>,
    /// Which part of the kernel's text was read last.
    parts_read: usize,
    /// The rig wanted to know how the kernel's functions are called.
    names_asked: bool,
    probes_after: u64,
    settled: bool,
    /// It has stopped.
    gone: Cell<bool>,
    /// vCPUs whose next entry is to be recorded, and those that have made it, with how.
    armed: RefCell<BTreeSet<usize>>,
    entered: RefCell<BTreeMap<usize, Began>>,
    /// vCPUs that stay in the kernel, until they are let go.
    staying: RefCell<BTreeSet<usize>>,
    let_go: Cell<bool>,
    armed_timers: Cell<u32>,
    in_handler: Cell<u32>,
    /// Looks for which no heart beats once the storm has begun.
    rests: Cell<u32>,
    /// Looks at a record that is not finished.
    looks: Cell<usize>,
    clock: FakeClock,
    trace: FakeTrace,
    /// What each storm was to act on.
    pub targets: Vec<u64>,
    /// What was put into files, by their paths.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl<'a> Fake<'a> {
    /// A guest for a scenario, that has not booted yet.
    pub fn new(plan: &'a Plan, ledger: &'a Ledger, script: Script) -> Self {
        Self {
            scenario: Some(&plan.scenario),
            ..Self::of(&plan.guest, ledger, script)
        }
    }

    /// A guest for a command.
    pub fn of(plan: &'a GuestPlan, ledger: &'a Ledger, script: Script) -> Self {
        let (armed_timers, in_handler) = (script.armed_timers, script.in_handler);
        let rests = Cell::new(script.heart_rests);
        Self {
            mailbox: mailbox(),
            ledger,
            plan,
            scenario: None,
            script,
            stormed: Cell::new(false),
            key: 0,
            alias: 0x1111,
            calls: BTreeMap::new(),
            parts_read: 0,
            names_asked: false,
            probes_after: 0,
            settled: false,
            gone: Cell::new(false),
            armed: RefCell::default(),
            entered: RefCell::default(),
            staying: RefCell::default(),
            let_go: Cell::new(false),
            armed_timers: Cell::new(armed_timers),
            in_handler: Cell::new(in_handler),
            rests,
            looks: Cell::new(0),
            clock: FakeClock::default(),
            trace: FakeTrace::default(),
            targets: Vec::new(),
            files: BTreeMap::new(),
        }
    }

    /// Whether the storm has begun.
    pub fn stormed(&self) -> bool {
        self.stormed.get()
    }

    /// What the kernel changes in one operation, as the machine reports it.
    fn change(&self, address: u64, arguments: [u64; 6]) {
        if !self.script.changes_unseen {
            self.ledger.reached(&WatchEvent {
                time_ns: 0,
                cpu: 0,
                address,
                arguments,
            });
        }
    }

    /// When the timer of `cpu` goes off: each look at it finds it nearer.
    fn timer_of(&self, cpu: usize) -> Option<Duration> {
        let left = self.armed_timers.get();
        self.armed_timers.set(left.saturating_sub(1));
        let armed = left > 0 && self.isolated().contains(&cpu);
        armed.then(|| Duration::from_millis(left.into()))
    }

    fn enters(&self, cpu: usize, began: Began) {
        self.entered.borrow_mut().insert(cpu, began);
    }

    /// Whether the machine can produce the entry that an order means.
    fn produces(&self, trigger: Trigger) -> bool {
        let kinds = &self.script.unproducible;
        !kinds.iter().any(|kind| kind.trigger(true) == trigger)
    }

    /// What the guest is about to do.
    fn moment(&self) -> Option<Moment> {
        let mailbox = &self.mailbox;
        if mailbox.header.agent.load(SeqCst) != u32::from(AgentState::Ready) {
            return Some(Moment::Boot);
        }
        let control = &mailbox.control;
        if control.seq.load(SeqCst) != control.reply.ack.load(SeqCst) {
            return Command::try_from(control.command.load(SeqCst))
                .ok()
                .map(Moment::Command);
        }
        let waiting =
            |slot: &CpuSlot| slot.order_seq.load(SeqCst) != slot.task.order_ack.load(SeqCst);
        mailbox.cpus.iter().any(waiting).then_some(Moment::Order)
    }

    fn isolated(&self) -> Vec<usize> {
        self.plan.cpus(Role::Isolated)
    }

    fn deliver(&self, cpu: usize, vector: u8, ipi: bool, user: bool) {
        let kind = Kind::Vector(vector);
        let time_ns = self.clock.tick(1000);
        self.measure(cpu, time_ns);
        self.ledger.delivery(&Delivery {
            time_ns,
            cpu,
            kind,
            ipi,
            user,
            idle: ipi && self.plan.isolated_in.idles(),
            due: None,
        });
    }

    /// The task of `cpu` finds that it was interrupted for [`GAP_NS`], by something that came then.
    fn measure(&self, cpu: usize, time_ns: u64) {
        let gaps = &self.mailbox.gaps[cpu];
        if gaps.threshold.load(SeqCst) > 0 {
            let at = |ns| trace::tsc(cpu, ns);
            let (begin, end) = (at(time_ns - GAP_NS / 2), at(time_ns + GAP_NS / 2));
            let ticks = end - begin;
            gaps.tell(Gap { begin, ticks });
            if self.script.gaps_lost {
                gaps.told.count.fetch_add(300, SeqCst);
            }
        }
    }

    /// One call-function IPI from the control vCPU to each of `cpus`.
    fn call(&mut self, cpus: &[usize], user: bool) {
        self.trace.send(&self.clock, cpus);
        self.ledger.write(&Write {
            time_ns: self.clock.tick(4000),
            source: 0,
            kind: Kind::Vector(0xfc),
            targets: cpus.iter().copied().collect(),
            coalesced: CpuSet::EMPTY,
            undeliverable: cpus.is_empty(),
            rip: 0xffff_ffff_8100_0000,
            chain: None,
        });
        for &cpu in cpus {
            let mode = self.plan.isolated_in;
            let user = user && mode.has_task() && !self.staying.borrow().contains(&cpu);
            self.deliver(cpu, 0xfc, true, user && self.isolated().contains(&cpu));
            self.handle(cpu);
            self.trace.begin(&self.clock, cpu);
            *self.calls.entry(cpu).or_default() += 1;
        }
    }

    /// The handler's first instruction, where it is watched.
    fn handle(&self, cpu: usize) {
        if self.plan.cross_check && self.isolated().contains(&cpu) {
            self.ledger.reached(&WatchEvent {
                time_ns: self.clock.tick(1000),
                cpu,
                address: kernel::CALL_HANDLER,
                arguments: [0; 6],
            });
        }
    }

    fn carry_out_orders(&mut self) {
        for cpu in self.isolated() {
            let slot = &self.mailbox.cpus[cpu];
            let seq = slot.order_seq.load(SeqCst);
            if seq == slot.task.order_ack.load(SeqCst) {
                continue;
            }
            if self.stormed.get() {
                self.probes_after += 1;
            }
            let stale = self.stormed.get() && self.script.stale;
            let order = Order::try_from(slot.order.load(SeqCst)).unwrap();
            if matches!(order, Order::Stay | Order::Sleep) && !self.let_go.get() {
                self.staying.borrow_mut().insert(cpu);
                continue;
            }
            if self.produces(Trigger::Order(order)) {
                slot.task.errno.store(0, SeqCst);
                self.enters(
                    cpu,
                    match (order.vector(), order) {
                        (Some(vector), Order::BadIret | Order::DoubleFault) => {
                            Began::FaultingReturn(vector)
                        }
                        (Some(vector), _) => Began::Vector(vector),
                        (None, Order::Sysenter) => Began::Sysenter,
                        (None, Order::CompatSyscall) => Began::CompatSyscall,
                        (None, _) => Began::Syscall,
                    },
                );
            } else {
                slot.task.errno.store(NOT_PRODUCED, SeqCst);
            }
            if matches!(order, Order::Probe | Order::Relay) {
                let errno = if self.stormed.get() {
                    self.script.probe_errno
                } else {
                    0
                };
                let task = &slot.task;
                task.branch
                    .store(if stale { 0 } else { self.key as u32 }, SeqCst);
                task.alias
                    .store(if stale { 0x1111 } else { self.alias }, SeqCst);
                task.errno.store(errno, SeqCst);
            }
            self.mailbox.cpus[cpu].task.order_ack.store(seq, SeqCst);
        }
    }

    fn beat(&self) {
        if self.script.heart_stops && self.stormed.get() {
            return;
        }
        if self.stormed.get() && self.rests.get() > 0 {
            self.rests.set(self.rests.get() - 1);
            return;
        }
        for cpu in self.isolated() {
            self.mailbox.cpus[cpu].task.heartbeat.fetch_add(1, SeqCst);
        }
    }

    fn get_ready(&self) {
        let header = &self.mailbox.header;
        header
            .module
            .store(u32::from(!self.script.no_module), SeqCst);
        for cpu in self.isolated() {
            self.mailbox.cpus[cpu]
                .task
                .state
                .store(TaskState::Spinning.into(), SeqCst);
        }
        header.agent.store(AgentState::Ready.into(), SeqCst);
    }
}

fn mailbox() -> Box<Mailbox> {
    fn word() -> AtomicU32 {
        AtomicU32::new(0)
    }
    fn long() -> AtomicU64 {
        AtomicU64::new(0)
    }
    fn text() -> Text {
        Text {
            len: word(),
            bytes: [const { AtomicU8::new(0) }; TEXT_LEN],
        }
    }
    let longs = || std::array::from_fn(|_| long());
    let slot = |_| CpuSlot {
        role: word(),
        order_seq: word(),
        order: word(),
        task: TaskSlot {
            heartbeat: long(),
            state: word(),
            order_ack: word(),
            branch: word(),
            errno: word(),
            alias: long(),
            signals: long(),
            signal: word(),
            nmis: word(),
        },
    };
    let reply = Reply {
        ack: word(),
        status: word(),
        errno: word(),
        results: longs(),
    };
    Box::new(Mailbox {
        header: Header {
            magic: long(),
            version: word(),
            cpus: word(),
            agent: word(),
            module: word(),
        },
        control: Control {
            seq: word(),
            command: word(),
            args: longs(),
            reply,
        },
        cpus: std::array::from_fn::<_, MAX_CPUS, _>(slot),
        text: text(),
        handed: text(),
        gaps: [const { Gaps::new() }; MAX_CPUS],
    })
}
