//! A vCPU apart from its machine.

use kvm_bindings::kvm_msr_entry;

use super::exits::follows;
use super::{ASSIST_FAILED, Vcpu};
use crate::assist::Cpu;
use crate::machine::{MachineError, failed};
use crate::msr;
use crate::snapshot::{RegisterList, SavedVcpu, SnapshotError, has_shadow_stacks};
use crate::sys;

impl Vcpu {
    /// Completes what the last exit was for, which KVM else does at the next entry. Nothing of the
    /// guest is executed.
    pub(crate) fn finish_exit(&mut self) -> bool {
        loop {
            let kicks = self.counters.kicks;
            self.immediate_exit.set();
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
    ///
    /// # Errors
    /// KVM does not give it, or there is more than it gives.
    pub(crate) fn save(
        &mut self,
        registers: &RegisterList,
        now: u64,
    ) -> Result<SavedVcpu, MachineError> {
        let run = self.fd.get_kvm_run();
        let (if_flag, ready) = (run.if_flag, run.ready_for_interrupt_injection);
        let fd = &self.fd;
        let msrs = self.saved_msrs(registers);
        if has_shadow_stacks(&msrs) {
            return Err(SnapshotError::ShadowStacks.into());
        }
        Ok(SavedVcpu {
            regs: fd.get_regs().map_err(failed("KVM_GET_REGS"))?,
            sregs: fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?,
            debug_regs: fd.get_debug_regs().map_err(failed("KVM_GET_DEBUGREGS"))?,
            xcrs: fd.get_xcrs().map_err(failed("KVM_GET_XCRS"))?,
            xsave: sys::get_xsave(fd, registers.xsave_bytes).map_err(failed("KVM_GET_XSAVE"))?,
            msrs,
            tsc_khz: self.tsc_khz(),
            events: fd
                .get_vcpu_events()
                .map_err(failed("KVM_GET_VCPU_EVENTS"))?,
            apic: self.apic.save(now),
            halted: self.halted,
            if_flag,
            ready,
        })
    }

    /// The frequency of the TSC in kHz; 0 on hosts with an unstable TSC, where KVM does not say.
    fn tsc_khz(&self) -> u32 {
        self.fd.get_tsc_khz().unwrap_or(0)
    }

    /// Those MSRs that KVM reads.
    fn saved_msrs(&self, registers: &RegisterList) -> Vec<kvm_msr_entry> {
        let wanted = registers.msrs(msr::read(&self.fd, msr::MTRRCAP).unwrap_or(0));
        wanted
            .into_iter()
            .filter_map(|index| {
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
    pub(crate) fn restore(
        &mut self,
        saved: &SavedVcpu,
        registers: &RegisterList,
        now: u64,
    ) -> Result<(), MachineError> {
        // Before the TSC, which is counted by it.
        self.restore_tsc_khz(saved.tsc_khz)?;
        self.become_saved(saved, registers, now)
    }

    /// Becomes what this very vCPU was when it was saved, `now`, whatever it does.
    ///
    /// # Errors
    /// KVM or the APIC does not take it.
    pub(crate) fn rewind(
        &mut self,
        saved: &SavedVcpu,
        registers: &RegisterList,
        now: u64,
    ) -> Result<(), MachineError> {
        self.forget_stops().map_err(failed("KVM_SET_GUEST_DEBUG"))?;
        self.unfinished = false;
        self.raced = 0;
        self.last_tick = 0;
        if self.cpu == 0 {
            // KVM takes a value near the one that was written last, which this is, for an attempt to
            // synchronise the vCPUs' counters, and lets them run on (`kvm_synchronize_tsc`). The vCPUs
            // after the first are to be synchronised with it.
            msr::write(&self.fd, msr::TSC, 1 << 62).map_err(failed("KVM_SET_MSRS"))?;
        }
        self.become_saved(saved, registers, now)
    }

    fn become_saved(
        &mut self,
        saved: &SavedVcpu,
        registers: &RegisterList,
        now: u64,
    ) -> Result<(), MachineError> {
        if saved.xsave.len() != sys::xsave_words(registers.xsave_bytes) {
            return Err(SnapshotError::Misfit("its XSAVE area has another size").into());
        }
        let fd = &self.fd;
        fd.set_regs(&saved.regs).map_err(failed("KVM_SET_REGS"))?;
        fd.set_sregs(&saved.sregs)
            .map_err(failed("KVM_SET_SREGS"))?;
        fd.set_xcrs(&saved.xcrs).map_err(failed("KVM_SET_XCRS"))?;
        sys::set_xsave(fd, registers.xsave_bytes, &saved.xsave).map_err(failed("KVM_SET_XSAVE"))?;
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

    /// Has the guest's TSC run at the rate that it ran at: the guest has measured it, or was told.
    fn restore_tsc_khz(&self, saved: u32) -> Result<(), MachineError> {
        let set = |khz| self.fd.set_tsc_khz(khz).is_ok();
        if tsc_runs_at(saved, || self.tsc_khz(), set) {
            return Ok(());
        }
        let now = self.tsc_khz();
        Err(SnapshotError::Tsc { saved, now }.into())
    }

    fn restore_msrs(&self, msrs: &[kvm_msr_entry]) -> Result<(), MachineError> {
        let mut left = msrs;
        while !left.is_empty() {
            let taken = msr::write_all(&self.fd, left).map_err(failed("KVM_SET_MSRS"))?;
            left = left.get(taken..).unwrap_or_default();
            if let Some((refused, rest)) = left.split_first() {
                // Or no more fitted into one call.
                let written = msr::write(&self.fd, refused.index, refused.data) == Ok(true);
                // Some cannot be written, and need not be: they are what they were.
                if !written && msr::read(&self.fd, refused.index) != Ok(refused.data) {
                    return Err(SnapshotError::Msr {
                        cpu: self.cpu,
                        msr: refused.index,
                        value: refused.data,
                    }
                    .into());
                }
                left = rest;
            }
        }
        Ok(())
    }

    /// Tells the assists of the MSRs that they follow, and stops where they want.
    fn remind_assists(&mut self, msrs: &[kvm_msr_entry]) -> Result<(), MachineError> {
        let cpu = Cpu {
            fd: &self.fd,
            memory: &self.vcpu_set.memory,
        };
        for assist in &mut self.assists {
            assist.restored(&cpu).map_err(failed(ASSIST_FAILED))?;
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

/// Whether a TSC runs at `wanted` kHz (0: nobody knows), by itself or since it was `set` to, which only
/// hosts with TSC scaling do (KVM API 4.55). KVM takes what is within its tolerance
/// (`kvm_set_tsc_khz`) without scaling, so the frequency is looked at afterwards.
fn tsc_runs_at(wanted: u32, now: impl Fn() -> u32, set: impl FnOnce(u32) -> bool) -> bool {
    now() == wanted || (wanted != 0 && set(wanted) && now() == wanted)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_tsc_is_at_the_rate_it_had_or_is_set_to_it_or_is_refused() {
        // A vCPU whose TSC runs at `now`, on a host that takes another frequency or not.
        let runs_at = |wanted, now, scales: bool| {
            let khz = Cell::new(now);
            let set = |to| {
                if scales {
                    khz.set(to);
                }
                scales
            };
            (tsc_runs_at(wanted, || khz.get(), set), khz.get())
        };
        assert_eq!(runs_at(2_000, 2_000, false), (true, 2_000));
        assert_eq!(runs_at(2_000, 3_000, true), (true, 2_000));
        assert_eq!(runs_at(2_000, 3_000, false), (false, 3_000));
        assert_eq!(runs_at(0, 0, false), (true, 0));
        assert_eq!(runs_at(0, 3_000, true), (false, 3_000));
        assert_eq!(runs_at(2_000, 0, false), (false, 0));
        // A host that says that it did, and did not.
        assert!(!tsc_runs_at(2_000, || 3_000, |_| true));
    }
}
