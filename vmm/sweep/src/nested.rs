//! Which events there are on which path; and the paths on which another event has come before.

use std::ops::Range;

use ipirig_entry::passage::{Crossed, Event, OuterEvent, Passage};

use crate::name::{DEBUG, EventName, PathName, Side};
use crate::plan::{PlannedPath, PlannedPoint, place};
use crate::sender::Sender;

/// Whether `event` can happen on `path`. On a sender's path that is an entry of the target's, or an exit, and nothing else. A nested
/// NMI happens on the way out of an NMI's handler: what may execute an IRET is on the way before. A #DB does not
/// happen on the way in of another one, which has its frame on the stack that it would use: the kernel allows no breakpoint
/// there (arch/x86/kernel/hw_breakpoint.c).
#[must_use]
pub fn happens_on(event: EventName, path: &PathName) -> bool {
    let outer = path.outer();
    if let (Some(outer), Some(within)) = (outer, &path.within)
        && !happens_on(outer, &PathName::new(&within.entry, within.side))
    {
        return false;
    }
    let of_sender = Sender::find(path).map(|(_, target)| target);
    match event {
        EventName::Entry => of_sender == Some(Side::In),
        EventName::Exit => of_sender == Some(Side::Out),
        // In the handler of another one it is masked.
        EventName::Nmi if outer == Some(EventName::Nmi) => false,
        // The one before has its frame on the stack that it would use.
        EventName::Debug | EventName::MachineCheck if outer == Some(event) => false,
        EventName::Debug => {
            let within = path.within.as_ref();
            let on = within.map(|within| (&within.entry, within.side));
            let (entry, side) = on.unwrap_or((&path.entry, path.side));
            of_sender.is_none() && !(entry == DEBUG && side == Side::In)
        }
        EventName::NestedNmi => path.handles_nmi() && path.side == Side::Out,
        _ => of_sender.is_none(),
    }
}

/// The points of `path`, on the way that `trace` is of, at which an NMI finds the CPU between two states: where CR3, GS
/// base or the flag are others than at the instruction before or after. At most `most` of them, evenly spread.
#[must_use]
pub fn turning_points<'p>(
    path: &'p PlannedPath,
    trace: &[Crossed],
    most: usize,
) -> Vec<&'p PlannedPoint> {
    let state = |step: usize| {
        let crossed = trace.get(step)?;
        let registers = &crossed.step.registers;
        Some((registers.cr3, registers.gs_base, crossed.flag))
    };
    let differ = |one: usize, other: usize| matches!((state(one), state(other)), (Some(one), Some(other)) if one != other);
    let turns = |point: &&PlannedPoint| {
        let before = point.step.checked_sub(1);
        before.is_some_and(|before| differ(before, point.step))
            || differ(point.step, point.step + 1)
    };
    let all: Vec<_> = path.points.iter().filter(turns).collect();
    let chosen = most.min(all.len());
    (0..chosen)
        .filter_map(|number| all.get(number * all.len() / chosen).copied())
        .collect()
}

/// The way on which an event comes at a point of another.
#[derive(Clone, Debug)]
pub struct NestedWay {
    /// All of it: the other way up to the point, and what the CPU executed from the handler on.
    pub whole: Passage,
    /// Where in it the handler is.
    pub handler: Range<usize>,
    /// Where the event comes.
    pub outer: OuterEvent,
}

impl NestedWay {
    /// The way `whole`, with an event at a point of it, of which `passage` came.
    #[must_use]
    pub fn new(whole: &Passage, (event, point): (Event, &PlannedPoint), passage: &Passage) -> Self {
        let before = whole.steps.get(..point.step).unwrap_or_default();
        let back = passage
            .steps
            .iter()
            .position(|crossed| place(crossed) == (point.rip, point.rsp));
        let len = back.unwrap_or(passage.steps.len());
        let mut steps = before.to_vec();
        steps.extend_from_slice(&passage.steps);
        Self {
            whole: Passage {
                steps,
                ..passage.clone()
            },
            handler: before.len()..before.len() + len,
            outer: point.outer(event),
        }
    }
}

impl PlannedPoint {
    /// As the place of an event that comes first.
    #[must_use]
    pub fn outer(&self, event: Event) -> OuterEvent {
        OuterEvent {
            event,
            rip: self.rip,
            rsp: self.rsp,
            skip: self.skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use ipirig_entry::passage::Arrival;

    use super::*;
    use crate::testing::{Cpu, Wrong, layout};

    fn syscall() -> Passage {
        let mut cpu = Cpu::new();
        cpu.syscall(0, false);
        cpu.passage(Arrival::Stood)
    }

    fn path(side: Side) -> PlannedPath {
        let name = PathName::new("syscall", side);
        PlannedPath::new(name, &syscall().steps, &layout(&[]))
    }

    /// An NMI at `step` of a system call.
    fn nested(step: usize) -> NestedWay {
        let whole = syscall();
        let mut cpu = Cpu::at(step);
        cpu.nmi(Wrong::Nothing).syscall(step, true);
        let points = [path(Side::In).points, path(Side::Out).points].concat();
        let point = points.iter().find(|point| point.step == step).unwrap();
        NestedWay::new(&whole, (Event::Nmi, point), &cpu.passage(Arrival::Stood))
    }

    #[test]
    fn the_points_between_two_states_are_chosen_evenly() {
        let numbers = |side, most| {
            let path = path(side);
            let trace = syscall().steps;
            let points = turning_points(&path, &trace, most);
            points.iter().map(|point| point.step).collect::<Vec<_>>()
        };
        // SWAPGS, the flag, the page table, and what comes after it.
        assert_eq!(numbers(Side::In, 9), [0, 1, 2, 3]);
        assert_eq!(numbers(Side::In, 2), [0, 2]);
        assert_eq!(numbers(Side::In, 0), [0; 0]);
        // The page table, the flag, SWAPGS, SYSRET.
        assert_eq!(numbers(Side::Out, 9), [8, 9, 10, 11]);
    }

    #[test]
    fn a_nested_way_is_the_other_way_with_a_handler_in_it() {
        let way = nested(1);
        let first = way.whole.steps[way.handler.start];
        assert_eq!(way.handler.start, 1);
        assert_eq!(first.step.registers.rip, crate::testing::NMI);
        let after = &way.whole.steps[way.handler.end..];
        let rest = &syscall().steps[1..];
        assert_eq!(after.first().map(place), rest.first().map(place));
        assert_eq!(after.last().map(place), rest.last().map(place));
        // Its points are the handler's alone.
        let name = PathName::new("syscall", Side::In).event_at(EventName::Nmi, 1, Side::Out);
        let path = PlannedPath::within(name, &way.whole.steps, way.handler.clone(), &layout(&[]));
        let last = path.points.last().unwrap();
        assert_eq!((path.points[0].number, last.step), (0, way.handler.end - 1));
    }

    #[test]
    fn an_event_happens_where_it_can() {
        let on = |path: &str| {
            let path: PathName = path.parse().unwrap();
            EventName::ALL.map(|event| happens_on(event, &path))
        };
        let usual = [
            true, false, true, true, true, true, true, true, false, false,
        ];
        let of_debug = [
            true, false, false, true, true, true, true, true, false, false,
        ];
        let of_machine_check = [
            true, false, true, false, true, true, true, true, false, false,
        ];
        let from_user = [true, true, true, true, true, true, true, true, false, false];
        let nested = [
            false, true, true, true, true, true, true, true, false, false,
        ];
        let in_debug = [
            false, false, false, true, true, true, true, true, false, false,
        ];
        let of = |event| EventName::ALL.map(|it| it == event);
        let (entered, left) = (of(EventName::Entry), of(EventName::Exit));
        assert_eq!(on("syscall-exit"), usual);
        assert_eq!(on("nmi"), usual);
        assert_eq!(on("debug"), of_debug);
        assert_eq!(on("debug-exit"), usual);
        assert_eq!(on("debug+4/nmi"), in_debug);
        assert_eq!(on("nmi-exit"), from_user);
        assert_eq!(on("syscall+3/nmi-exit"), nested);
        assert_eq!(on("syscall+3/debug"), of_debug);
        assert_eq!(on("syscall+3/debug-exit"), of_debug);
        assert_eq!(on("double-fault+3/machine-check"), of_machine_check);
        assert_eq!(on("debug+3/debug"), [false; 10]);
        assert_eq!(on("sender-flip"), entered);
        assert_eq!(on("sender-flip-exit"), left);
    }
}
