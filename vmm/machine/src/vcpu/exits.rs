//! What each KVM exit means to the machine.

use ipirig_apic::{APIC_BASE_ENABLE, Action, Icr, Mode};
use ipirig_kick::NoExit;
use kvm_bindings::kvm_debug_exit_arch;
use kvm_ioctls::VcpuExit;
use vmm_sys_util::errno;

use super::sender::SendingVcpu;
use super::{ASSIST_FAILED, Annotate, Break, Vcpu};
use crate::assist::{Assist, Cpu, Handled};
use crate::clock;
use crate::msr;
use crate::ports::PortWrite;
use crate::stop::StopReason;
use crate::sys;
use crate::vm::{self, Apics};

/// The register page, relative to which xAPIC registers are numbered.
const PAGE: u64 = 0xfff;
/// x2APIC registers as MSRs (SDM vol. 3, 11.12.1.2).
const X2APIC: std::ops::RangeInclusive<u32> = 0x800..=0x83f;
/// A patched instruction can change under the emulator's fetch again and again, but not forever.
const RACES: u32 = 1000;

/// What is left to do once the exit's data, which lies in `kvm_run`, is no longer borrowed.
enum ExitAction {
    Nothing,
    Send(Icr),
    Halt,
    Msr(u32, u64),
    ApicBase,
    TscDeadline(u64),
    Internal,
    Debug(kvm_debug_exit_arch),
    Stop(StopReason),
}

impl Vcpu {
    /// Runs the guest until its next exit and deals with that.
    pub(super) fn enter(&mut self) -> Result<(), Break> {
        match self.run_guest()? {
            ExitAction::Nothing => Ok(()),
            ExitAction::Send(icr) => self.send(icr),
            ExitAction::Halt => {
                self.halted = true;
                self.record_halt()
            }
            ExitAction::Msr(msr, value) => self.follow_msr(msr, value),
            ExitAction::ApicBase => self.follow_apic_base(),
            ExitAction::TscDeadline(value) => self.set_tsc_deadline(value),
            ExitAction::Internal => self.internal_error(),
            ExitAction::Debug(exit) => self.debug(&exit),
            ExitAction::Stop(reason) => Err(Break::Because(reason)),
        }
    }

    fn run_guest(&mut self) -> Result<ExitAction, Break> {
        let Self {
            cpu,
            fd,
            cr8,
            immediate_exit,
            apic,
            apics,
            vcpu_set,
            assists,
            counters,
            timers,
            unfinished,
            ..
        } = self;
        *unfinished = false;
        let exit = match immediate_exit.enter(|| fd.run(), sys::kicked) {
            Ok(exit) => {
                // Before the exit is looked at: it may be a read or a write of the TPR.
                apic.set_cr8(cr8.get());
                exit
            }
            Err(NoExit::Kicked) => {
                apic.set_cr8(cr8.get());
                counters.kicks += 1;
                return Ok(ExitAction::Nothing);
            }
            Err(NoExit::Failed(error)) => return Err(self.host("KVM_RUN", error)),
        };
        *unfinished = matches!(
            exit,
            VcpuExit::IoOut(..)
                | VcpuExit::IoIn(..)
                | VcpuExit::MmioRead(..)
                | VcpuExit::MmioWrite(..)
                | VcpuExit::X86Rdmsr(_)
                | VcpuExit::X86Wrmsr(_)
        );
        let then = match exit {
            VcpuExit::IoOut(port, data) => {
                counters.io += 1;
                match vcpu_set.ports.write(port, data) {
                    PortWrite::Done => ExitAction::Nothing,
                    PortWrite::Reset => ExitAction::Stop(StopReason::Reset),
                    PortWrite::DebugExit(code) => ExitAction::Stop(StopReason::DebugExit { code }),
                }
            }
            VcpuExit::IoIn(port, data) => {
                counters.io += 1;
                vcpu_set.ports.read(port, data);
                ExitAction::Nothing
            }
            VcpuExit::MmioRead(address, data) => {
                counters.mmio += 1;
                let value = match apic_offset(apic, *apics, address) {
                    Some(offset) => apic.mmio_read(offset, clock::now()),
                    None => u32::MAX,
                };
                data.fill(0xff);
                for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
                    *to = from;
                }
                ExitAction::Nothing
            }
            VcpuExit::MmioWrite(address, data) => {
                counters.mmio += 1;
                let value: Option<[u8; 4]> = data.try_into().ok();
                match (apic_offset(apic, *apics, address), value) {
                    (Some(offset), Some(value)) => {
                        then(apic.mmio_write(offset, u32::from_le_bytes(value), clock::now()))
                    }
                    // Registers are 4 bytes wide (SDM vol. 3, 11.4.1).
                    _ => ExitAction::Nothing,
                }
            }
            VcpuExit::X86Rdmsr(msr) => {
                counters.msr += 1;
                let value = match msr.index {
                    // KVM brings what it refuses, of its own APIC as well.
                    _ if *apics == Apics::Kernel => None,
                    vm::APIC_BASE => Some(apic.apic_base()),
                    vm::TSC_DEADLINE if timers.tsc_khz.is_some() => {
                        Some(apic.tsc_deadline(clock::now()))
                    }
                    index if X2APIC.contains(&index) => apic.msr_read(index, clock::now()).ok(),
                    _ => None,
                };
                // A set error is a #GP in the guest.
                *msr.error = u8::from(value.is_none());
                *msr.data = value.unwrap_or_default();
                ExitAction::Nothing
            }
            VcpuExit::X86Wrmsr(msr) => {
                counters.msr += 1;
                let done = match msr.index {
                    index if followed(assists, index) => Some(ExitAction::Msr(index, msr.data)),
                    _ if *apics == Apics::Kernel => None,
                    vm::APIC_BASE => apic
                        .set_apic_base(msr.data)
                        .ok()
                        .map(|()| ExitAction::ApicBase),
                    vm::TSC_DEADLINE if timers.tsc_khz.is_some() => {
                        Some(ExitAction::TscDeadline(msr.data))
                    }
                    index if X2APIC.contains(&index) => {
                        apic.msr_write(index, msr.data, clock::now()).ok().map(then)
                    }
                    _ => None,
                };
                *msr.error = u8::from(done.is_none());
                done.unwrap_or(ExitAction::Nothing)
            }
            VcpuExit::Hlt => {
                counters.halts += 1;
                ExitAction::Halt
            }
            VcpuExit::IrqWindowOpen => {
                counters.windows += 1;
                ExitAction::Nothing
            }
            // KVM says so when CR8 falls; it has been taken over already.
            VcpuExit::Intr | VcpuExit::SetTpr => ExitAction::Nothing,
            VcpuExit::InternalError => ExitAction::Internal,
            VcpuExit::Debug(exit) => {
                counters.debug += 1;
                ExitAction::Debug(exit)
            }
            VcpuExit::Shutdown => ExitAction::Stop(StopReason::TripleFault { cpu: *cpu }),
            other => ExitAction::Stop(StopReason::UnexpectedExit {
                cpu: *cpu,
                what: format!("{other:?}"),
            }),
        };
        Ok(then)
    }

    fn send(&mut self, icr: Icr) -> Result<(), Break> {
        // As the exit left them, with no ioctl where KVM can: nothing has changed them since.
        let regs = if self.synced {
            self.fd.sync_regs().regs
        } else {
            self.regs()?
        };
        let sender = SendingVcpu::new(self.access(), regs);
        let observer = Annotate::sending(self.vcpu_set.observer.as_ref(), regs.rip, &sender);
        let sent = self.vcpu_set.bus.send(self.cpu, icr, &observer);
        self.vcpu_set.kick(sent.wake.without(self.cpu));
        Ok(())
    }

    /// The guest writes an MSR that assists follow. What KVM does not take is a #GP.
    fn follow_msr(&mut self, msr: u32, value: u64) -> Result<(), Break> {
        let taken = msr::write(&self.fd, msr, value).map_err(|e| self.host("KVM_SET_MSRS", e))?;
        if !taken {
            sys::refuse_msr(self.fd.get_kvm_run());
            return Ok(());
        }
        self.assist(|assist, cpu| {
            if follows(assist, msr) {
                assist.msr_write(cpu, msr, value)?;
            }
            Ok(Handled::No)
        })?;
        self.stop_where_wanted()
    }

    /// Tells KVM whether the APIC is enabled: that is what CPUID's bit says (SDM vol. 3, 11.4.3).
    fn follow_apic_base(&mut self) -> Result<(), Break> {
        let mut sregs = self.sregs()?;
        let changed = (sregs.apic_base ^ self.apic.apic_base()) & APIC_BASE_ENABLE;
        if changed == 0 {
            return Ok(());
        }
        self.complete_exit();
        sregs.apic_base ^= changed;
        self.fd
            .set_sregs(&sregs)
            .map_err(|error| self.host("KVM_SET_SREGS", error))
    }

    /// Arms the timer for the moment when the guest's TSC reaches `value`.
    fn set_tsc_deadline(&mut self, value: u64) -> Result<(), Break> {
        let tsc = msr::read(&self.fd, msr::TSC).map_err(|e| self.host("KVM_GET_MSRS", e))?;
        let left = u128::from(value.saturating_sub(tsc)) * 1_000_000
            / u128::from(self.timers.tsc_khz.unwrap_or(1).max(1));
        let now = clock::now();
        let at = now.saturating_add(u64::try_from(left).unwrap_or(u64::MAX));
        self.apic.set_tsc_deadline(value, at, now);
        Ok(())
    }

    fn internal_error(&mut self) -> Result<(), Break> {
        let error = sys::internal_error(self.fd.get_kvm_run());
        let handled =
            self.assist(|assist, cpu| assist.emulation_failure(cpu, &error.instruction))?;
        if handled == Handled::Yes {
            self.raced = 0;
            return Ok(());
        }
        // Another CPU may have patched the site between the emulator's fetch and now: then what is
        // there by now deserves a try of its own.
        if self.raced < RACES && self.changed_since(&error.instruction) {
            self.raced += 1;
            return Ok(());
        }
        Err(Break::Because(StopReason::InternalError {
            cpu: self.cpu,
            suberror: error.suberror,
            instruction: error.instruction,
        }))
    }

    fn changed_since(&self, instruction: &[u8]) -> bool {
        let Ok(regs) = self.fd.get_regs() else {
            return false;
        };
        let cpu = self.access();
        let mut now = vec![0; instruction.len()];
        !instruction.is_empty() && cpu.read_virtual(regs.rip, &mut now) && now != instruction
    }

    /// Forgets that the guest could take an interrupt at the last exit: its state is another now (an
    /// exception to deliver first, or IF cleared). KVM delivers what KVM_INTERRUPT queued whatever
    /// IF says by then, so the next exit has to tell.
    pub(super) fn not_ready(&mut self) {
        self.registers_changed();
        self.fd.get_kvm_run().ready_for_interrupt_injection = 0;
    }

    /// Offers something to the assists in order, until one takes it.
    pub(super) fn assist(
        &mut self,
        mut offer: impl FnMut(&mut dyn Assist, &Cpu<'_>) -> Result<Handled, errno::Error>,
    ) -> Result<Handled, Break> {
        let cpu = Cpu {
            fd: &self.fd,
            memory: &self.vcpu_set.memory,
        };
        for (index, assist) in self.assists.iter_mut().enumerate() {
            match offer(assist.as_mut(), &cpu) {
                Ok(Handled::No) => {}
                Ok(Handled::Yes) => {
                    self.counters.assisted(index);
                    self.not_ready();
                    return Ok(Handled::Yes);
                }
                Err(error) => return Err(self.host(ASSIST_FAILED, error)),
            }
        }
        Ok(Handled::No)
    }
}

fn then(action: Action) -> ExitAction {
    match action {
        Action::Send(icr) => ExitAction::Send(icr),
        Action::None | Action::EndOfInterrupt(_) => ExitAction::Nothing,
    }
}

/// The register offset, if `address` is in the APIC's page and the APIC is ours and has one.
fn apic_offset(apic: &ipirig_apic::LocalApic, apics: Apics, address: u64) -> Option<u16> {
    let base = apic.apic_base() & !PAGE;
    let in_page = apics == Apics::User && apic.mode() == Mode::XApic && address & !PAGE == base;
    if in_page {
        u16::try_from(address & PAGE).ok()
    } else {
        None
    }
}

fn followed(assists: &[Box<dyn Assist>], msr: u32) -> bool {
    assists.iter().any(|assist| follows(assist.as_ref(), msr))
}

pub(super) fn follows(assist: &dyn Assist, msr: u32) -> bool {
    assist
        .msrs()
        .is_some_and(|(first, count)| msr.checked_sub(first).is_some_and(|offset| offset < count))
}
