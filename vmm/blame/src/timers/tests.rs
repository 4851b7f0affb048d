//! Timers by hand, in each layout that kernels have, and memory that is none.

use proptest::prelude::*;

use super::*;
use crate::Frames;
use crate::testing::{TEXT, Words};

const CPU: usize = 2;
/// Per-CPU variables as before 6.15: offsets, and what is added to them on [`CPU`].
const AREA: u64 = 0xffff_8880_0700_0000;
const BASES: u64 = 0x1f080;
const WHEEL: u64 = 0x10000;
const OFFSETS: u64 = TEXT + 0x10_0000;
const JIFFIES: u64 = TEXT + 0x10_0100;
const NOW: u64 = 4_294_900_000;
/// The first clock, after what is before it.
const CLOCKS_AT: u64 = AREA + BASES + 128;
/// Where timers are.
const HEAP: u64 = 0xffff_8880_0200_0000;

const FUNCTIONS: [&str; 5] = [
    "tick_nohz_handler",
    "hrtimer_wakeup",
    "mce_timer_fn",
    "delayed_work_timer_fn.llvm.7",
    "vmstat_update",
];
const TICKS: u64 = TEXT;
const SLEEP: u64 = TEXT + 0x100;
const MCE: u64 = TEXT + 0x200;
const DELAYED: u64 = TEXT + 0x300;
const VMSTAT: u64 = TEXT + 0x400;

fn kernel() -> Kernel {
    let functions = (TEXT..).step_by(0x100).zip(FUNCTIONS);
    let functions = functions.map(|(at, name)| (at, TEXT + 0x1000, name));
    let data = [
        (WHEEL, u64::MAX, "timer_bases"),
        (WHEEL + 0x3000, u64::MAX, "what_comes_next"),
        (TEXT, TEXT + 0x2000, "_stext"),
        (TEXT + 0x1000, TEXT + 0x2000, "_etext"),
        (TEXT + 0x20_0000, u64::MAX, "_end"),
        (BASES, u64::MAX, "hrtimer_bases"),
        (OFFSETS, u64::MAX, "__per_cpu_offset"),
        (JIFFIES, u64::MAX, "jiffies"),
    ];
    let symbols = Symbols::from_functions(functions.chain(data));
    Kernel::new(symbols, Frames::Pointers, 0, Vec::new())
}

/// How kernels lay out clocks and their timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// Up to 6.17.
    Old,
    /// Without the function that reads the clock.
    Short,
    /// Since 7.1.
    Linked,
}

const LAYOUTS: [Layout; 3] = [Layout::Old, Layout::Short, Layout::Linked];

/// A CPU without timers whose jiffies are [`NOW`].
fn quiet(layout: Layout) -> Words {
    let mut memory = Words::default();
    memory.set(OFFSETS + 8 * CPU as u64, &[AREA]);
    memory.set(JIFFIES, &[NOW]);
    memory.set(AREA + BASES, &[0; CLOCK / 8 * (LINES_BEFORE + CLOCKS)]);
    memory.set(AREA + WHEEL, &[0; WHEELS / 8]);
    for index in 0..CLOCKS as u64 {
        let clock = CLOCKS_AT + index * CLOCK as u64;
        memory.set(clock, &[AREA + BASES, index | 1 << 32]);
        if layout == Layout::Old {
            memory.set(clock + 48, &[TEXT + 0x800]);
        }
    }
    memory
}

/// Puts a timer first in the tree of clock `index`, whose offset to the monotonic clock is `offset`.
fn first(memory: &mut Words, layout: Layout, index: u64, (due, offset): (u64, u64), function: u64) {
    let clock = CLOCKS_AT + index * CLOCK as u64;
    let timer = HEAP + index * 0x100;
    let root = HEAP + 0x1000;
    memory.set(timer, &[0; TIMER / 8]);
    // The root of a tree is a timer of the same clock, due later.
    memory.set(root, &[0; TIMER / 8]);
    memory.set(root + 48, &[clock]);
    memory.set(timer + 48, &[clock]);
    match layout {
        Layout::Old | Layout::Short => {
            let last = if layout == Layout::Old { 56 } else { 48 };
            memory.set(clock + last, &[offset]);
            memory.set(clock + 32, &[root, timer]);
            memory.set(timer + 24, &[due, 0, function]);
        }
        Layout::Linked => {
            memory.set(clock + 40, &[root, timer, offset]);
            memory.set(timer + 40, &[due]);
            memory.set(timer + 72, &[function]);
        }
    }
}

/// Puts a timer into `place` of the wheel, before the ones that are there.
fn wheel(memory: &mut Words, place: u64, (due, flags): (u64, u64), function: u64) -> u64 {
    let head = AREA + WHEEL + 112 + 8 * place;
    let next = memory.0.get(&head).copied().unwrap_or(0);
    let timer = HEAP + 0x2000 + 0x100 * memory.0.len() as u64;
    memory.set(timer, &[next, head, due, function, place << 22 | flags]);
    memory.set(head, &[timer]);
    if next != 0 {
        memory.set(next + 8, &[timer]);
    }
    timer
}

fn due(memory: &Words) -> Option<Vec<(u64, Option<u64>)>> {
    let due = kernel().due_timers(CPU, memory)?;
    Some(due.iter().map(|it| (it.function, it.work)).collect())
}

#[test]
fn the_soonest_timer_of_all_clocks_is_told_in_each_kernel_s_layout() {
    for layout in LAYOUTS {
        let mut memory = quiet(layout);
        assert_eq!(due(&memory), Some(vec![]), "{layout:?}");
        first(&mut memory, layout, 0, (5000, 0), TICKS);
        // By its own clock it is later.
        first(
            &mut memory,
            layout,
            1,
            (1_000_004_000, 1_000_000_000),
            SLEEP,
        );
        assert_eq!(due(&memory), Some(vec![(SLEEP, None)]), "{layout:?}");
        first(&mut memory, layout, 6, (4000, 0), MCE);
        let both = Some(vec![(SLEEP, None), (MCE, None)]);
        assert_eq!(due(&memory), both, "{layout:?}");
    }
}

#[test]
fn a_tick_is_told_by_the_timers_of_the_wheel_that_are_due() {
    let mut memory = quiet(Layout::Old);
    first(&mut memory, Layout::Old, 0, (5000, 0), TICKS);
    // Later; one that may wait; and on a coarser level one that is due when the level's turn comes.
    wheel(&mut memory, 7, (NOW + 1, 0), MCE);
    wheel(&mut memory, 8, (NOW - 9, DEFERRABLE), MCE);
    wheel(&mut memory, 64 + 3, (NOW - NOW % 8 + 3, 0), MCE);
    assert_eq!(due(&memory), Some(vec![(TICKS, None)]));
    let delayed = wheel(&mut memory, 7, (NOW - 1, 0), DELAYED);
    memory.set(delayed - 8, &[VMSTAT]);
    wheel(&mut memory, 7, (NOW, 0), SLEEP);
    wheel(&mut memory, 64 + 4, (NOW - NOW % 8 - 1, 0), SLEEP);
    let expected = vec![(SLEEP, None), (DELAYED, Some(VMSTAT))];
    assert_eq!(due(&memory), Some(expected.clone()));
    // The timer that runs is in no list any more: nothing in it points back at the wheel's pointer to it.
    memory.set(HEAP + 0x8000, &[0, 0, NOW, MCE, 7 << 22]);
    memory.set(AREA + WHEEL + 8, &[HEAP + 0x8000]);
    assert_eq!(due(&memory), Some(expected));
    // Another timer is sooner than the tick: the wheel has no part in it.
    first(&mut memory, Layout::Old, 4, (4999, 0), MCE);
    assert_eq!(due(&memory), Some(vec![(MCE, None)]));
}

#[test]
fn what_is_no_function_and_what_lies_behind_the_wheels_is_no_timer() {
    let mut memory = quiet(Layout::Old);
    first(&mut memory, Layout::Old, 0, (5000, 0), TICKS);
    // A list in another variable, and one whose word in the function's place is data.
    let behind = AREA + WHEEL + 0x3008;
    memory.set(behind, &[HEAP + 0x8000]);
    memory.set(HEAP + 0x8000, &[0, behind, NOW, SLEEP, 7 << 22]);
    wheel(&mut memory, 7, (NOW, 0), TEXT + 0x1800);
    wheel(&mut memory, 7, (NOW, 0), HEAP);
    assert_eq!(due(&memory), Some(vec![(TICKS, None)]));
    // A module's has no name here, and is a function all the same.
    let module = 0xffff_ffff_c012_3450;
    wheel(&mut memory, 7, (NOW, 0), module);
    assert_eq!(due(&memory), Some(vec![(module, None)]));
    first(&mut memory, Layout::Old, 1, (4000, 0), HEAP);
    assert_eq!(due(&memory), Some(vec![]));
}

#[test]
fn more_timers_than_are_told_are_left_out() {
    let mut memory = quiet(Layout::Linked);
    first(&mut memory, Layout::Linked, 0, (5000, 0), TICKS);
    for index in 0..9 {
        wheel(&mut memory, 7, (NOW, 0), TEXT + 0x500 + index);
    }
    assert_eq!(due(&memory).map(|due| due.len()), Some(MAX_TIMERS));
}

#[test]
fn where_pointers_do_not_lead_back_nothing_is_said() {
    let mut memory = quiet(Layout::Old);
    first(&mut memory, Layout::Old, 0, (5000, 0), TICKS);
    let sound = memory.clone();
    // The timer's pointer to its clock.
    memory.set(HEAP + 48, &[CLOCKS_AT + 8]);
    assert_eq!(due(&memory), Some(vec![]));
    // A clock's pointer to its CPU's clocks, and its number.
    for (word, value) in [(CLOCKS_AT + 128, AREA), (CLOCKS_AT + 136, 3)] {
        memory = sound.clone();
        memory.set(word, &[value]);
        assert_eq!(due(&memory), None);
    }
    assert_eq!(due(&Words::default()), None);
    // The head of a list of something else, behind the wheels: what would be the function is no text.
    memory = sound.clone();
    wheel(&mut memory, 300, (NOW, 0), HEAP + 0x10);
    assert_eq!(due(&memory), Some(vec![(TICKS, None)]));
    // A list that ends in itself.
    memory = sound;
    let timer = wheel(&mut memory, 7, (NOW, 0), SLEEP);
    memory.set(timer, &[timer, AREA + WHEEL + 112 + 56]);
    assert_eq!(due(&memory), Some(vec![(SLEEP, None)]));
}

/// Memory that has something everywhere, of which much leads back.
#[derive(Debug)]
struct Anything(u64);

impl Memory for Anything {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        for (at, byte) in (address..).zip(buffer) {
            let word = at & !7;
            let mixed = (word ^ self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let value = match mixed % 4 {
                0 => word | KERNEL_HALF,
                1 => word.wrapping_sub(8) | KERNEL_HALF,
                2 => AREA + BASES,
                _ => mixed,
            };
            *byte = value.to_le_bytes()[(at & 7) as usize];
        }
        true
    }
}

proptest! {
    #[test]
    fn whatever_a_guest_makes_of_its_timers_few_are_told(seed in any::<u64>()) {
        let kernel = kernel();
        if let Some(due) = kernel.due_timers(CPU, &Anything(seed)) {
            prop_assert!(due.iter().count() <= MAX_TIMERS);
        }
        let wheel = kernel.due_in_wheel(CPU, &Anything(seed));
        prop_assert!(wheel.is_none_or(|due| due.len() <= WHEEL_TIMERS));
    }
}
