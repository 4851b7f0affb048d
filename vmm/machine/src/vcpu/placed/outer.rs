//! What comes before an event: an instruction from which on all is counted, and another event in whose handler the event comes.

use ipirig_entry::passage::{EventAt, Frame};

use super::super::{Break, Vcpu};
use super::{Placing, Stage};

impl Placing {
    /// The instruction at which the event that comes `before` is to come, or the event itself.
    pub(super) fn instruction(&self, before: bool) -> Option<u64> {
        if before {
            self.at.outer.map(|outer| outer.rip)
        } else {
            Some(self.at.rip)
        }
    }
}

/// What is waited for when all that comes first has been, and where that is.
pub(super) fn after_first(at: &EventAt) -> (Stage, u64) {
    match at.outer {
        Some(outer) => (Stage::Before, outer.rip),
        None => (Stage::Waiting, at.rip),
    }
}

impl Vcpu {
    /// At a breakpoint, while nothing has come that is waited for. See [`Vcpu::reached_for_event`].
    pub(super) fn reached_first(&mut self, rip: u64, rsp: u64) -> Result<Option<bool>, Break> {
        let Some(placing) = &self.placing else {
            return Ok(None);
        };
        match placing.at.first {
            Some((first, _)) if first != rip => return Ok(None),
            Some(first) if first != (rip, rsp) => return Ok(Some(false)),
            _ => {}
        }
        let (stage, address) = after_first(&placing.at);
        self.go_on_to(stage, address, (rip, rsp))
    }

    /// Waits for what comes next, at `address`, which may be where the vCPU stands.
    fn go_on_to(
        &mut self,
        stage: Stage,
        address: u64,
        (rip, rsp): (u64, u64),
    ) -> Result<Option<bool>, Break> {
        self.set_stage(stage);
        self.stops.entry = vec![address];
        let same = self.reached_for_event(rip, rsp)?;
        Ok(Some(same == Some(true)))
    }

    /// At a breakpoint, while the event that comes before has not come. See [`Vcpu::reached_for_event`].
    pub(super) fn reached_before(&mut self, rip: u64, rsp: u64) -> Result<Option<bool>, Break> {
        let Some(outer) = self.placing.as_mut().and_then(|it| it.at.outer.as_mut()) else {
            return Ok(None);
        };
        if rip != outer.rip {
            return Ok(None);
        }
        if rsp != outer.rsp {
            return Ok(Some(false));
        }
        if let Some(left) = outer.skip.checked_sub(1) {
            outer.skip = left;
            return Ok(Some(false));
        }
        let event = outer.event;
        self.inject_event(event, true)?;
        Ok(Some(true))
    }

    /// The vCPU is about to execute the first instruction of the handler of the event that came before, with `frame`
    /// on the stack.
    pub(super) fn in_outer(
        &mut self,
        rip: u64,
        rsp: u64,
        frame: Frame,
    ) -> Result<Option<bool>, Break> {
        let Some(placing) = &mut self.placing else {
            return Ok(None);
        };
        placing.passage.outer = Some(frame);
        let address = placing.at.rip;
        self.go_on_to(Stage::Waiting, address, (rip, rsp))
    }

    /// Lets the vCPU take an NMI while the handler of another one runs, as after an IRET.
    pub(super) fn unmask_nmis(&mut self) -> Result<(), Break> {
        let mut events = self
            .fd
            .get_vcpu_events()
            .map_err(|e| self.host("KVM_GET_VCPU_EVENTS", e))?;
        events.nmi.masked = 0;
        self.fd
            .set_vcpu_events(&events)
            .map_err(|e| self.host("KVM_SET_VCPU_EVENTS", e))
    }
}
