//! Debug exits: what a vCPU does where it stops, and the recording of kernel entries.

use ipirig_entry::{Began, Ended, Record};
use kvm_bindings::kvm_debug_exit_arch;
use vmm_sys_util::errno;

use super::cause::{self, Cause};
use super::follower::Follower;
use super::pushed_flags::PushedFlags;
use super::recorder::{self, Recorder};
use super::stops::Stepping;
use super::{Break, Vcpu};
use crate::assist::{self, Handled};
use crate::clock;
use crate::msr;
use crate::observer::WatchEvent;
use crate::stop::StopReason;

/// Vector of #DB.
const DEBUG: u8 = 1;
/// Vector of an NMI.
const NMI: u8 = 2;
/// Vector of #PF.
const PAGE_FAULT: u8 = 14;
/// Exceptions that a kernel handles where it raises them itself, the likely first: #PF, #GP, #UD, #BP.
const NESTED: [u8; 4] = [PAGE_FAULT, 13, 6, 3];
/// RFLAGS.TF (SDM vol. 3, 2.3).
const TRAP_FLAG: u64 = 1 << 8;
/// INT1, which raises a #DB that has no cause in DR6 (SDM vol. 3, 18.2.3).
const INT1: u8 = 0xf1;

impl Vcpu {
    /// Deals with a debug exit.
    pub(super) fn debug(&mut self, exit: &kvm_debug_exit_arch) -> Result<(), Break> {
        self.mend_pushed_flags(exit.pc)?;
        let trap = matches!(self.stops.stepping, Stepping::Over { trap: true });
        let mut dr6 = exit.dr6;
        if self.steps_to_nmi(dr6)? {
            dr6 &= !cause::BS;
            if dr6 & cause::B == 0 {
                return Ok(());
            }
        }
        let cause = cause::cause(dr6, self.stops.told(), trap);
        let stepped = self.stops.stepping;
        if let Stepping::Over { trap } = stepped {
            self.stops.stepping = Stepping::No;
            self.stop_where_wanted()?;
            if trap {
                // Asking for the end of the steps took the guest's flag as well.
                let mut regs = self.regs()?;
                regs.rflags |= TRAP_FLAG;
                self.set_regs(&regs)?;
            }
        }
        match (cause, stepped) {
            (Cause::Guest(causes), _) => self.give_back(causes),
            (Cause::Machine, Stepping::No) => self.reached(),
            // A record's next instruction is taken down by the next turn.
            (Cause::Machine, Stepping::Over { .. } | Stepping::Recording { .. }) => Ok(()),
        }
    }

    /// Whether a single step is KVM's own: on SVM without virtual NMIs it steps over what keeps a pending NMI
    /// from being injected, the IRET of the one before (arch/x86/kvm/svm/svm.c, `svm_enable_nmi_window`), and
    /// while breakpoints are set `db_interception` reports that step as if it had been asked for.
    fn steps_to_nmi(&self, dr6: u64) -> Result<bool, Break> {
        if dr6 & cause::BS == 0 || self.stops.stepping() {
            return Ok(false);
        }
        let events = self
            .fd
            .get_vcpu_events()
            .map_err(|e| self.host("KVM_GET_VCPU_EVENTS", e))?;
        // A guest that steps itself still has the flag, as the #DB has not been delivered.
        Ok(events.nmi.pending != 0 && self.regs()?.rflags & TRAP_FLAG == 0)
    }

    /// Delivers a #DB to the guest whose it is, with its `causes` in DR6. Where it comes from user
    /// space, it is an entry like any other.
    fn give_back(&mut self, causes: u64) -> Result<(), Break> {
        if causes == 0 {
            // A trap, as SVM reports it; VMX reports INT1 before it is executed.
            let mut regs = self.regs()?;
            let mut byte = [0];
            if self.access().read_virtual(regs.rip, &mut byte) && byte == [INT1] {
                regs.rip = regs.rip.wrapping_add(1);
                self.set_regs(&regs)?;
            }
        }
        self.deliver_debug(causes)
            .map_err(|e| self.host("delivering a #DB", e))?;
        self.not_ready();
        Ok(())
    }

    pub(super) fn deliver_debug(&self, causes: u64) -> Result<(), errno::Error> {
        let mut debug = self.fd.get_debug_regs()?;
        (debug.dr6, debug.dr7) = cause::delivered((debug.dr6, debug.dr7), causes);
        self.fd.set_debug_regs(&debug)?;
        let mut events = self.fd.get_vcpu_events()?;
        events.exception.injected = 1;
        events.exception.nr = DEBUG;
        events.exception.has_error_code = 0;
        self.fd.set_vcpu_events(&events)
    }

    /// At a breakpoint.
    fn reached(&mut self) -> Result<(), Break> {
        let regs = self.regs()?;
        let rip = regs.rip;
        let of_event = self.reached_for_event(rip, regs.rsp)?;
        if of_event == Some(true) {
            return Ok(());
        }
        let mut known = of_event.is_some();
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
                if self.recorder.armed() && !self.recorder.waits_for_return() {
                    self.begin(Began::Syscall)?;
                }
                return Ok(());
            }
        }
        if let Some(began) = self.recorder.way_in(rip) {
            known = true;
            let cpu = self.access();
            let came = match began {
                Began::Syscall | Began::CompatSyscall | Began::Sysenter | Began::Call => Ok(true),
                Began::Vector(vector) => recorder::from_user(&cpu, vector),
                Began::FaultingReturn(vector) => recorder::from_return(&cpu, vector),
            };
            if came.map_err(|e| self.host("KVM_GET_REGS", e))? {
                return self.begin(began);
            }
        }
        let followed = self.follower.as_ref().and_then(|it| it.way_in(rip));
        if self.stops.watch.contains(&rip) {
            known = true;
            self.vcpu_set.observer.watched(&WatchEvent {
                time_ns: clock::now(),
                cpu: self.cpu,
                address: rip,
                arguments: [regs.rdi, regs.rsi, regs.rdx, regs.rcx, regs.r8, regs.r9],
            });
        }
        if let Some(began) = followed {
            return self.begin_followed(began, regs.rsp);
        }
        if !known {
            return Err(Break::Because(StopReason::UnexpectedExit {
                cpu: self.cpu,
                what: format!("debug exit at {rip:#x}"),
            }));
        }
        let trap = regs.rflags & TRAP_FLAG != 0;
        let mut code = [0; 2];
        let code = if self.access().read_virtual(rip, &mut code) {
            &code[..]
        } else {
            &[]
        };
        self.stops.own_trap = trap;
        self.stops.pushed_flags = PushedFlags::of(code, rip, regs.rsp);
        self.stops.stepping = Stepping::Over { trap };
        self.stop_where_wanted()
    }

    /// Begins to record an interrupt or a call that is followed, at the first instruction.
    fn begin_followed(&mut self, began: Began, frame: u64) -> Result<(), Break> {
        let user = match began {
            Began::Vector(vector) => recorder::from_user(&self.access(), vector)
                .map_err(|e| self.host("KVM_GET_REGS", e))?,
            Began::Syscall | Began::CompatSyscall | Began::Sysenter => true,
            Began::FaultingReturn(_) | Began::Call => false,
        };
        let Some(follower) = &mut self.follower else {
            return Ok(());
        };
        follower.begin(began, frame, user);
        self.recorder = Recorder::Armed {
            entries: vec![],
            limit: follower.limit,
        };
        self.begin(began)
    }

    /// Takes over a record of an interrupt that has ended, and waits for the next.
    fn keep_interrupt(&mut self) {
        if let Some(follower) = &mut self.follower
            && let Some(record) = self.recorder.take()
        {
            follower.keep(record);
            self.stops.entry = follower.addresses();
        }
    }

    /// Begins to record, at the first kernel instruction.
    fn begin(&mut self, began: Began) -> Result<(), Break> {
        let cpu = self.access();
        let handlers = assist::handlers(&cpu).map_err(|e| self.host("KVM_GET_SREGS", e))?;
        let regs = self.regs()?;
        let rip = regs.rip;
        let nested = NESTED
            .into_iter()
            .filter_map(|nr| Some((*handlers.get(&nr)?, nr)));
        self.stops.nested = nested.collect();
        self.stops.own_trap = regs.rflags & TRAP_FLAG != 0;
        self.stops.pushed_flags = None;
        self.stops.entry.clear();
        self.stops.stepping = Stepping::Recording { rip };
        let handlers = handlers.into_values().collect();
        self.recorder.begin(self.cpu, began, handlers);
        self.stop_where_wanted()
    }

    /// Takes down what the vCPU is about to execute, while a record runs, and asks for the step.
    pub(super) fn before_entry(&mut self) -> Result<(), Break> {
        match self.stops.stepping {
            Stepping::No => Ok(()),
            Stepping::Over { .. } => self.stop_where_wanted(),
            Stepping::Recording { .. } if self.follows_event() => self.step_along(),
            Stepping::Recording { .. } => self.record(),
        }
    }

    fn record(&mut self) -> Result<(), Break> {
        let cpu = self.access();
        let step = recorder::look(&cpu).map_err(|e| self.host("KVM_GET_SREGS", e))?;
        let follower = self.follower.as_ref();
        let returns =
            recorder::returns_to_user(&cpu, &step) || follower.is_some_and(|it| it.returns(&step));
        let successor = recorder::successor(&cpu, &step);
        let goes_on = self.recorder.step(step, returns);
        self.stops.successor = successor;
        self.stops.pushed_flags = PushedFlags::of_step(&step);
        self.stops.stepping = if goes_on {
            let rip = step.registers.rip;
            Stepping::Recording { rip }
        } else {
            self.keep_interrupt();
            Stepping::No
        };
        self.stop_where_wanted()
    }

    /// The vCPU is in HLT: a record ends there.
    pub(super) fn record_halt(&mut self) -> Result<(), Break> {
        if self.stops.recording() {
            self.recorder.end(Ended::Halted);
            self.keep_interrupt();
            self.stops.stepping = Stepping::No;
            self.stop_where_wanted()?;
        }
        self.halted_after_event()
    }

    /// Has the next entry from user space recorded, up to `limit` instructions: SYSCALL, page
    /// faults, interrupts and NMIs that the machine injects, and the other `ways`. A return to user space
    /// that faults comes after another entry: if it is among the ways, it alone is waited for.
    pub(crate) fn arm(&mut self, limit: usize, ways: &[Began]) -> Result<bool, errno::Error> {
        let mut entries = vec![];
        // Where an assist completes SYSCALL, it tells; the kernel's entry is not reached otherwise.
        let later = ways
            .iter()
            .any(|began| matches!(began, Began::FaultingReturn(_)));
        if !later && !self.assists.iter().any(|a| a.breakpoint().is_some()) {
            entries.push((recorder::lstar(&self.fd)?, Began::Syscall));
        }
        let cpu = self.access();
        let always = [Began::Vector(PAGE_FAULT)];
        for &began in always.iter().filter(|_| !later).chain(ways) {
            let address = match began {
                Began::Vector(vector) | Began::FaultingReturn(vector) => {
                    assist::handler(&cpu, vector)?
                }
                Began::Syscall | Began::Call => None,
                Began::CompatSyscall => Some(msr::read(&self.fd, msr::CSTAR)?),
                Began::Sysenter => Some(recorder::sysenter(&self.fd)?),
            };
            if let Some(address) = address
                && !entries.contains(&(address, began))
            {
                entries.push((address, began));
            }
        }
        self.recorder = Recorder::Armed { entries, limit };
        self.stops.entry = self.recorder.addresses();
        if !self.stops.fits() {
            self.disarm()?;
            return Ok(false);
        }
        self.stops.apply(&self.fd)?;
        Ok(true)
    }

    /// Has each interrupt of `vectors` recorded from now on, up to `limit` instructions. None: no more.
    pub(crate) fn follow(&mut self, limit: usize, vectors: &[u8]) -> Result<bool, errno::Error> {
        self.disarm()?;
        self.recorder = Recorder::Off;
        let cpu = self.access();
        let mut entries = vec![];
        for &vector in vectors {
            if let Some(address) = assist::handler(&cpu, vector)? {
                entries.push((address, Began::Vector(vector)));
            }
        }
        self.follow_entries(limit, entries)
    }

    /// Has each call of the functions at `addresses` recorded from now on, up to `limit` instructions. None:
    /// no more.
    pub(crate) fn follow_calls(
        &mut self,
        limit: usize,
        addresses: &[u64],
    ) -> Result<bool, errno::Error> {
        self.disarm()?;
        self.recorder = Recorder::Off;
        let calls = addresses.iter().map(|&address| (address, Began::Call));
        self.follow_entries(limit, calls.collect())
    }

    fn follow_entries(
        &mut self,
        limit: usize,
        entries: Vec<(u64, Began)>,
    ) -> Result<bool, errno::Error> {
        self.follower = (!entries.is_empty()).then(|| Follower::new(entries, limit));
        self.stops.entry = self
            .follower
            .as_ref()
            .map(Follower::addresses)
            .unwrap_or_default();
        if !self.stops.fits() {
            self.follower = None;
            self.stops.entry.clear();
            self.stops.apply(&self.fd)?;
            return Ok(false);
        }
        self.stops.apply(&self.fd)?;
        Ok(true)
    }

    /// The records of interrupts that have ended since it was asked last. `None`: one runs.
    pub(crate) fn followed(&mut self) -> Option<Vec<Record>> {
        if self.stops.recording() {
            return None;
        }
        Some(
            self.follower
                .as_mut()
                .map(Follower::take)
                .unwrap_or_default(),
        )
    }

    /// Stops waiting or recording; a finished record stays.
    pub(crate) fn disarm(&mut self) -> Result<(), errno::Error> {
        self.recorder.end(Ended::Limit);
        if self.recorder.armed() {
            self.recorder = Recorder::Off;
        }
        self.stops.entry.clear();
        if self.stops.recording() {
            self.stops.stepping = Stepping::No;
        }
        self.stops.apply(&self.fd)
    }

    /// Drops what is recorded and all stops but those of the assists and the addresses that are watched.
    pub(super) fn forget_stops(&mut self) -> Result<(), errno::Error> {
        self.recorder = Recorder::Off;
        self.forget_placed();
        self.stops.forget();
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

    /// An interrupt is about to be injected: its handler is a way in. Where no debug register is left
    /// for that, the record says so: what is recorded afterwards would be no first entry.
    pub(super) fn expect_vector(&mut self, vector: u8) -> Result<(), Break> {
        if !self.recorder.armed() {
            return Ok(());
        }
        let cpu = self.access();
        let handler = assist::handler(&cpu, vector).map_err(|e| self.host("KVM_GET_SREGS", e))?;
        if let Some(address) = handler {
            let began = Began::Vector(vector);
            self.recorder.expect(address, began);
            self.stops.entry = self.recorder.addresses();
            if !self.stops.fits() {
                self.recorder.give_up(self.cpu, began);
                self.stops.entry.clear();
            }
            self.stop_where_wanted()?;
        }
        Ok(())
    }

    pub(super) fn expect_nmi(&mut self) -> Result<(), Break> {
        self.expect_vector(NMI)
    }

    /// Passes what the assists want and all else on to KVM.
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
