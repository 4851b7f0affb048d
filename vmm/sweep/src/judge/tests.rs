use ipirig_entry::passage::{Event, Frame};
use ipirig_instruction::Code;

use super::*;
use crate::name::{PathName, Side};
use crate::plan::PlannedPath;
use crate::testing::*;

/// The whole way without an event.
fn whole() -> Passage {
    let mut cpu = Cpu::new();
    cpu.syscall(0, false);
    cpu.passage(Arrival::Stood)
}

fn points(layout: &KernelLayout, whole: &Passage) -> Vec<PlannedPoint> {
    let path = |side| PlannedPath::new(PathName::new("syscall", side), &whole.steps, layout).points;
    [path(Side::In), path(Side::Out)].concat()
}

fn judged(layout: &KernelLayout, step: usize, passage: &Passage, sent: Option<Sent>) -> Outcome {
    let whole = whole();
    let context = JudgeContext {
        layout,
        paging: paging(),
        whole: &whole,
        outer: None,
    };
    let points = points(layout, &whole);
    let point = points.iter().find(|point| point.step == step).unwrap();
    let event = if sent.is_some() {
        EventName::Flip
    } else {
        EventName::Nmi
    };
    judge(&context, point, event, passage, sent)
}

/// An NMI at `step` that goes wrong so.
fn nmi(step: usize, wrong: Wrong) -> Passage {
    let mut cpu = Cpu::at(step);
    let frame = cpu.frame();
    cpu.nmi(wrong).syscall(step, true);
    cpu.passage(Arrival::Taken(frame))
}

/// An operation while the CPU stands at `step`.
fn operation(step: usize) -> Passage {
    let mut cpu = Cpu::at(step);
    cpu.syscall(step, true);
    cpu.passage(Arrival::Stood)
}

const SENT: Sent = Sent {
    ipis: 1,
    done_meanwhile: false,
    done: true,
};
const DEFERRED: Sent = Sent {
    ipis: 0,
    done_meanwhile: true,
    done: true,
};

fn invariants(outcome: &Outcome) -> Vec<(Invariant, &str)> {
    match outcome {
        Outcome::Violated(violations) => violations
            .iter()
            .map(|violation| (violation.invariant, violation.at.as_str()))
            .collect(),
        _ => vec![],
    }
}

/// All steps but the C code.
fn steps() -> impl Iterator<Item = usize> {
    (0..SYSCALL).filter(|&step| step != 5)
}

#[test]
fn a_path_in_ends_before_instrumentable_code_and_a_path_out_begins_after_it() {
    let (layout, whole) = (layout(&[]), whole());
    let points = points(&layout, &whole);
    let numbers: Vec<_> = points
        .iter()
        .map(|point| (point.number, point.step))
        .collect();
    let expected = [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)];
    assert_eq!(numbers[..5], expected);
    assert_eq!(
        numbers[5..],
        [(0, 6), (1, 7), (2, 8), (3, 9), (4, 10), (5, 11)]
    );
    assert_eq!(points[1].address, "entry_SYSCALL_64+0x3");
    assert_eq!(points[1].text, "movb $1, %gs:0x15000");
}

#[test]
fn an_nmi_that_puts_back_what_it_found_holds_at_each_instruction() {
    let layout = layout(&[]);
    for step in steps() {
        let outcome = judged(&layout, step, &nmi(step, Wrong::Nothing), None);
        assert_eq!(outcome, Outcome::Held, "{step}");
    }
}

#[test]
fn a_flag_derived_from_the_page_table_is_found_between_its_store_and_the_load_only() {
    let layout = layout(&[]);
    for step in steps() {
        let outcome = judged(&layout, step, &nmi(step, Wrong::DerivesFlag), None);
        let expected = match step {
            2 => vec![(Invariant::FlagSet, "do_work")],
            _ => vec![],
        };
        assert_eq!(invariants(&outcome), expected, "{step}");
    }
}

#[test]
fn a_flag_set_by_the_users_gs_is_found_where_gs_is_the_users_only() {
    let layout = layout(&[]);
    for step in steps() {
        let outcome = judged(&layout, step, &nmi(step, Wrong::FlagBeforeGs), None);
        let gs = invariants(&outcome).contains(&(Invariant::BackInUser, "asm_exc_nmi+0x4"));
        assert_eq!(gs, [0, 11].contains(&step), "{step}: {outcome:?}");
    }
}

#[test]
fn a_handler_that_does_not_set_the_flag_or_does_not_catch_up_is_found() {
    let layout = layout(&[]);
    for (wrong, invariant) in [
        (Wrong::NoFlag, Invariant::FlagSet),
        (Wrong::NoCatchUp, Invariant::CaughtUp),
    ] {
        let outcome = judged(&layout, 1, &nmi(1, wrong), None);
        assert_eq!(invariants(&outcome), [(invariant, "do_work")], "{wrong:?}");
    }
}

#[test]
fn a_catch_up_before_the_flag_is_set_is_none() {
    let layout = layout(&[]);
    for step in steps() {
        let outcome = judged(&layout, step, &nmi(step, Wrong::NoSecondWrite), None);
        let expected = match step {
            0 | 1 | 10 | 11 => vec![(Invariant::CaughtUp, "do_work")],
            _ => vec![],
        };
        assert_eq!(invariants(&outcome), expected, "{step}");
    }
}

#[test]
fn nothing_is_concluded_from_a_passage_with_a_hole() {
    let layout = layout(&[]);
    let whole = nmi(3, Wrong::Nothing);
    for hole in [0, whole.steps.len() - 3, whole.steps.len() - 2] {
        let mut passage = whole.clone();
        passage.steps.remove(hole + 1);
        let outcome = judged(&layout, 3, &passage, None);
        assert!(matches!(outcome, Outcome::Error(_)), "{hole}: {outcome:?}");
    }
}

#[test]
fn a_static_key_and_vmalloc_memory_are_found_before_the_catch_up_only() {
    for (step, expected) in [(2, vec![(Invariant::CaughtUp, "asm_exc_nmi")]), (4, vec![])] {
        let layout = layout(&[NMI]);
        let outcome = judged(&layout, step, &nmi(step, Wrong::Nothing), None);
        assert_eq!(invariants(&outcome), expected, "a key at {step}");
    }
    let layout = layout(&[]);
    for (step, touched, found) in [
        (1, STACK - 0x10_0000, true),
        (1, 0xffff_8880_0000_0000, false),
        (4, STACK - 0x10_0000, false),
    ] {
        let mut cpu = Cpu::at(step);
        let frame = cpu.frame();
        cpu.registers.general[7] = touched;
        let before = cpu.registers;
        (cpu.registers.rip, cpu.registers.general[4]) = (NMI, NMI_STACK);
        cpu.execute(LOAD).execute(IRET);
        cpu.registers = before;
        cpu.syscall(step, true);
        let outcome = judged(&layout, step, &cpu.passage(Arrival::Taken(frame)), None);
        let told = invariants(&outcome).contains(&(Invariant::CaughtUp, "asm_exc_nmi"));
        assert_eq!(told, found, "{step} {touched:#x}: {outcome:?}");
    }
}

#[test]
fn whatever_is_another_in_user_space_is_found() {
    let layout = layout(&[]);
    let last = "entry_SYSCALL_64+0x2b";
    let check = |what: &str, change: &dyn Fn(&mut Passage)| {
        let mut passage = nmi(3, Wrong::Nothing);
        change(&mut passage);
        let outcome = judged(&layout, 3, &passage, None);
        let found: Vec<_> = invariants(&outcome)
            .iter()
            .map(|(invariant, _)| *invariant)
            .collect();
        assert_eq!(found, [Invariant::BackInUser], "{what}: {outcome:?}");
    };
    let end = |passage: &mut Passage, change: &dyn Fn(&mut Crossed)| {
        change(passage.steps.last_mut().unwrap());
    };
    check("flag", &|passage| end(passage, &|last| last.flag = Some(1)));
    check("page table", &|passage| {
        let load = |crossed: &Crossed| crossed.step.code.bytes() == USER_TABLE;
        let number = passage.steps.iter().rposition(load).unwrap();
        // A NOP of the same length.
        passage.steps[number].step.code = Code::new(&[0x0f, 0x1f, 0x40, 0]);
        for crossed in &mut passage.steps[number..] {
            crossed.step.registers.cr3 = KERNEL_CR3;
        }
    });
    check("GS base", &|passage| {
        end(passage, &|last| last.step.registers.gs_base = GS);
    });
    check("r12", &|passage| {
        for crossed in &mut passage.steps {
            crossed.step.registers.general[12] = 7;
        }
    });
    check("frame", &|passage| passage.frame = Some(Frame::default()));
    check("exception", &|passage| {
        passage.ended = PassageEnd::Exception {
            vector: 14,
            rip: ENTRY,
            cr2: 0x15000,
        };
    });
    let outcome = judged(&layout, 3, &nmi(3, Wrong::Nothing), None);
    assert_eq!(outcome, Outcome::Held, "{last}");
}

#[test]
fn an_event_that_came_elsewhere_or_not_at_all_is_no_hit() {
    let layout = layout(&[]);
    let with = |change: &dyn Fn(&mut Passage)| {
        let mut passage = nmi(3, Wrong::Nothing);
        change(&mut passage);
        judged(&layout, 3, &passage, None)
    };
    let frame = Cpu::at(3).frame();
    let elsewhere = [
        Frame {
            rip: frame.rip + 1,
            ..frame
        },
        Frame {
            rsp: frame.rsp - 8,
            ..frame
        },
        Frame { cs: 0x33, ..frame },
    ];
    for frame in elsewhere {
        let outcome = with(&|passage| passage.arrival = Arrival::Taken(frame));
        assert!(matches!(outcome, Outcome::Error(_)), "{frame:?}");
    }
    for arrival in [Arrival::NotTaken, Arrival::Stood] {
        let outcome = with(&|passage| passage.arrival = arrival);
        assert!(matches!(outcome, Outcome::Error(_)), "{arrival:?}");
    }
    let changes: [&dyn Fn(&mut Crossed); 3] = [
        &|first| first.step.registers.cr3 ^= 0x1000,
        &|first| first.step.registers.gs_base ^= 0x1000,
        &|first| first.flag = Some(0),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let outcome = with(&|passage| change(&mut passage.steps[0]));
        assert!(matches!(outcome, Outcome::Error(_)), "{number}");
    }
    for rule in [Blocked::NmiMasked, Blocked::Shadow, Blocked::InterruptsOff] {
        let outcome = with(&|passage| passage.arrival = Arrival::Blocked(rule));
        assert_eq!(outcome, Outcome::Missed(rule));
    }
    for ended in [PassageEnd::Limit, PassageEnd::Halted, PassageEnd::NoEvent] {
        let outcome = with(&|passage| passage.ended = ended);
        assert!(matches!(outcome, Outcome::Error(_)), "{ended:?}");
    }
}

#[test]
fn a_cpu_may_be_left_alone_until_it_catches_up_and_on_its_way_out_after_that() {
    let layout = layout(&[]);
    for step in steps() {
        let deferred = judged(&layout, step, &operation(step), Some(DEFERRED));
        let expected = match step {
            // Its catch-up is over, and C code comes.
            3 | 4 => vec![(Invariant::CaughtUp, "do_work")],
            _ => vec![],
        };
        assert_eq!(invariants(&deferred), expected, "{step}");
        let sent = judged(&layout, step, &operation(step), Some(SENT));
        assert_eq!(sent, Outcome::Held, "{step}");
    }
}

#[test]
fn a_sender_that_waits_for_ever_is_found() {
    let sent = Sent {
        done: false,
        ..SENT
    };
    let outcome = judged(&layout(&[]), 3, &operation(3), Some(sent));
    let expected = [(Invariant::SentOrDeferred, "entry_SYSCALL_64+0x10")];
    assert_eq!(invariants(&outcome), expected);
}

#[test]
fn a_kernel_without_a_flag_defers_nothing_and_is_judged_by_the_rest() {
    let layout = layout(&[]);
    let mut passage = nmi(1, Wrong::NoCatchUp);
    for crossed in &mut passage.steps {
        crossed.flag = None;
    }
    let mut whole = whole();
    for crossed in &mut whole.steps {
        crossed.flag = None;
    }
    let points = points(&layout, &whole);
    let context = JudgeContext {
        layout: &layout,
        paging: paging(),
        whole: &whole,
        outer: None,
    };
    let outcome = judge(&context, &points[1], EventName::Nmi, &passage, None);
    assert_eq!(outcome, Outcome::Held);
    passage.steps.last_mut().unwrap().step.registers.gs_base = GS;
    let outcome = judge(&context, &points[1], EventName::Nmi, &passage, None);
    assert!(matches!(outcome, Outcome::Violated(_)));
}

#[test]
fn an_nmi_before_that_came_elsewhere_is_an_error() {
    let (layout, whole) = (layout(&[]), whole());
    let points = points(&layout, &whole);
    let context = JudgeContext {
        layout: &layout,
        paging: paging(),
        whole: &whole,
        outer: Some(points[0].outer(Event::Nmi)),
    };
    let mut passage = nmi(1, Wrong::Nothing);
    let outcome = |passage: &Passage| judge(&context, &points[1], EventName::Nmi, passage, None);
    assert!(matches!(outcome(&passage), Outcome::Error(_)), "none came");
    passage.outer = Some(Frame {
        rip: points[0].rip,
        rsp: points[0].rsp,
        ..Frame::default()
    });
    assert_eq!(outcome(&passage), Outcome::Held);
    passage.outer = Some(Frame {
        rip: points[1].rip,
        rsp: points[0].rsp,
        ..Frame::default()
    });
    assert!(matches!(outcome(&passage), Outcome::Error(_)), "elsewhere");
}

#[test]
fn interrupts_are_missed_where_the_flag_is_clear_and_other_events_are_not() {
    let (layout, whole) = (layout(&[]), whole());
    let mut point = points(&layout, &whole)[0].clone();
    let rules = |point: &PlannedPoint| EventName::ALL.map(|event| missed(&layout, point, event));
    let (off, none) = (Some(Blocked::InterruptsOff), Some(Blocked::NoHandler));
    assert_eq!(
        rules(&point),
        [None, None, None, none, off, off, None, None, None, None]
    );
    point.rflags |= INTERRUPTS;
    assert_eq!(
        rules(&point),
        [None, None, None, none, None, None, None, None, None, None]
    );
}

#[test]
fn a_machine_check_is_missed_where_the_kernel_has_no_handler() {
    let map = "ffffffff81401800 T asm_exc_machine_check\n";
    let (with, without) = (layout_with(map, &[]), layout(&[]));
    let point = points(&without, &whole())[0].clone();
    let rule = |layout| missed(layout, &point, EventName::MachineCheck);
    assert_eq!(
        (rule(&with), rule(&without)),
        (None, Some(Blocked::NoHandler))
    );
}
