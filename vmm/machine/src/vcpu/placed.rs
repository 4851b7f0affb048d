//! An event at a chosen instruction: the vCPU runs up to it, takes the event there and nowhere else, and
//! what it executes from then on is written down.
//!
//! The vCPU stops at the instruction by a breakpoint. Before it goes on, the event is injected, with
//! breakpoints at the handler's first instruction and at the instruction itself: whichever is reached
//! first says whether the event was taken. What the CPU pushed on the handler's stack is the witness of
//! where.

mod blocked;
mod inspect;
mod machine_check;
mod outer;

use std::collections::HashMap;

use ipirig_entry::passage::{Arrival, Crossed, Event, EventAt, Frame, Passage, PassageEnd};
use ipirig_instruction::Step;
use kvm_ioctls::SyncReg;
use vmm_sys_util::errno;

use super::pushed_flags::PushedFlags;
use super::recorder::{self, RSP};
use super::stops::Stepping;
use super::{Break, Vcpu};
use crate::assist;
use crate::sys;

use blocked::blocked;
use machine_check::MACHINE_CHECK;
use outer::after_first;

/// Vectors of exceptions that nobody expects in entry code: #PF, #GP, #DF. There are four debug registers,
/// and one is for the instruction after the next.
const UNEXPECTED: [u8; 3] = [14, 13, 8];
/// Vector of a #DB.
const DEBUG: u8 = 1;
/// Vector of an NMI.
const NMI: u8 = 2;
/// DR6.B0: the first breakpoint matched (SDM vol. 3, 18.2.3).
const BREAKPOINT_0: u64 = 1;
/// Bytes of the error code that comes with each of them.
const ERROR_CODE: u64 = 8;

/// How an event that was asked for is coming along, for whoever waits for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Placed {
    /// None was asked for, or it has not come yet.
    #[default]
    Waiting = 0,
    /// The vCPU stands at the instruction.
    Stands = 1,
    /// The passage is over.
    Over = 2,
}

impl From<u8> for Placed {
    fn from(code: u8) -> Self {
        match code {
            1 => Self::Stands,
            2 => Self::Over,
            _ => Self::Waiting,
        }
    }
}

/// An event that was asked for.
#[derive(Debug)]
pub(super) struct Placing {
    at: EventAt,
    stage: Stage,
    passage: Passage,
    /// Handlers of what nobody expects, with their vectors.
    unexpected: Vec<(u64, u8)>,
    /// How often the vCPU was stopped.
    stops: usize,
    /// The registers in `kvm_run` are the vCPU's: it has run since KVM was asked to leave them there, and
    /// nobody has changed them.
    synced: bool,
    /// Guest-physical addresses of the pages that code was read from, by CR3 and linear address. The
    /// kernel does not map its assembly anew.
    pages: HashMap<(u64, u64), Option<u64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The vCPU has not come to the instruction that comes before all others.
    First,
    /// It has not come to the one at which another NMI is to come before.
    Before,
    /// It has not come to the instruction.
    Waiting,
    /// It stands there until it is told to go on; or for good, where it was stopped for what nobody
    /// expects.
    Standing,
    /// The event, or the NMI that comes before, is on its way to the handler that begins here.
    Delivering { handler: u64, before: bool },
    /// It executes one instruction after the other.
    Tracing,
    /// It runs freely until it comes here, with this RSP.
    Free { rip: u64, rsp: u64 },
    /// The passage is complete.
    Over,
}

impl Placing {
    fn in_assembly(&self, rip: u64) -> bool {
        self.at.assembly.iter().any(|range| range.contains(&rip))
    }
}

impl Vcpu {
    /// Asks for an event. What was asked for before is dropped.
    pub(crate) fn place(&mut self, at: EventAt) -> Result<bool, errno::Error> {
        let cpu = self.access();
        let handlers = assist::handlers(&cpu)?;
        let unexpected = UNEXPECTED
            .into_iter()
            .filter_map(|nr| Some((*handlers.get(&nr)?, nr)))
            .collect();
        self.forget_stops()?;
        let (stage, address) = match at.first {
            Some((rip, _)) => (Stage::First, rip),
            None => after_first(&at),
        };
        self.stops.entry = vec![address];
        self.placing = Some(Placing {
            at,
            stage,
            passage: Passage {
                arrival: Arrival::NotTaken,
                outer: None,
                steps: vec![],
                ended: PassageEnd::NoEvent,
                frame: None,
            },
            unexpected,
            stops: 0,
            synced: false,
            pages: HashMap::new(),
        });
        self.announce(Placed::Waiting);
        if !self.stops.fits() {
            self.forget_stops()?;
            return Ok(false);
        }
        self.stops.apply(&self.fd)?;
        Ok(true)
    }

    /// Gives the passage away, if it is over.
    pub(crate) fn take_passage(&mut self) -> Option<Passage> {
        match &self.placing {
            Some(placing) if placing.stage == Stage::Over => {}
            Some(placing)
                if placing.stage == Stage::Standing && !placing.passage.steps.is_empty() =>
            {
                // It stays where it is.
                return Some(placing.passage.clone());
            }
            _ => return None,
        }
        self.placing.take().map(|placing| placing.passage)
    }

    /// Has a vCPU go on that stands at the instruction of its event.
    pub(crate) fn go_on(&mut self) -> Result<(), errno::Error> {
        let standing = |placing: &&mut Placing| {
            placing.stage == Stage::Standing && placing.passage.steps.is_empty()
        };
        if let Some(placing) = self.placing.as_mut().filter(standing) {
            placing.passage.arrival = Arrival::Stood;
            placing.stage = Stage::Tracing;
            let rip = placing.at.rip;
            self.trace_from(rip)?;
        }
        Ok(())
    }

    /// Has a vCPU go on that stands at the instruction of its event, with nothing written down.
    pub(crate) fn release(&mut self) -> Result<(), errno::Error> {
        self.forget_stops()
    }

    /// Drops what was asked for.
    pub(super) fn forget_placed(&mut self) {
        self.placing = None;
        self.fd.clear_sync_valid_reg(SyncReg::SystemRegister);
        self.announce(Placed::Waiting);
    }

    /// Whether the vCPU must not run.
    pub(super) fn stands(&self) -> bool {
        self.in_stage(|stage| stage == Stage::Standing)
    }

    /// Whether nothing may be injected but the event that was asked for.
    pub(super) fn delivering(&self) -> bool {
        self.in_stage(|stage| matches!(stage, Stage::Delivering { .. }))
    }

    /// Whether what the vCPU executes is written down for an event.
    pub(super) fn follows_event(&self) -> bool {
        self.in_stage(|stage| stage == Stage::Tracing)
    }

    fn in_stage(&self, which: impl Fn(Stage) -> bool) -> bool {
        self.placing
            .as_ref()
            .is_some_and(|placing| which(placing.stage))
    }

    /// At a breakpoint. `None`: it is none of an event; `false`: it is, and the vCPU steps over it.
    pub(super) fn reached_for_event(&mut self, rip: u64, rsp: u64) -> Result<Option<bool>, Break> {
        let Some(placing) = &self.placing else {
            return Ok(None);
        };
        match placing.stage {
            Stage::First => self.reached_first(rip, rsp),
            Stage::Before => self.reached_before(rip, rsp),
            Stage::Waiting if rip == placing.at.rip => {
                if rsp != placing.at.rsp {
                    return Ok(Some(false));
                }
                if let Some(placing) = &mut self.placing
                    && let Some(left) = placing.at.skip.checked_sub(1)
                {
                    placing.at.skip = left;
                    return Ok(Some(false));
                }
                self.arrive()?;
                Ok(Some(true))
            }
            Stage::Delivering { handler, before } if rip == handler => {
                let frame = self.frame(rsp).unwrap_or_default();
                if before {
                    return self.in_outer(rip, rsp, frame);
                }
                self.taken(rip, frame)?;
                Ok(Some(true))
            }
            Stage::Delivering { before, .. } if Some(rip) == placing.instruction(before) => {
                self.end_passage(PassageEnd::NoEvent, Stage::Over)?;
                Ok(Some(true))
            }
            Stage::Free { rip: to, rsp: with } if rip == to => {
                if rsp != with {
                    return Ok(Some(false));
                }
                if let Some(placing) = &mut self.placing {
                    placing.stage = Stage::Tracing;
                }
                self.trace_from(rip)
                    .map_err(|e| self.host("KVM_SET_GUEST_DEBUG", e))?;
                Ok(Some(true))
            }
            _ => Ok(None),
        }
    }

    /// The vCPU is about to execute the instruction at which the event is to come.
    fn arrive(&mut self) -> Result<(), Break> {
        let Some(event) = self.placing.as_ref().map(|placing| placing.at.event) else {
            return Ok(());
        };
        if event == Event::Stand {
            self.set_stage(Stage::Standing);
            self.stops.entry.clear();
            self.stop_where_wanted()?;
            self.announce(Placed::Stands);
            return Ok(());
        }
        if event == Event::NestedNmi {
            self.unmask_nmis()?;
        }
        self.inject_event(event, false)
    }

    /// Injects `event` at the instruction before which the vCPU stands: the one that comes `before`, or not.
    fn inject_event(&mut self, event: Event, before: bool) -> Result<(), Break> {
        let vector = match event {
            Event::Interrupt(vector) => vector,
            Event::Debug => DEBUG,
            Event::MachineCheck => MACHINE_CHECK,
            Event::Nmi | Event::NestedNmi | Event::Stand => NMI,
        };
        let events = self
            .fd
            .get_vcpu_events()
            .map_err(|e| self.host("KVM_GET_VCPU_EVENTS", e))?;
        let regs = self.regs()?;
        let cpu = self.access();
        let handler = assist::handler(&cpu, vector).map_err(|e| self.host("KVM_GET_SREGS", e))?;
        if let Some(why) = blocked(event, &events, regs.rflags) {
            if let Some(placing) = &mut self.placing {
                placing.passage.arrival = Arrival::Blocked(why);
            }
            return self.end_passage(PassageEnd::NoEvent, Stage::Over);
        }
        let Some(handler) = handler else {
            return self.end_passage(PassageEnd::NoEvent, Stage::Over);
        };
        self.set_stage(Stage::Delivering { handler, before });
        self.stops.entry = vec![handler, regs.rip];
        self.stop_where_wanted()?;
        match event {
            Event::Interrupt(vector) => {
                sys::interrupt(&self.fd, vector).map_err(|e| self.host("KVM_INTERRUPT", e))?;
            }
            Event::Debug => {
                let raised = self.deliver_debug(BREAKPOINT_0);
                raised.map_err(|e| self.host("raising a #DB", e))?;
            }
            Event::MachineCheck => {
                let raised = self.deliver_machine_check();
                raised.map_err(|e| self.host("raising a #MC", e))?;
            }
            Event::Nmi | Event::NestedNmi | Event::Stand => {
                self.fd.nmi().map_err(|e| self.host("KVM_NMI", e))?;
                self.counters.nmis += 1;
            }
        }
        self.not_ready();
        Ok(())
    }

    /// The vCPU has taken the event and is about to execute the handler's first instruction.
    fn taken(&mut self, rip: u64, frame: Frame) -> Result<(), Break> {
        if let Some(placing) = &mut self.placing {
            placing.passage.arrival = Arrival::Taken(frame);
            placing.stage = Stage::Tracing;
        }
        self.trace_from(rip)
            .map_err(|e| self.host("KVM_SET_GUEST_DEBUG", e))
    }

    /// From `rip`, where the vCPU stands, one instruction at a time.
    fn trace_from(&mut self, rip: u64) -> Result<(), errno::Error> {
        self.stops.entry.clear();
        if let Some(placing) = &self.placing {
            self.stops.nested.clone_from(&placing.unexpected);
        }
        self.stops.successor = None;
        self.stops.own_trap = false;
        self.stops.pushed_flags = None;
        self.stops.stepping = Stepping::Recording { rip };
        if self.synced {
            self.fd.set_sync_valid_reg(SyncReg::SystemRegister);
        }
        self.registers_changed();
        self.set_stops()
    }

    /// Takes down what the vCPU is about to execute, and asks for the step.
    pub(super) fn step_along(&mut self) -> Result<(), Break> {
        let step = self.look_along()?;
        let cpu = self.access();
        let returns = recorder::returns_to_user(&cpu, &step);
        let successor = recorder::successor(&cpu, &step);
        let (rip, rsp) = (step.registers.rip, step.registers.general[RSP]);
        let Some(placing) = &mut self.placing else {
            return Ok(());
        };
        placing.stops += 1;
        let first = placing.passage.steps.is_empty();
        if step.registers.cpl == 3 {
            return self.end_passage(PassageEnd::User, Stage::Over);
        }
        if placing.stops > placing.at.limit {
            return self.end_passage(PassageEnd::Limit, Stage::Standing);
        }
        // The handler may be where the event came, or where an IRET leads: Linux makes a #GP of a #DF that a return to user
        // space raised (`exc_double_fault` of arch/x86/kernel/traps.c).
        let resumed = (rip, rsp) == (placing.at.rip, placing.at.rsp);
        let led = self.stops.successor == Some(rip);
        let unexpected = (!first && !resumed && !led)
            .then(|| placing.unexpected.iter().find(|(at, _)| *at == rip))
            .flatten();
        if let Some(&(_, vector)) = unexpected {
            return self.exception(vector, rsp);
        }
        // Not executed yet (an exit in the middle of it), or not for the last time.
        let again = placing.passage.steps.last().is_some_and(|last| {
            let last = &last.step.registers;
            (last.rip, last.general[RSP]) == (rip, rsp)
        });
        if !again {
            let until = self.runs_free_until(&step)?;
            let flag = self.flag();
            if let Some(placing) = &mut self.placing {
                placing.passage.steps.push(Crossed {
                    step,
                    flag,
                    free: until.is_some(),
                });
            }
            if let Some((rip, rsp)) = until {
                self.set_stage(Stage::Free { rip, rsp });
                self.stops.stepping = Stepping::No;
                self.stops.entry = vec![rip];
                return self.stop_where_wanted();
            }
        }
        if returns {
            let frame = self.frame(rsp);
            let iret = step.code.bytes().starts_with(&recorder::IRETQ);
            if let Some(placing) = &mut self.placing {
                placing.passage.frame = frame.filter(|_| iret);
            }
            return self.end_passage(PassageEnd::User, Stage::Over);
        }
        self.stops.successor = successor;
        self.stops.pushed_flags = PushedFlags::of_step(&step);
        self.stops.stepping = Stepping::Recording { rip };
        self.stop_where_wanted()?;
        if let Some(placing) = self.placing.as_mut().filter(|_| self.synced) {
            // By the next time the vCPU has run.
            placing.synced = true;
        }
        Ok(())
    }

    /// Where the code ends that begins with `step` and is not to be followed: where it was called from,
    /// or, if it was interrupted by the event, where the one who asked says that it ends.
    fn runs_free_until(&self, step: &Step) -> Result<Option<(u64, u64)>, Break> {
        let Some(placing) = &self.placing else {
            return Ok(None);
        };
        let (rip, rsp) = (step.registers.rip, step.registers.general[RSP]);
        if placing.in_assembly(rip) {
            return Ok(None);
        }
        if (rip, rsp) == (placing.at.rip, placing.at.rsp) {
            return Ok(placing.at.resume);
        }
        let mut address = [0; 8];
        if !self.access().read_virtual(rsp, &mut address) {
            return Ok(None);
        }
        let to = u64::from_le_bytes(address);
        Ok(placing.in_assembly(to).then_some((to, rsp.wrapping_add(8))))
    }

    fn exception(&mut self, vector: u8, rsp: u64) -> Result<(), Break> {
        let frame = self.frame(rsp.wrapping_add(ERROR_CODE)).unwrap_or_default();
        let sregs = self.sregs()?;
        let ended = PassageEnd::Exception {
            vector,
            rip: frame.rip,
            cr2: sregs.cr2,
        };
        self.end_passage(ended, Stage::Standing)
    }

    /// The vCPU is in HLT.
    pub(super) fn halted_after_event(&mut self) -> Result<(), Break> {
        if self.in_stage(|stage| matches!(stage, Stage::Tracing | Stage::Free { .. })) {
            self.end_passage(PassageEnd::Halted, Stage::Over)?;
        }
        Ok(())
    }

    fn end_passage(&mut self, ended: PassageEnd, stage: Stage) -> Result<(), Break> {
        if let Some(placing) = &mut self.placing {
            placing.passage.ended = ended;
            placing.stage = stage;
        }
        self.fd.clear_sync_valid_reg(SyncReg::SystemRegister);
        self.stops.forget();
        self.stop_where_wanted()?;
        self.announce(Placed::Over);
        Ok(())
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(placing) = &mut self.placing {
            placing.stage = stage;
        }
    }

    fn announce(&self, placed: Placed) {
        if let Some(slot) = self.vcpu_set.slots.get(self.cpu) {
            slot.announce_placed(placed as u8);
        }
    }
}
