//! The sender's side: the control vCPU stands at an instruction of its decision while the target enters.

use std::ops::Range;
use std::rc::Rc;
use std::time::Instant;

use ipirig_abi::Role;
use ipirig_entry::Ended as RecordEnded;
use ipirig_entry::passage::{Event, EventAt, Passage};
use ipirig_instruction::Step;
use ipirig_machine::Placed;
use ipirig_scenario::{EntryKind, Trigger};
use ipirig_sweep::{
    Outcome, PathResult, PlannedPoint, Sender, SenderPath, Sent, Side, happens_on, judge_sender,
};

use super::super::Ended;
use super::super::mailbox::post_order;
use super::super::release::RECORD_MAX;
use super::{RSP, Sweep, SweepRequest, Swept, operation};

/// The way by which the target enters.
pub(super) const ENTRY: EntryKind = EntryKind::Syscall;

/// What a sender executes, and the way by which the target comes in meanwhile.
pub(super) struct SenderWay {
    pub(super) of: Sender,
    /// What the target does meanwhile.
    pub(super) target: Side,
    pub(super) sender: SenderPath,
    /// The vCPU that sends.
    pub(super) cpu: usize,
    /// Where the target's way in begins.
    pub(super) first: PlannedPoint,
    /// Where it ends.
    pub(super) stand: PlannedPoint,
    pub(super) whole: Rc<Passage>,
    /// The same after the target was in the kernel and left it.
    pub(super) again: Rc<Passage>,
}

impl Sweep<'_, '_> {
    /// Traces what the request's senders execute.
    pub(super) fn senders(
        &mut self,
        request: &SweepRequest,
        swept: &mut Swept,
    ) -> Result<Vec<SenderWay>, Ended> {
        let wanted = |&(of, target): &(Sender, Side)| {
            let path = of.path(target);
            request.events.iter().any(|event| happens_on(*event, &path))
        };
        let senders: Vec<_> = request.senders.iter().copied().filter(wanted).collect();
        if senders.is_empty() {
            return Ok(vec![]);
        }
        let target = self.whole(ENTRY)?.and_then(|whole| {
            let stand = PlannedPoint::first_instrumentable(&whole.steps, self.layout);
            let stand = stand.ok_or("the target's entry comes to no instrumentable code")?;
            let first = PlannedPoint::first(&whole.steps, self.layout);
            let first = first.ok_or("the target's entry has no instructions")?;
            Ok((Rc::new(whole), [first, stand]))
        });
        let target = match target {
            Ok((whole, [first, stand])) => {
                let again = match senders.iter().any(|(_, target)| *target == Side::Out) {
                    true => self.whole_again(&first, &stand)?.map(Rc::new),
                    false => Ok(Rc::clone(&whole)),
                };
                again.map(|again| (whole, again, [first, stand]))
            }
            Err(why) => Err(why.to_owned()),
        };
        let mut ways = Vec::new();
        for (of, side) in senders {
            let traced = match &target {
                Ok((whole, again, [first, stand])) => {
                    self.sender((of, side), stand)?
                        .map(|(cpu, sender)| SenderWay {
                            of,
                            target: side,
                            sender,
                            cpu,
                            first: first.clone(),
                            stand: stand.clone(),
                            whole: Rc::clone(whole),
                            again: Rc::clone(again),
                        })
                }
                Err(why) => Err(why.clone()),
            };
            let name = of.path(side);
            let known = swept.paths.iter().any(|path| path.path == name.to_string());
            match traced {
                Ok(way) => {
                    if !known {
                        swept.paths.push(PathResult::new(&way.sender.path));
                    }
                    ways.push(way);
                }
                Err(why) if !known => swept.paths.push(PathResult::untraced(&name, why)),
                Err(_) => {}
            }
        }
        Ok(ways)
    }

    /// What the control vCPU executes for one operation of this kind, traced while the target is in user space, or in the
    /// kernel, where its way in ends at `stand`. `Ok(Err)`: it cannot be traced.
    fn sender(
        &mut self,
        (of, target): (Sender, Side),
        stand: &PlannedPoint,
    ) -> Result<Result<(usize, SenderPath), String>, Ended> {
        let control = self.conductor.plan.cpus(Role::Control);
        let Some(cpu) = control.first().copied() else {
            return Ok(Err("there is no control vCPU".to_owned()));
        };
        let symbols = self.layout.symbols();
        let mut begins = of.begins().iter();
        let Some(first) = begins.find_map(|name| symbols.address(name)) else {
            let names = of.begins().join(" and no ");
            return Ok(Err(format!("the kernel has no {names}")));
        };
        match target {
            Side::In => self.rewind_quietly()?,
            Side::Out => {
                if !self.stay_in_kernel(stand)? {
                    return Ok(Err("the target does not stay in the kernel".to_owned()));
                }
            }
        }
        self.real(|machine| Ok(machine.follow_calls(cpu, RECORD_MAX, &[first])?))?;
        let (command, args) = operation(of);
        self.conductor.begin_command(command, args);
        let deadline = Instant::now() + self.conductor.plan.timeouts.phase;
        let mut records = Vec::new();
        while records.is_empty() && Instant::now() < deadline {
            let new = self.real(|machine| Ok(machine.followed(cpu)?))?;
            records.extend(new.unwrap_or_default());
            self.conductor.pause()?;
        }
        self.real(|machine| Ok(machine.follow_calls(cpu, RECORD_MAX, &[])?))?;
        let Some(record) = records.into_iter().next() else {
            return Ok(Err("the sender's decision was not seen".to_owned()));
        };
        if matches!(record.ended, RecordEnded::Limit) {
            return Ok(Err("the trace of the sender has no end".to_owned()));
        }
        let steps: &[Step] = &record.steps;
        if !self.stand_at_first(cpu, of, steps)? {
            return Ok(Err("the sender did not come there again".to_owned()));
        }
        let read = |range: Range<u64>| self.code(cpu, range);
        let sender = SenderPath::new((of, target), steps, (self.layout, &read));
        if of == Sender::Flip && sender.changes.is_empty() {
            return Ok(Err("the sender was not seen to change text".to_owned()));
        }
        Ok(Ok((cpu, sender)))
    }

    /// Has the sender `cpu` stand where `trace` begins: with the kernel's page table.
    fn stand_at_first(&mut self, cpu: usize, of: Sender, trace: &[Step]) -> Result<bool, Ended> {
        let Some(first) = trace.first().map(|step| &step.registers) else {
            return Ok(false);
        };
        self.rewind_quietly()?;
        let at = EventAt {
            event: Event::Stand,
            rip: first.rip,
            rsp: first.general[RSP],
            skip: 0,
            first: None,
            outer: None,
            assembly: vec![],
            resume: None,
            flag: None,
            limit: 0,
        };
        self.real(|machine| Ok(machine.place(cpu, at)?))?;
        let (command, args) = operation(of);
        self.conductor.begin_command(command, args);
        self.wait_until(cpu, Placed::Stands)
    }

    /// The kernel's code, as `cpu` has it mapped now.
    fn code(&self, cpu: usize, range: Range<u64>) -> Option<Vec<u8>> {
        let len = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
        let machine = self.conductor.guest.real()?;
        machine.read_virtual(cpu, range.start, len).ok().flatten()
    }

    /// Visits a point of a sender.
    pub(super) fn sender_point(
        &mut self,
        way: &SenderWay,
        point: &PlannedPoint,
    ) -> Result<(Outcome, Option<Sent>), Ended> {
        let error = |why: &str| Ok((Outcome::Error(why.to_owned()), None));
        let (sender, target) = (way.cpu, self.cpu);
        let Trigger::Order(order) = ENTRY.trigger(false) else {
            return error("the target cannot be ordered to enter that way");
        };
        self.rewind_quietly()?;
        let at = self.event_at(Event::Stand, point);
        self.real(|machine| Ok(machine.place(sender, at)?))?;
        let (command, args) = operation(way.of);
        self.conductor.begin_command(command, args);
        if !self.wait_until(sender, Placed::Stands)? {
            return error("the sender did not come there in time");
        }
        let at = self.event_at(Event::Stand, &way.stand);
        self.real(|machine| Ok(machine.place(target, at)?))?;
        post_order(self.conductor.guest.mailbox(), target, order);
        if !self.wait_until(target, Placed::Stands)? {
            return error("the target did not come in while the sender stood there");
        }
        let before = self.sent_to_target();
        self.real(|machine| Ok(machine.release(sender)?))?;
        let sent = self.watch_sender(before)?;
        self.real(|machine| Ok(machine.go_on(target)?))?;
        let Some((passage, Some(sent))) = self.back(ENTRY, Some(sent))? else {
            return error("the target did not come back in time");
        };
        let context = self.context(&way.whole);
        let changes = way.sender.changes_after(point);
        let outcome = judge_sender(&context, (point, changes), &way.stand, &passage, sent);
        Ok((outcome, Some(sent)))
    }

    /// Puts the guest back, with nothing on its way to anyone.
    pub(super) fn rewind_quietly(&mut self) -> Result<(), Ended> {
        self.conductor.deadline = Instant::now() + self.conductor.plan.timeouts.phase;
        self.rewind()
    }
}
