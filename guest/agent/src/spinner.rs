//! The task on one isolated CPU: a loop in user space that touches only its slot of the mailbox.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ipirig_abi::module::Probe;
use ipirig_abi::{CpuSlot, Gaps, Order, TaskSlot, TaskState};

use crate::meter::Meter;
use crate::signals::Signals;
use ipirig_system::Errno;

/// The ways into the kernel that the rig can order: the real ones, or a test's.
pub(crate) trait EntryPaths {
    /// Enters the kernel as ordered before it enters in any other way. EPROTO if another kind of
    /// entry, or none, came of it; what the CPU saw if the order is a probe.
    fn carry_out(&mut self, order: Order) -> Result<Option<Probe>, Errno>;
    /// Takes the signal that the rig can have sent at any time.
    fn rehearse_signal(&mut self);
    /// From now on orders are the rig's.
    fn rehearsed(&mut self);
    /// The signals handled so far. No system call.
    fn signals(&self) -> Signals;
    /// The time-stamp counter of this CPU.
    fn counter(&self) -> u64;
}

/// Spins until the machine stops.
pub(crate) fn spin(slot: &CpuSlot, gaps: &Gaps, entry: &mut impl EntryPaths) -> ! {
    let unavailable = rehearse(entry);
    entry.rehearsed();
    let mut spinner = Spinner::new(slot, gaps, unavailable, entry);
    slot.task
        .state
        .store(TaskState::Spinning.into(), Ordering::Release);
    // No PAUSE: some hosts exit on it (SDM vol. 3, "PAUSE exiting"), and the window would show it.
    loop {
        spinner.turn(entry);
    }
}

/// Carries out each order once, in a slot that nobody reads, so that the pages of code and data that
/// the loop needs are present: a page fault would be an entry that the rig did not order. The orders
/// that this machine cannot carry out come back.
fn rehearse(entry: &mut impl EntryPaths) -> Orders {
    let slot = CpuSlot {
        role: AtomicU32::new(0),
        order_seq: AtomicU32::new(0),
        order: AtomicU32::new(0),
        task: TaskSlot {
            heartbeat: AtomicU64::new(0),
            state: AtomicU32::new(0),
            order_ack: AtomicU32::new(0),
            branch: AtomicU32::new(0),
            errno: AtomicU32::new(0),
            alias: AtomicU64::new(0),
            signals: AtomicU64::new(0),
            signal: AtomicU32::new(0),
            nmis: AtomicU32::new(0),
        },
    };
    let gaps = Gaps::new();
    // Each turn is a gap.
    gaps.threshold.store(1, Ordering::Relaxed);
    entry.rehearse_signal();
    let mut unavailable = Orders::default();
    let mut spinner = Spinner::new(&slot, &gaps, unavailable, entry);
    for (seq, &order) in (1..).zip(Order::ALL) {
        slot.order.store(order.into(), Ordering::Relaxed);
        slot.order_seq.store(seq, Ordering::Relaxed);
        spinner.turn(entry);
        if slot.task.errno.load(Ordering::Relaxed) == Errno(libc::EPROTO).code() {
            unavailable.add(order);
        }
    }
    unavailable
}

/// A set of orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Orders(u32);

impl Orders {
    fn add(&mut self, order: Order) {
        self.0 |= 1 << u32::from(order);
    }

    fn contains(self, order: Order) -> bool {
        self.0 & 1 << u32::from(order) != 0
    }
}

struct Spinner<'a> {
    slot: &'a CpuSlot,
    heartbeat: u64,
    seen: u32,
    unavailable: Orders,
    /// Signals handled before the slot's first.
    rehearsed: u64,
    meter: Meter<'a>,
}

impl<'a> Spinner<'a> {
    fn new(
        slot: &'a CpuSlot,
        gaps: &'a Gaps,
        unavailable: Orders,
        entry: &impl EntryPaths,
    ) -> Self {
        Self {
            slot,
            heartbeat: 0,
            seen: 0,
            unavailable,
            rehearsed: entry.signals().count,
            meter: Meter::new(gaps),
        }
    }

    // Not inlined, or the rehearsal would run, and fault in, a copy of its own.
    #[inline(never)]
    fn turn(&mut self, entry: &mut impl EntryPaths) {
        // A store, not an atomic addition: nobody else writes it.
        self.heartbeat = self.heartbeat.wrapping_add(1);
        self.slot
            .task
            .heartbeat
            .store(self.heartbeat, Ordering::Relaxed);
        let newest = self.slot.order_seq.load(Ordering::Acquire);
        let ordered = newest != self.seen;
        if ordered {
            self.seen = newest;
            self.obey(entry);
        }
        self.tell(entry.signals());
        if ordered {
            self.slot.task.order_ack.store(newest, Ordering::Release);
        }
        self.meter.turn(|| entry.counter());
    }

    fn obey(&self, entry: &mut impl EntryPaths) {
        let task = &self.slot.task;
        let outcome = match Order::try_from(self.slot.order.load(Ordering::Relaxed)) {
            Ok(order) if self.unavailable.contains(order) => Err(Errno(libc::ENOTSUP)),
            Ok(order) => entry.carry_out(order),
            Err(_) => Err(Errno(libc::EINVAL)),
        };
        if let Ok(Some(probe)) = outcome {
            task.branch.store(probe.branch, Ordering::Relaxed);
            task.alias.store(probe.alias, Ordering::Relaxed);
            task.nmis.store(probe.nmis, Ordering::Relaxed);
        }
        let errno = outcome.err().map_or(0, Errno::code);
        task.errno.store(errno, Ordering::Relaxed);
    }

    fn tell(&self, signals: Signals) {
        let count = signals.count.wrapping_sub(self.rehearsed);
        if count != self.slot.task.signals.load(Ordering::Relaxed) {
            let task = &self.slot.task;
            task.signal.store(signals.newest, Ordering::Relaxed);
            task.signals.store(count, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox;

    /// Remembers its orders; answers each with what it was given, and handles a signal where the
    /// order is to end in one.
    struct Fake {
        answer: fn(Order) -> Result<Option<Probe>, Errno>,
        orders: Vec<Order>,
        signals: Signals,
    }

    impl Fake {
        fn new(answer: fn(Order) -> Result<Option<Probe>, Errno>) -> Self {
            Self {
                answer,
                orders: Vec::new(),
                signals: Signals::default(),
            }
        }

        fn handle(&mut self, signal: u32) {
            self.signals.count += 1;
            self.signals.newest = signal;
        }
    }

    impl EntryPaths for Fake {
        fn carry_out(&mut self, order: Order) -> Result<Option<Probe>, Errno> {
            self.orders.push(order);
            let answer = (self.answer)(order);
            if let (Some(signal), Ok(_)) = (order.signal(), answer) {
                self.handle(signal);
            }
            answer
        }

        fn rehearse_signal(&mut self) {
            self.handle(ipirig_abi::KICK_SIGNAL);
        }

        fn rehearsed(&mut self) {}

        fn signals(&self) -> Signals {
            self.signals
        }

        fn counter(&self) -> u64 {
            0
        }
    }

    /// Everything the task says in its slot but the heartbeat.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Said {
        ack: u32,
        branch: u32,
        alias: u64,
        nmis: u32,
        errno: i32,
        signals: u64,
        signal: u32,
    }

    fn said(slot: &CpuSlot) -> Said {
        let task = &slot.task;
        Said {
            ack: task.order_ack.load(Ordering::Relaxed),
            branch: task.branch.load(Ordering::Relaxed),
            alias: task.alias.load(Ordering::Relaxed),
            nmis: task.nmis.load(Ordering::Relaxed),
            errno: task.errno.load(Ordering::Relaxed).cast_signed(),
            signals: task.signals.load(Ordering::Relaxed),
            signal: task.signal.load(Ordering::Relaxed),
        }
    }

    fn order(slot: &CpuSlot, seq: u32, order: u32) {
        slot.order.store(order, Ordering::Relaxed);
        slot.order_seq.store(seq, Ordering::Release);
    }

    const SEEN: Probe = Probe {
        alias: 77,
        branch: 1,
        cpu: 1,
        nmis: 5,
        reserved: 0,
    };

    fn all_goes_well(order: Order) -> Result<Option<Probe>, Errno> {
        Ok((order == Order::Probe).then_some(SEEN))
    }

    #[test]
    fn without_an_order_the_heart_beats_and_the_kernel_is_left_alone() {
        let mailbox = mailbox::in_memory();
        let slot = &mailbox.cpus[1];
        let mut fake = Fake::new(all_goes_well);
        let mut spinner = Spinner::new(slot, &mailbox.gaps[1], Orders::default(), &fake);
        for _ in 0..3 {
            spinner.turn(&mut fake);
        }
        assert_eq!(slot.task.heartbeat.load(Ordering::Relaxed), 3);
        assert_eq!(fake.orders, []);
        assert_eq!(said(slot), Said::default());
    }

    #[test]
    fn each_order_is_carried_out_once_and_acknowledged_with_what_it_gave() {
        let mailbox = mailbox::in_memory();
        let slot = &mailbox.cpus[1];
        let mut fake = Fake::new(all_goes_well);
        let mut spinner = Spinner::new(slot, &mailbox.gaps[1], Orders::default(), &fake);
        let signals = [
            (0, 0),
            (0, 0),
            (0, 0),
            (1, 11),
            (2, 4),
            (3, 5),
            (4, 5),
            (4, 5),
            (4, 5),
            (4, 5),
            (4, 5),
            (4, 5),
            (4, 5),
            (5, 7),
            (6, 11),
            (6, 11),
            (7, 11),
            (7, 11),
        ];
        for ((seq, &given), (signals, signal)) in (1..).zip(Order::ALL).zip(signals) {
            order(slot, seq, given.into());
            spinner.turn(&mut fake);
            spinner.turn(&mut fake);
            let expected = Said {
                ack: seq,
                branch: 1,
                alias: 77,
                nmis: 5,
                errno: 0,
                signals,
                signal,
            };
            assert_eq!(said(slot), expected);
        }
        assert_eq!(fake.orders, Order::ALL);
    }

    #[test]
    fn a_signal_without_an_order_is_told_at_the_next_turn() {
        let mailbox = mailbox::in_memory();
        let slot = &mailbox.cpus[1];
        let mut fake = Fake::new(all_goes_well);
        // The slot's first signal is the first after the rehearsal.
        fake.handle(11);
        let mut spinner = Spinner::new(slot, &mailbox.gaps[1], Orders::default(), &fake);
        spinner.turn(&mut fake);
        assert_eq!(said(slot), Said::default());
        fake.handle(10);
        spinner.turn(&mut fake);
        let expected = Said {
            signals: 1,
            signal: 10,
            ..Said::default()
        };
        assert_eq!(said(slot), expected);
    }

    #[test]
    fn the_rehearsal_takes_a_signal_and_enters_the_kernel_by_each_order_once() {
        let mut fake = Fake::new(|_| Err(Errno(libc::ENODEV)));
        assert_eq!(rehearse(&mut fake), Orders::default());
        assert_eq!(fake.orders, Order::ALL);
        assert_eq!(fake.signals.count, 1);
    }

    #[test]
    fn an_order_that_failed_its_rehearsal_is_refused_without_an_entry() {
        let mut fake = Fake::new(|order| match order {
            Order::Breakpoint => Err(Errno(libc::EPROTO)),
            _ => all_goes_well(order),
        });
        let unavailable = rehearse(&mut fake);
        fake.orders.clear();

        let mailbox = mailbox::in_memory();
        let slot = &mailbox.cpus[1];
        let mut spinner = Spinner::new(slot, &mailbox.gaps[1], unavailable, &fake);
        order(slot, 1, Order::Breakpoint.into());
        spinner.turn(&mut fake);
        let expected = Said {
            ack: 1,
            errno: libc::EOPNOTSUPP,
            ..Said::default()
        };
        assert_eq!(said(slot), expected);
        assert_eq!(fake.orders, []);
        order(slot, 2, Order::SingleStep.into());
        spinner.turn(&mut fake);
        let expected = Said {
            ack: 2,
            signals: 1,
            signal: 5,
            ..Said::default()
        };
        assert_eq!(said(slot), expected);
        assert_eq!(fake.orders, [Order::SingleStep]);
    }

    #[test]
    fn a_failed_order_and_an_unknown_one_are_acknowledged_with_an_errno() {
        let mailbox = mailbox::in_memory();
        let slot = &mailbox.cpus[1];
        let mut fake = Fake::new(|_| Err(Errno(libc::EBUSY)));
        let mut spinner = Spinner::new(slot, &mailbox.gaps[1], Orders::default(), &fake);
        order(slot, 1, Order::Probe.into());
        spinner.turn(&mut fake);
        let expected = |ack, errno| Said {
            ack,
            errno,
            ..Said::default()
        };
        assert_eq!(said(slot), expected(1, 16));
        order(slot, 2, 99);
        spinner.turn(&mut fake);
        assert_eq!(said(slot), expected(2, 22));
        assert_eq!(fake.orders, [Order::Probe]);
    }
}
