use std::ops::Range;

use ipirig_entry::passage::Arrival;
use ipirig_instruction::{Code, StepRegisters};

use super::*;
use crate::testing::*;

/// Functions of a sender, in C code.
const BATCH: u64 = C + 0x1000;
const WRITE: u64 = C + 0x2000;
const CALL: u64 = C + 0x3000;
const COND: u64 = C + 0x4000;

fn none(_: Range<u64>) -> Option<Vec<u8>> {
    None
}

fn step(rip: u64, rsp: u64) -> Step {
    let mut general = [0; 16];
    general[RSP] = rsp;
    Step {
        registers: StepRegisters {
            rip,
            general,
            ..StepRegisters::default()
        },
        code: Code::new(&[0x90]),
        descriptor: None,
    }
}

/// Writes text and syncs twice: asks two CPUs, sends, and waits, longer and longer.
fn trace() -> Vec<Step> {
    let mut steps = vec![step(BATCH, STACK)];
    for round in 1..=2 {
        steps.extend([step(WRITE, STACK - 16), step(WRITE + 1, STACK - 16)]);
        steps.push(step(BATCH + 1 + round, STACK));
        steps.push(step(CALL, STACK - 32));
        for _ in 0..2 {
            steps.push(step(COND, STACK - 48));
            steps.push(step(CALL + 1, STACK - 32));
        }
        for _ in 0..round {
            steps.push(step(CALL + 2, STACK - 32));
        }
    }
    steps.push(step(BATCH + 4, STACK));
    steps
}

#[test]
fn each_execution_of_the_first_sync_is_a_point_and_of_later_ones_what_is_new() {
    let path = SenderPath::new((Sender::Flip, Side::In), &trace(), (&layout(&[]), &none));
    let places: Vec<(u64, usize, usize)> = path
        .path
        .points
        .iter()
        .map(|point| (point.rip, point.skip, point.step))
        .collect();
    let expected = vec![
        (BATCH, 0, 0),
        (BATCH + 2, 0, 3),
        (CALL, 0, 4),
        (COND, 0, 5),
        (CALL + 1, 0, 6),
        (COND, 1, 7),
        (CALL + 1, 1, 8),
        (CALL + 2, 0, 9),
        (BATCH + 3, 0, 12),
        (BATCH + 4, 0, 20),
    ];
    assert_eq!(places, expected);
    assert_eq!(path.changes, [1, 10]);
    assert_eq!(path.path.name.to_string(), "sender-flip");
}

/// Waits `rounds` times, and then `more` times, in a loop of PAUSE, load and jump back that is entered at the load.
fn waits(rounds: usize, more: usize) -> Vec<Step> {
    let coded = |offset: u64, code: &[u8]| Step {
        code: Code::new(code),
        ..step(CALL + offset, STACK - 32)
    };
    let check = || [coded(6, &LOOP[2..]), coded(9, &LOOP[5..])];
    let mut steps = vec![step(BATCH, STACK), coded(0, &[0x90])];
    for rounds in [rounds, more] {
        steps.push(coded(1, &[0x90]));
        steps.extend(check());
        for _ in 0..rounds {
            steps.push(coded(4, &LOOP));
            steps.extend(check());
        }
    }
    steps.extend([coded(11, &[0x90]), step(BATCH + 1, STACK)]);
    steps
}

/// pause; mov 8(%rdx), %eax; jne to the first
const LOOP: [u8; 7] = [0xf3, 0x90, 0x8b, 0x42, 0x08, 0x75, 0xf9];

fn code(range: Range<u64>) -> Option<Vec<u8>> {
    (range == (CALL + 4..CALL + 11)).then(|| LOOP.to_vec())
}

#[test]
fn how_long_a_sender_waits_and_whether_it_does_makes_no_points() {
    let places = |rounds, more| -> Vec<(usize, u64, usize)> {
        let trace = waits(rounds, more);
        let path = (Sender::Vunmap, Side::In);
        let path = SenderPath::new(path, &trace, (&layout(&[]), &code)).path;
        let points = path.points.iter();
        points.map(|it| (it.number, it.rip, it.skip)).collect()
    };
    let expected = vec![
        (0, BATCH, 0),
        (1, CALL, 0),
        (2, CALL + 1, 0),
        (3, CALL + 1, 1),
        (4, CALL + 11, 0),
        (5, BATCH + 1, 0),
    ];
    for (rounds, more) in [(0, 0), (1, 0), (0, 1), (1, 1), (3, 0), (2, 5)] {
        assert_eq!(places(rounds, more), expected, "{rounds} {more}");
    }
}

#[test]
fn a_change_after_the_point_is_seen_and_one_before_it_is_not() {
    let path = SenderPath::new((Sender::Flip, Side::In), &trace(), (&layout(&[]), &none));
    let after: Vec<bool> = path
        .path
        .points
        .iter()
        .map(|point| path.changes_after(point))
        .collect();
    assert_eq!(
        after,
        [true, true, true, true, true, true, true, true, false, false]
    );
}

#[test]
fn a_senders_path_is_found_by_its_name_and_an_entrys_is_none() {
    for sender in Sender::ALL {
        for target in [Side::In, Side::Out] {
            assert_eq!(Sender::find(&sender.path(target)), Some((sender, target)));
        }
    }
    for name in ["syscall", "sender-nothing", "flip"] {
        assert_eq!(Sender::find(&name.parse().unwrap()), None, "{name}");
    }
}

#[test]
fn a_target_that_has_caught_up_must_be_told_of_what_is_changed_then() {
    let layout = layout(&[]);
    let whole = Cpu::new().syscall(0, false).passage(Arrival::Stood);
    let stand = PlannedPoint::first_instrumentable(&whole.steps, &layout).unwrap();
    let mut passage = whole.clone();
    passage.steps.drain(..stand.step);
    let context = JudgeContext {
        layout: &layout,
        paging: paging(),
        whole: &whole,
        outer: None,
    };
    let at = SenderPath::new((Sender::Flip, Side::In), &trace(), (&layout, &none))
        .path
        .points[0]
        .clone();
    let judged = |ipis, changes, done| {
        let sent = Sent {
            ipis,
            done_meanwhile: ipis == 0,
            done,
        };
        judge_sender(&context, (&at, changes), &stand, &passage, sent)
    };
    assert_eq!(judged(1, true, true), Outcome::Held);
    assert_eq!(judged(1, false, true), Outcome::Held);
    assert_eq!(judged(0, false, true), Outcome::Held);
    let violation = |invariant, at: &str, words: &str| Violation {
        invariant,
        at: at.to_owned(),
        words: words.to_owned(),
    };
    let early = violation(
        Invariant::SentOrDeferred,
        &at.address,
        "the sender changes text after this and sends no IPI to this CPU, which has already caught \
         up",
    );
    let stale = violation(
        Invariant::CaughtUp,
        "do_work",
        "runs before what may be stale was caught up with",
    );
    assert_eq!(judged(0, true, true), Outcome::Violated(vec![early, stale]));
    let waits = violation(
        Invariant::SentOrDeferred,
        &stand.address,
        "the sender still waits for this CPU, which is back in user space",
    );
    assert_eq!(judged(1, true, false), Outcome::Violated(vec![waits]));
}

#[test]
fn a_sender_that_waits_for_a_cpu_that_left_the_kernel_is_found_and_so_is_an_entry_that_does_not_catch_up()
 {
    let layout = layout(&[]);
    let whole = Cpu::new().syscall(0, false).passage(Arrival::Stood);
    let first = PlannedPoint::first(&whole.steps, &layout).unwrap();
    assert_eq!((first.step, first.rip), (0, ENTRY));
    let context = JudgeContext {
        layout: &layout,
        paging: paging(),
        whole: &whole,
        outer: None,
    };
    let at = SenderPath::new((Sender::Flip, Side::In), &trace(), (&layout, &none))
        .path
        .points[0]
        .clone();
    let judged = |passage: Option<&Passage>, done| {
        let sent = Sent {
            ipis: 0,
            done_meanwhile: done,
            done,
        };
        judge_exit(&context, &at, &first, passage, sent)
    };
    assert_eq!(judged(Some(&whole), true), Outcome::Held);
    assert!(matches!(judged(None, true), Outcome::Error(_)));
    let Outcome::Violated(waits) = judged(None, false) else {
        panic!("it waits");
    };
    assert_eq!(waits[0].invariant, Invariant::SentOrDeferred);
    assert_eq!(waits[0].at, at.address);
    // The page table is loaded before the flag is set.
    let mut early = Cpu::new();
    for code in [SWAPGS, KERNEL_TABLE, SET, TASK_STACK] {
        early.execute(code);
    }
    let early = early.call(true).syscall(6, true).passage(Arrival::Stood);
    let judged = judged(Some(&early), true);
    let Outcome::Violated(stale) = judged else {
        panic!("{judged:?}");
    };
    assert_eq!(stale[0].invariant, Invariant::CaughtUp);
}
