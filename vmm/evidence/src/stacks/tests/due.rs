//! What timer interrupts came for, by memory that somebody made up.

use std::cell::Cell;

use ipirig_apic::{Accepted, AcceptedKind, Origin};

use super::*;
use crate::blame::TimerFunction;

/// Memory with these words, and zeroes between.
#[derive(Debug)]
struct Words(BTreeMap<u64, u64>);

impl VirtualMemory for Words {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        for (at, byte) in (address..).zip(buffer) {
            let word = self.0.get(&(at & !7)).copied().unwrap_or(0);
            *byte = word.to_le_bytes()[(at & 7) as usize];
        }
        true
    }
}

#[test]
fn timer_interrupts_of_the_window_are_counted_by_what_was_due() {
    let (area, bases, offsets) = (0xffff_8880_0700_0000, 0x1f000, TEXT + 0x1_0000);
    let symbols = [
        (bases, u64::MAX, "hrtimer_bases"),
        (TEXT, TEXT + 0x400, "tick_nohz_handler"),
        (TEXT, TEXT + 0x800, "_stext"),
        (TEXT + 0x800, u64::MAX, "_etext"),
        (TEXT + 0x100, TEXT + 0x400, "some_timer_fn"),
        (TEXT + 0x300, TEXT + 0x400, "entry_SYSCALL_64"),
        (offsets, u64::MAX, "__per_cpu_offset"),
    ];
    let ledger = Ledger::new(3, 64);
    let code = Code::of(Symbols::from_functions(symbols), Frames::Pointers);
    ledger.stacks().of(code);
    ledger.stacks().begin(TEXT + 0x300);
    ledger.stacks().tell_timers_of([2].into_iter().collect());
    // Eight clocks of CPU 2, and one timer on the first of them.
    let memory = |function: u64| {
        let (clocks, timer) = (area + bases + 64, area + 0x8000);
        let mut words = BTreeMap::from([(offsets + 16, area)]);
        for index in 0..8 {
            words.insert(clocks + 64 * index, area + bases);
            words.insert(clocks + 64 * index + 8, index);
        }
        words.insert(clocks + 40, timer);
        words.extend([(timer + 40, function), (timer + 48, clocks)]);
        Words(words)
    };
    let take = |time_ns, cpl, origin, memory: &Words| {
        let accepted = Accepted {
            kind: AcceptedKind::Fixed(0xec),
            origin,
            merged: false,
        };
        let event = AcceptedEvent {
            time_ns,
            cpu: 2,
            accepted,
            cpl: Some(cpl),
            idle: false,
        };
        ledger.accepted_in(&event, memory);
    };
    let (tick, other) = (memory(TEXT), memory(TEXT + 0x100));
    let timer = Origin::Timer;
    take(1, 3, timer, &tick);
    ledger.open_window();
    take(2, 3, timer, &tick);
    take(3, 0, timer, &other);
    take(4, 0, timer, &tick);
    // An IPI, and a kernel whose timers are elsewhere.
    take(5, 3, Origin::Ipi, &tick);
    take(6, 3, timer, &Words(BTreeMap::new()));
    let one = |number, taken, cause: &str, by: Option<&str>, function: &str| TimerAttribution {
        cpu: 2,
        number,
        taken,
        timers: vec![TimerFunction {
            cause: cause.to_owned(),
            by: by.map(str::to_owned),
            function: function.to_owned(),
            work: None,
        }],
    };
    let taken = |user, kernel| Taken {
        user,
        kernel,
        idle: 0,
    };
    assert_eq!(
        ledger.timers(),
        [
            one(0, taken(1, 1), "tick", None, "tick_nohz_handler"),
            one(
                1,
                taken(0, 1),
                "timer",
                Some("some_timer_fn"),
                "some_timer_fn"
            ),
        ]
    );
}

/// Memory of zeroes that counts what is read of it.
#[derive(Debug, Default)]
struct Counted(Cell<usize>);

impl VirtualMemory for Counted {
    fn read(&self, _: u64, buffer: &mut [u8]) -> bool {
        buffer.fill(0);
        self.0.set(self.0.get() + buffer.len());
        true
    }
}

#[test]
fn memory_of_a_vcpu_of_whose_timers_nobody_asked_is_not_read() {
    let symbols = [
        (0x1f000, u64::MAX, "hrtimer_bases"),
        (TEXT + 0x300, TEXT + 0x400, "entry_SYSCALL_64"),
        (TEXT + 0x1_0000, u64::MAX, "__per_cpu_offset"),
    ];
    let read_of = |asked: Option<&[usize]>, cpu: usize| {
        let ledger = Ledger::new(3, 64);
        let code = Code::of(Symbols::from_functions(symbols), Frames::Pointers);
        ledger.stacks().of(code);
        ledger.stacks().begin(TEXT + 0x300);
        // As for a sender's stack, which is for every run: the modules are read once.
        let _ = ledger.stacks().number(0, &FixedSender::default());
        if let Some(cpus) = asked {
            ledger
                .stacks()
                .tell_timers_of(cpus.iter().copied().collect());
        }
        ledger.open_window();
        let memory = Counted::default();
        let accepted = Accepted {
            kind: AcceptedKind::Fixed(0xec),
            origin: Origin::Timer,
            merged: false,
        };
        let event = AcceptedEvent {
            time_ns: 1,
            cpu,
            accepted,
            cpl: Some(0),
            idle: false,
        };
        ledger.accepted_in(&event, &memory);
        memory.0.get()
    };
    let cpus = [0, 1, 2];
    assert_eq!(cpus.map(|cpu| read_of(None, cpu)), [0, 0, 0]);
    // The CPU's offset, and its clocks.
    let clocks = 8 + 64 * 12;
    assert_eq!(
        cpus.map(|cpu| read_of(Some(&[1, 2]), cpu)),
        [0, clocks, clocks]
    );
}

#[test]
fn more_sets_of_timers_than_are_kept_have_no_number() {
    let ledger = ledger(Frames::Pointers);
    let local = &mut *lock(&ledger.stacks().senders[1]);
    let many = u32::try_from(DUE).unwrap();
    assert_eq!(local.number_due(DueTimers::default()), Some(0));
    local.due.resize(DUE, DueTimers::default());
    assert_eq!(local.number_due(DueTimers::default()), Some(0));
    local.due_numbers.clear();
    assert_eq!(local.number_due(DueTimers::default()), None);
    local.due.pop();
    assert_eq!(local.number_due(DueTimers::default()), Some(many - 1));
}
