//! The sender's side, the other way round: the control vCPU stands at an instruction of its decision while the target,
//! which has been in the kernel until then, goes back to user space.

use std::time::Instant;

use ipirig_abi::Order;
use ipirig_entry::passage::{Event, Passage};
use ipirig_machine::Placed;
use ipirig_scenario::Trigger;
use ipirig_sweep::{Outcome, PlannedPoint, Sent, judge_exit};

use super::super::Ended;
use super::super::mailbox::post_order;
use super::super::release::RECORD_MAX;
use super::sender::{ENTRY, SenderWay};
use super::{PATIENCE, SENDER, Sweep, operation};

impl Sweep<'_, '_> {
    /// Visits a point of a sender while the target leaves the kernel.
    pub(super) fn exit_point(
        &mut self,
        way: &SenderWay,
        point: &PlannedPoint,
    ) -> Result<(Outcome, Option<Sent>), Ended> {
        let error = |why: &str| Ok((Outcome::Error(why.to_owned()), None));
        let sender = way.cpu;
        if !self.stay_in_kernel(&way.stand)? {
            return error("the target did not come into the kernel");
        }
        let at = self.event_at(Event::Stand, point);
        self.real(|machine| Ok(machine.place(sender, at)?))?;
        let (command, args) = operation(way.of);
        self.conductor.begin_command(command, args);
        if !self.wait_until(sender, Placed::Stands)? {
            return error("the sender did not come there in time");
        }
        if !self.leave_kernel()? {
            return error("the target did not leave the kernel while the sender stood there");
        }
        let before = self.sent_to_target();
        self.real(|machine| Ok(machine.release(sender)?))?;
        let deadline = Instant::now() + SENDER;
        let mut looks = 0;
        while !self.conductor.acknowledged() && Instant::now() < deadline {
            self.look_again(&mut looks)?;
        }
        let done = self.conductor.acknowledged();
        let sent = Sent {
            // How many is a matter of time: one that finds another's call still queued sends none (kernel/smp.c).
            ipis: (self.sent_to_target() - before).min(1),
            done_meanwhile: done,
            done,
        };
        let passage = if done {
            self.next_entry(&way.first, false)?
        } else {
            None
        };
        let context = self.context(&way.again);
        let outcome = judge_exit(&context, point, &way.first, passage.as_ref(), sent);
        Ok((outcome, Some(sent)))
    }

    /// Puts the guest back and has the target enter the kernel, to stay there open to interrupts. `stand`: where its way in
    /// ends. `false`: it does not come in.
    pub(super) fn stay_in_kernel(&mut self, stand: &PlannedPoint) -> Result<bool, Ended> {
        let target = self.cpu;
        self.rewind_quietly()?;
        let at = self.event_at(Event::Stand, stand);
        self.real(|machine| Ok(machine.place(target, at)?))?;
        post_order(self.conductor.guest.mailbox(), target, Order::Stay);
        let stands = self.wait_until(target, Placed::Stands)?;
        self.real(|machine| Ok(machine.release(target)?))?;
        Ok(stands)
    }

    /// Has the target leave the kernel. `false`: it does not.
    fn leave_kernel(&mut self) -> Result<bool, Ended> {
        let target = self.cpu;
        post_order(self.conductor.guest.mailbox(), target, Order::Leave);
        let beat = self.conductor.heartbeat(target);
        let deadline = Instant::now() + PATIENCE;
        let mut looks = 0;
        // Once more for the turn in which it obeyed.
        while self.conductor.heartbeat(target) <= beat + 1 || !self.conductor.obeyed(target) {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            self.look_again(&mut looks)?;
        }
        Ok(true)
    }

    /// The way that begins with `first`, when the target has been in the kernel and left it, with no sender. `Ok(Err)`: it
    /// cannot be traced.
    pub(super) fn whole_again(
        &mut self,
        first: &PlannedPoint,
        stand: &PlannedPoint,
    ) -> Result<Result<Passage, String>, Ended> {
        let there = self.stay_in_kernel(stand)? && self.leave_kernel()?;
        let whole = match there {
            true => self.next_entry(first, true)?,
            false => None,
        };
        Ok(whole.ok_or_else(|| {
            "the target does not stay in the kernel until it is told to leave".to_owned()
        }))
    }

    /// What the target executes when it enters the kernel now, at `first`: with the C code that may not be instrumented, if
    /// `all`. `None`: it does not, or does not come back.
    fn next_entry(&mut self, first: &PlannedPoint, all: bool) -> Result<Option<Passage>, Ended> {
        let target = self.cpu;
        let Trigger::Order(order) = ENTRY.trigger(false) else {
            return Ok(None);
        };
        let mut at = self.event_at(Event::Stand, first);
        if all {
            at.assembly.push(self.layout.noinstr_text());
            at.limit = RECORD_MAX;
        }
        self.real(|machine| Ok(machine.place(target, at)?))?;
        post_order(self.conductor.guest.mailbox(), target, order);
        if !self.wait_until(target, Placed::Stands)? {
            return Ok(None);
        }
        self.real(|machine| Ok(machine.go_on(target)?))?;
        Ok(self.back(ENTRY, None)?.map(|(passage, _)| passage))
    }
}
