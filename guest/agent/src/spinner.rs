//! The task on one isolated CPU: a loop in user space that touches only its slot of the mailbox.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ipirig_abi::module::Probe;
use ipirig_abi::{CpuSlot, Order, TaskSlot, TaskState};

use crate::errno::Errno;

/// The two ways into the kernel that the rig can order.
pub(crate) trait Entry {
    /// One system call into the module's probe.
    fn probe(&mut self) -> Result<Probe, Errno>;
    /// One system call that does nothing.
    fn enter(&mut self);
}

/// Spins until the machine stops.
pub(crate) fn spin(slot: &CpuSlot, entry: &mut impl Entry) -> ! {
    rehearse(entry);
    let mut spinner = Spinner::new(slot);
    slot.task
        .state
        .store(TaskState::Spinning.into(), Ordering::Release);
    // No PAUSE: some hosts exit on it (SDM vol. 3, "PAUSE exiting"), and the window would show it.
    loop {
        spinner.turn(entry);
    }
}

/// Carries out each order once, in a slot that nobody reads, so that the pages of code and data that
/// the loop needs are present: a page fault would be an entry that the rig did not order.
fn rehearse(entry: &mut impl Entry) {
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
        },
    };
    let mut spinner = Spinner::new(&slot);
    for (seq, order) in (1..).zip([Order::Probe, Order::Enter]) {
        slot.order.store(order.into(), Ordering::Relaxed);
        slot.order_seq.store(seq, Ordering::Relaxed);
        spinner.turn(entry);
    }
}

struct Spinner<'a> {
    slot: &'a CpuSlot,
    heartbeat: u64,
    seen: u32,
}

impl<'a> Spinner<'a> {
    fn new(slot: &'a CpuSlot) -> Self {
        Self {
            slot,
            heartbeat: 0,
            seen: 0,
        }
    }

    // Not inlined, or the rehearsal would run, and fault in, a copy of its own.
    #[inline(never)]
    fn turn(&mut self, entry: &mut impl Entry) {
        // A store, not an atomic addition: nobody else writes it.
        self.heartbeat = self.heartbeat.wrapping_add(1);
        self.slot
            .task
            .heartbeat
            .store(self.heartbeat, Ordering::Relaxed);
        let newest = self.slot.order_seq.load(Ordering::Acquire);
        if newest != self.seen {
            self.seen = newest;
            self.obey(entry);
            self.slot.task.order_ack.store(newest, Ordering::Release);
        }
    }

    fn obey(&self, entry: &mut impl Entry) {
        let task = &self.slot.task;
        let errno = match Order::try_from(self.slot.order.load(Ordering::Relaxed)) {
            Ok(Order::Probe) => match entry.probe() {
                Ok(probe) => {
                    task.branch.store(probe.branch, Ordering::Relaxed);
                    task.alias.store(probe.alias, Ordering::Relaxed);
                    0
                }
                Err(errno) => errno.code(),
            },
            Ok(Order::Enter) => {
                entry.enter();
                0
            }
            Err(_) => Errno(libc::EINVAL).code(),
        };
        task.errno.store(errno, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox;

    /// Remembers how often it was entered; answers probes with what it was given.
    struct Fake {
        probe: Result<Probe, Errno>,
        entered: u32,
    }

    impl Entry for Fake {
        fn probe(&mut self) -> Result<Probe, Errno> {
            self.entered += 1;
            self.probe
        }

        fn enter(&mut self) {
            self.entered += 1;
        }
    }

    /// Everything the task says in its slot but the heartbeat.
    fn said(slot: &CpuSlot) -> (u32, u32, u64, u32) {
        let task = &slot.task;
        (
            task.order_ack.load(Ordering::Relaxed),
            task.branch.load(Ordering::Relaxed),
            task.alias.load(Ordering::Relaxed),
            task.errno.load(Ordering::Relaxed),
        )
    }

    fn order(slot: &CpuSlot, seq: u32, order: u32) {
        slot.order.store(order, Ordering::Relaxed);
        slot.order_seq.store(seq, Ordering::Release);
    }

    #[test]
    fn without_an_order_the_heart_beats_and_the_kernel_is_left_alone() {
        let mailbox = mailbox::in_memory();
        let slot = &mailbox.cpus[1];
        let mut fake = Fake {
            probe: Err(Errno(libc::EIO)),
            entered: 0,
        };
        let mut spinner = Spinner::new(slot);
        for _ in 0..3 {
            spinner.turn(&mut fake);
        }
        assert_eq!(slot.task.heartbeat.load(Ordering::Relaxed), 3);
        assert_eq!(fake.entered, 0);
        assert_eq!(said(slot), (0, 0, 0, 0));
    }

    #[test]
    fn each_order_is_carried_out_once_and_acknowledged_with_what_it_gave() {
        let mailbox = mailbox::in_memory();
        let slot = &mailbox.cpus[1];
        let mut fake = Fake {
            probe: Ok(Probe {
                alias: 77,
                branch: 1,
                cpu: 1,
            }),
            entered: 0,
        };
        let mut spinner = Spinner::new(slot);
        order(slot, 1, Order::Probe.into());
        spinner.turn(&mut fake);
        spinner.turn(&mut fake);
        assert_eq!(said(slot), (1, 1, 77, 0));
        assert_eq!(fake.entered, 1);
        order(slot, 2, Order::Enter.into());
        spinner.turn(&mut fake);
        assert_eq!(said(slot), (2, 1, 77, 0));
        assert_eq!(fake.entered, 2);
    }

    #[test]
    fn the_rehearsal_enters_the_kernel_by_each_order_once() {
        let mut fake = Fake {
            probe: Err(Errno(libc::ENODEV)),
            entered: 0,
        };
        rehearse(&mut fake);
        assert_eq!(fake.entered, 2);
    }

    #[test]
    fn a_failed_probe_and_an_unknown_order_are_acknowledged_with_an_errno() {
        let mailbox = mailbox::in_memory();
        let slot = &mailbox.cpus[1];
        let mut fake = Fake {
            probe: Err(Errno(libc::EBUSY)),
            entered: 0,
        };
        let mut spinner = Spinner::new(slot);
        order(slot, 1, Order::Probe.into());
        spinner.turn(&mut fake);
        assert_eq!(said(slot), (1, 0, 0, 16));
        order(slot, 2, 99);
        spinner.turn(&mut fake);
        assert_eq!(said(slot), (2, 0, 0, 22));
        assert_eq!(fake.entered, 1);
    }
}
