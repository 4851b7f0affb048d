//! A vCPU apart from its machine.

use std::ops::RangeInclusive;

use kvm_bindings::kvm_msr_entry;

use super::exits::follows;
use super::{ASSIST_FAILED, Vcpu};
use crate::assist::Cpu;
use crate::machine::{MachineError, failed};
use crate::msr;
use crate::snapshot::{SavedVcpu, SnapshotError};
use crate::sys;
use crate::vm;

/// MSRs of Hyper-V, which no guest is offered; some cannot be written (KVM API, `KVM_GET_MSR_INDEX_LIST`).
const HYPER_V: RangeInclusive<u32> = 0x4000_0000..=0x4000_01ff;

impl Vcpu {
    /// Completes what the last exit was for, which KVM else does at the next entry. Nothing of the
    /// guest is executed.
    pub(crate) fn finish_exit(&mut self) -> bool {
        loop {
            let kicks = self.counters.kicks;
            self.fd.set_kvm_immediate_exit(1);
            // An access in several parts comes back with the next of them.
            match self.enter() {
                Ok(()) if self.counters.kicks != kicks => return true,
                Ok(()) => {}
                Err(end) => {
                    self.end(end);
                    return false;
                }
            }
        }
    }

    /// Everything that makes this vCPU what it is, `now`. Its last exit must be completed.
    pub(crate) fn save(&mut self, msrs: &[u32], now: u64) -> Result<SavedVcpu, MachineError> {
        let run = self.fd.get_kvm_run();
        let (if_flag, ready) = (run.if_flag, run.ready_for_interrupt_injection);
        let fd = &self.fd;
        Ok(SavedVcpu {
            regs: fd.get_regs().map_err(failed("KVM_GET_REGS"))?,
            sregs: fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?,
            debug_regs: fd.get_debug_regs().map_err(failed("KVM_GET_DEBUGREGS"))?,
            xcrs: fd.get_xcrs().map_err(failed("KVM_GET_XCRS"))?,
            xsave: fd.get_xsave().map_err(failed("KVM_GET_XSAVE"))?,
            msrs: self.saved_msrs(msrs),
            events: fd
                .get_vcpu_events()
                .map_err(failed("KVM_GET_VCPU_EVENTS"))?,
            apic: self.apic.save(now),
            halted: self.halted,
            if_flag,
            ready,
        })
    }

    /// Those MSRs that KVM reads. The APIC's own are in its state.
    fn saved_msrs(&self, msrs: &[u32]) -> Vec<kvm_msr_entry> {
        let ours = [vm::APIC_BASE, vm::TSC_DEADLINE];
        let wanted = msrs
            .iter()
            .filter(|msr| !ours.contains(msr) && !HYPER_V.contains(msr));
        wanted
            .filter_map(|&index| {
                let data = msr::read(&self.fd, index).ok()?;
                Some(kvm_msr_entry {
                    index,
                    data,
                    ..kvm_msr_entry::default()
                })
            })
            .collect()
    }

    /// Becomes what was saved, `now`. It must be fresh.
    ///
    /// # Errors
    /// KVM or the APIC does not take it.
    pub(crate) fn restore(&mut self, saved: &SavedVcpu, now: u64) -> Result<(), MachineError> {
        let fd = &self.fd;
        fd.set_regs(&saved.regs).map_err(failed("KVM_SET_REGS"))?;
        fd.set_sregs(&saved.sregs)
            .map_err(failed("KVM_SET_SREGS"))?;
        fd.set_xcrs(&saved.xcrs).map_err(failed("KVM_SET_XCRS"))?;
        sys::set_xsave(fd, &saved.xsave).map_err(failed("KVM_SET_XSAVE"))?;
        fd.set_debug_regs(&saved.debug_regs)
            .map_err(failed("KVM_SET_DEBUGREGS"))?;
        self.restore_msrs(&saved.msrs)?;
        fd.set_vcpu_events(&saved.events)
            .map_err(failed("KVM_SET_VCPU_EVENTS"))?;
        self.apic
            .restore(&saved.apic, now)
            .map_err(SnapshotError::from)?;
        self.halted = saved.halted;
        // What KVM would say of the interrupt flag if it had just come back from this guest.
        let run = self.fd.get_kvm_run();
        run.if_flag = saved.if_flag;
        run.ready_for_interrupt_injection = saved.ready;
        self.remind_assists(&saved.msrs)
    }

    fn restore_msrs(&self, msrs: &[kvm_msr_entry]) -> Result<(), MachineError> {
        for entry in msrs {
            let taken = msr::write(&self.fd, entry.index, entry.data) == Ok(true);
            // Some cannot be written, and need not be: they are what they were.
            if !taken && msr::read(&self.fd, entry.index) != Ok(entry.data) {
                return Err(SnapshotError::Msr {
                    cpu: self.cpu,
                    msr: entry.index,
                    value: entry.data,
                }
                .into());
            }
        }
        Ok(())
    }

    /// Tells the assists of the MSRs that they follow, and stops where they want.
    fn remind_assists(&mut self, msrs: &[kvm_msr_entry]) -> Result<(), MachineError> {
        let cpu = Cpu {
            fd: &self.fd,
            memory: &self.fleet.memory,
        };
        for assist in &mut self.assists {
            for entry in msrs {
                if follows(assist.as_ref(), entry.index) {
                    assist
                        .msr_write(&cpu, entry.index, entry.data)
                        .map_err(failed(ASSIST_FAILED))?;
                }
            }
        }
        self.set_stops().map_err(failed("KVM_SET_GUEST_DEBUG"))
    }

    /// Has KVM tell the guest that it was paused, so that no watchdog barks (KVM API 4.70).
    pub(crate) fn tell_of_pause(&self) {
        // A guest that does not use kvmclock cannot be told.
        let _ = self.fd.kvmclock_ctrl();
    }
}
