//! A vCPU's thread, as far as kicks go: what it looks at and when is `Vcpu::turn` of `ipirig-machine`.

use std::sync::Arc;

use ipirig_apic::{Bus, CpuSet, Icr, LocalApic, Work};
use ipirig_kick::{ImmediateExit, Kicker, NoExit};
use loom::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use loom::thread::{self, JoinHandle};

use crate::host::ModelThread;

/// What the vCPU does while nothing is pending.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Idle {
    /// Its guest executes.
    Runs,
    /// Its guest has halted.
    Halts,
    /// First it has halted, and then it executes.
    HaltsThenRuns,
}

/// Three CPUs, of which one has a thread.
#[derive(Debug)]
pub(crate) struct Machine {
    bus: Arc<Bus>,
    target: usize,
    kicker: Kicker<ModelThread>,
    stopping: AtomicBool,
}

impl Machine {
    /// With a thread of CPU `target`.
    pub(crate) fn new(target: usize) -> Arc<Self> {
        Arc::new(Self {
            bus: Bus::new(3).unwrap(),
            target,
            kicker: Kicker::new(ModelThread::default()),
            stopping: AtomicBool::new(false),
        })
    }

    /// Sends and kicks, as `Vcpu::send`. Whether it is new, and not merged with one that was pending.
    pub(crate) fn send(&self, source: usize, icr: Icr) -> bool {
        let sent = self.bus.send(source, icr, &());
        assert!(sent.ipi.targets.contains(self.target));
        if sent.wake != CpuSet::EMPTY {
            self.kicker.kick();
        }
        !sent.coalesced.contains(self.target)
    }

    /// Has the thread end, as `VcpuSet::stop`.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.kicker.kick();
    }

    /// Starts the thread, which goes on until `enough` says so of what it took, and how much that was by then; gives back
    /// its APIC, and how much it took.
    pub(crate) fn start(
        self: &Arc<Self>,
        idle: Idle,
        enough: impl Fn(Work, usize) -> bool + 'static,
    ) -> JoinHandle<(LocalApic, usize)> {
        let machine = Arc::clone(self);
        // Switched on before any IPI is routed by what it publishes.
        let mut apic = LocalApic::new(Arc::clone(&self.bus), self.target, false).unwrap();
        let _ = apic.mmio_write(0xf0, 0x1ff, 0);
        thread::spawn(move || {
            let mut taken = 0;
            let mut look = |apic: &mut LocalApic| {
                while let Some(work) = take(apic) {
                    taken += 1;
                    if enough(work, taken) {
                        return true;
                    }
                }
                false
            };
            machine.run(&mut apic, idle, &mut look, is_due);
            (apic, taken)
        })
    }

    /// Starts the thread, which goes on until [`Machine::stop`].
    pub(crate) fn start_until_stopped(self: &Arc<Self>, idle: Idle) -> JoinHandle<()> {
        let machine = Arc::clone(self);
        thread::spawn(move || {
            let stopping = |(): &mut ()| machine.stopping.load(Ordering::Relaxed);
            machine.run(&mut (), idle, stopping, stopping);
        })
    }

    /// Turns of the vCPU's loop, until `look`, which deals with all that there is, says that it is over. `due` says whether
    /// there is something for it.
    fn run<S>(
        &self,
        state: &mut S,
        idle: Idle,
        mut look: impl FnMut(&mut S) -> bool,
        due: impl Fn(&mut S) -> bool,
    ) {
        let host = self.kicker.host();
        let byte = AtomicU8::new(0);
        // SAFETY: the byte outlives it.
        let exit = unsafe { ImmediateExit::at(&raw const byte) };
        self.kicker.reachable(1);
        let mut runs = matches!(idle, Idle::Runs);
        loop {
            host.handle_signal(&exit);
            if look(state) {
                break;
            }
            // Between the last look and the entry.
            host.handle_signal(&exit);
            if runs {
                let exit_reason = exit.enter(|| host.run(&exit, &byte), |_| true);
                assert!(matches!(exit_reason, Err(NoExit::Kicked)));
            } else {
                self.kicker.park(None, || due(state));
                runs = matches!(idle, Idle::HaltsThenRuns);
            }
        }
        self.kicker.reachable(0);
    }
}

fn is_due(apic: &mut LocalApic) -> bool {
    let work = apic.poll(0);
    work.init || work.startup.is_some() || work.nmi || work.interrupt.is_some()
}

/// Takes one thing that is pending, the most urgent one, if there is any.
fn take(apic: &mut LocalApic) -> Option<Work> {
    let mut work = apic.poll(0);
    if work.init {
        apic.accept_init(&());
    } else if work.startup.is_some() {
        // None: an INIT came meanwhile, and is next.
        work.startup = apic.accept_startup(&());
    } else if work.nmi {
        apic.accept_nmi(&());
    } else if let Some(vector) = work.interrupt {
        apic.accept_interrupt(vector, &());
        let _ = apic.mmio_write(0xb0, 0, 0);
    } else {
        return None;
    }
    Some(work)
}
