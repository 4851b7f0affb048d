//! Debug exits: what a vCPU does where it stops, and the recording of kernel entries.

use ipirig_entry::{Began, Ended};
use vmm_sys_util::errno;

use super::recorder::{self, Recorder};
use super::stops::Stepping;
use super::{Break, Vcpu};
use crate::assist::{self, Handled};
use crate::clock;
use crate::observer::WatchEvent;
use crate::stop::StopReason;

/// Vector of an NMI.
const NMI: u8 = 2;
/// Vector of #PF.
const PAGE_FAULT: u8 = 14;

impl Vcpu {
    /// Deals with a debug exit.
    pub(super) fn debug(&mut self) -> Result<(), Break> {
        match self.stops.stepping {
            // The next turn takes it down.
            Stepping::Recording => Ok(()),
            Stepping::Over => {
                self.stops.stepping = Stepping::No;
                self.stop_where_wanted()
            }
            Stepping::No => self.reached(),
        }
    }

    /// At a breakpoint.
    fn reached(&mut self) -> Result<(), Break> {
        let rip = self.regs()?.rip;
        let mut known = false;
        if self.stops.assist.contains(&rip) {
            known = true;
            let done = self.assist(|assist, cpu| {
                if assist.breakpoint() == Some(rip) {
                    assist.reached(cpu)
                } else {
                    Ok(Handled::No)
                }
            })?;
            if done == Handled::Yes {
                // The vCPU is elsewhere now: at the kernel's system-call entry.
                if self.recorder.armed() {
                    self.begin(Began::Syscall)?;
                }
                return Ok(());
            }
        }
        if let Some(began) = self.recorder.way_in(rip) {
            known = true;
            let from_user = match began {
                Began::Syscall => true,
                Began::Vector(vector) => {
                    let cpu = self.access();
                    recorder::from_user(&cpu, vector).map_err(|e| self.host("KVM_GET_REGS", e))?
                }
            };
            if from_user {
                return self.begin(began);
            }
        }
        if self.stops.watch.contains(&rip) {
            known = true;
            let regs = self.regs()?;
            self.fleet.observer.watched(&WatchEvent {
                time_ns: clock::now(),
                cpu: self.cpu,
                address: rip,
                arguments: [regs.rdi, regs.rsi, regs.rdx, regs.rcx, regs.r8, regs.r9],
            });
        }
        if !known {
            return Err(Break::Because(StopReason::UnexpectedExit {
                cpu: self.cpu,
                what: format!("debug exit at {rip:#x}"),
            }));
        }
        self.stops.stepping = Stepping::Over;
        self.stop_where_wanted()
    }

    /// Begins to record, at the first kernel instruction.
    fn begin(&mut self, began: Began) -> Result<(), Break> {
        self.recorder.begin(self.cpu, began);
        self.stops.entry.clear();
        self.stops.stepping = Stepping::Recording;
        self.stop_where_wanted()
    }

    /// While a record runs: takes down what the vCPU is about to execute.
    pub(super) fn record(&mut self) -> Result<(), Break> {
        if self.stops.stepping != Stepping::Recording {
            return Ok(());
        }
        let cpu = self.access();
        let step = recorder::look(&cpu).map_err(|e| self.host("KVM_GET_SREGS", e))?;
        let returns = recorder::returns_to_user(&cpu, &step);
        if !self.recorder.step(step, returns) {
            self.stops.stepping = Stepping::No;
            self.stop_where_wanted()?;
        }
        Ok(())
    }

    /// The vCPU is in HLT: a record ends there.
    pub(super) fn record_halt(&mut self) -> Result<(), Break> {
        if self.stops.stepping == Stepping::Recording {
            self.recorder.end(Ended::Halted);
            self.stops.stepping = Stepping::No;
            self.stop_where_wanted()?;
        }
        Ok(())
    }

    /// Has the next entry from user space recorded, up to `limit` instructions: SYSCALL, page
    /// faults, interrupts and NMIs that the machine injects, and the exceptions `vectors`.
    pub(crate) fn arm(&mut self, limit: usize, vectors: &[u8]) -> Result<bool, errno::Error> {
        let mut entries = vec![];
        // Where an assist completes SYSCALL, it tells; the kernel's entry is not reached otherwise.
        if !self.assists.iter().any(|a| a.breakpoint().is_some()) {
            entries.push((recorder::lstar(&self.fd)?, Began::Syscall));
        }
        let cpu = self.access();
        for &vector in [PAGE_FAULT].iter().chain(vectors) {
            if let Some(address) = assist::handler(&cpu, vector)? {
                entries.push((address, Began::Vector(vector)));
            }
        }
        entries.dedup();
        self.recorder = Recorder::Armed { entries, limit };
        self.stops.entry = self.recorder.addresses();
        if !self.stops.fits() {
            self.disarm()?;
            return Ok(false);
        }
        self.stops.apply(&self.fd)?;
        Ok(true)
    }

    /// Stops waiting or recording; a finished record stays.
    pub(crate) fn disarm(&mut self) -> Result<(), errno::Error> {
        self.recorder.end(Ended::Limit);
        if self.recorder.armed() {
            self.recorder = Recorder::Off;
        }
        self.stops.entry.clear();
        if self.stops.stepping == Stepping::Recording {
            self.stops.stepping = Stepping::No;
        }
        self.stops.apply(&self.fd)
    }

    /// Reports each time the vCPU reaches one of `addresses`, and no others.
    pub(crate) fn watch(&mut self, addresses: &[u64]) -> Result<bool, errno::Error> {
        let before = std::mem::replace(&mut self.stops.watch, addresses.to_vec());
        let fits = self.stops.fits();
        if !fits {
            self.stops.watch = before;
        }
        self.stops.apply(&self.fd)?;
        Ok(fits)
    }

    /// An interrupt is about to be injected: its handler is a way in.
    pub(super) fn expect_vector(&mut self, vector: u8) -> Result<(), Break> {
        if !self.recorder.armed() {
            return Ok(());
        }
        let cpu = self.access();
        let handler = assist::handler(&cpu, vector).map_err(|e| self.host("KVM_GET_SREGS", e))?;
        if let Some(address) = handler {
            self.recorder.expect(address, Began::Vector(vector));
            self.stops.entry = self.recorder.addresses();
            self.stop_where_wanted()?;
        }
        Ok(())
    }

    pub(super) fn expect_nmi(&mut self) -> Result<(), Break> {
        self.expect_vector(NMI)
    }

    /// Passes the assists' wishes and all others on to KVM.
    pub(super) fn stop_where_wanted(&mut self) -> Result<(), Break> {
        self.set_stops()
            .map_err(|e| self.host("KVM_SET_GUEST_DEBUG", e))
    }

    /// The same for who has no guest to end.
    pub(super) fn set_stops(&mut self) -> Result<(), errno::Error> {
        self.stops.assist.clear();
        self.stops
            .assist
            .extend(self.assists.iter().filter_map(|assist| assist.breakpoint()));
        self.stops.apply(&self.fd)
    }
}
