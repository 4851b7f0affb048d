//! Events that come at an instruction that was chosen, and what is executed from then on.
#![expect(unsafe_code, reason = "the guests' assembler text")]

use ipirig_entry::Record;
use ipirig_entry::passage::{
    Arrival, Blocked, Event, EventAt, Frame, OuterEvent, Passage, PassageEnd,
};
use ipirig_machine::{Beginning, Follow, Line, Placed, Raise};

use crate::Suite;
use crate::harness::{Guest, Running};
use crate::image::{address, guest};
use crate::recording::{counting, fetch, moves_on, offsets};

pub(crate) fn list(suite: &mut Suite) {
    suite.stepping(
        "what_nothing_masks_comes_at_each_instruction_of_an_entry",
        what_nothing_masks_comes_at_each_instruction_of_an_entry,
    );
    suite.stepping(
        "a_vcpu_stands_at_an_instruction_until_it_is_told_to_go_on",
        a_vcpu_stands_at_an_instruction_until_it_is_told_to_go_on,
    );
    suite.stepping(
        "what_an_event_sets_off_ends_at_an_exception_and_the_machine_is_rewound",
        what_an_event_sets_off_ends_at_an_exception_and_the_machine_is_rewound,
    );
    suite.stepping(
        "an_interrupt_is_blocked_where_interrupts_are_off",
        an_interrupt_is_blocked_where_interrupts_are_off,
    );
    suite.stepping(
        "an_event_comes_in_the_handler_of_an_nmi_that_came_before",
        an_event_comes_in_the_handler_of_an_nmi_that_came_before,
    );
    suite.stepping(
        "an_instruction_that_is_executed_twice_is_told_by_its_number",
        an_instruction_that_is_executed_twice_is_told_by_its_number,
    );
    suite.stepping(
        "executions_are_counted_from_the_first_instruction_on_if_there_is_one",
        executions_are_counted_from_the_first_instruction_on_if_there_is_one,
    );
    suite.stepping(
        "what_is_raised_with_a_rewind_comes_before_anything_is_executed",
        what_is_raised_with_a_rewind_comes_before_anything_is_executed,
    );
}

// Counts in CPL 3. At order 1 it makes a system call, which calls a function that counts in word 3, and
// then executes a loop twice. An NMI calls the function as well; at order 4 it touches what is not mapped.
guest!(
    PLACES,
    "
    call rt_setup
    lea rsi, [rip + PLACE_ENTRY]
    mov edi, 0x400000                   # where CPL 3 may not go
    mov ecx, 128
    rep movsb
    mov ebp, 1 << 1 | 1 << 2 | 1 << 18           # vectors 1, 2 and 18
20: bsf edi, ebp
    btr ebp, edi
    lea rax, [rip + PLACE_NMI]
    lea rcx, [rip + PLACE_ENTRY]
    sub rax, rcx
    add rax, 0x400000
    call rt_gate
    test ebp, ebp
    jnz 20b
    mov ecx, 0xc0000080                 # EFER.SCE
    rdmsr
    or eax, 1
    wrmsr
    mov ecx, 0xc0000081                 # STAR
    xor eax, eax
    mov edx, 0x00180010
    wrmsr
    inc ecx                             # LSTAR
    mov eax, 0x400000
    xor edx, edx
    wrmsr
    mov ecx, 0xc0000084                 # FMASK
    mov eax, 0x200
    wrmsr
    lea rax, [rip + 21f]
    jmp rt_user
21: inc qword ptr [r15]
    cmp dword ptr [r15 - 60 + 128], 0
    je 21b
    mov dword ptr [r15 - 60 + 128], 0
    syscall
    inc qword ptr [r15 + 2 * 128]
    jmp 21b
    .globl PLACE_ENTRY, PLACE_NMI, PLACE_FUNCTION, PLACE_FAULT
PLACE_ENTRY:
    nop                                 # 0
    call PLACE_FUNCTION                 # 1
    mov edx, 2                          # 6
22: dec edx                             # 11
    jnz 22b                             # 13
    sysretq                             # 15
PLACE_NMI:
    nop                                 # 0
    call PLACE_FUNCTION                 # 1
    cmp dword ptr [r15 - 60 + 4 * 128], 0
    je 23f
PLACE_FAULT:
    mov byte ptr [0x70000000], 1
23: iretq
PLACE_FUNCTION:
    nop
    inc qword ptr [r15 + 3 * 128]
    ret
    "
);

// SAFETY: labels of the guest above; their addresses are all that is used.
unsafe extern "C" {
    safe static PLACE_ENTRY: u8;
    safe static PLACE_NMI: u8;
    safe static PLACE_FUNCTION: u8;
    safe static PLACE_FAULT: u8;
}

/// Where a label is that was copied.
fn place_of(label: &u8) -> u64 {
    0x40_0000 + address(label) - address(&PLACE_ENTRY)
}

/// The guest, and the record of its system call.
fn recorded() -> (Running, Record) {
    let mut guest = counting(Guest::new(&PLACES));
    guest.machine.arm(0, 100, &[]).unwrap();
    guest.order(1, 1);
    let record = fetch(&mut guest);
    assert_eq!(record.ended, ipirig_entry::Ended::User);
    moves_on(&mut guest);
    (guest, record)
}

/// `event` at step `number` of `record`.
fn at(event: Event, record: &Record, number: usize) -> EventAt {
    let place = |number: usize| {
        let registers = &record.steps[number].registers;
        (registers.rip, registers.general[4])
    };
    let (rip, rsp) = place(number);
    let function = place_of(&PLACE_FUNCTION);
    let assembly = place_of(&PLACE_ENTRY)..function;
    let after = (number..record.steps.len()).map(place);
    let resume = after.clone().find(|(rip, _)| assembly.contains(rip));
    EventAt {
        event,
        rip,
        rsp,
        skip: (0..number)
            .filter(|&before| place(before) == (rip, rsp))
            .count(),
        resume: resume.filter(|_| !assembly.contains(&rip)),
        first: None,
        outer: None,
        assembly: std::iter::once(assembly).collect(),
        flag: None,
        limit: 100,
    }
}

fn passage(guest: &mut Running) -> Passage {
    guest.until("did not come back", |machine| {
        machine.placed(0) == Placed::Over
    });
    let passage = guest.machine.passage(0);
    guest.answered(passage).unwrap()
}

fn places(passage: &Passage) -> Vec<(u64, bool)> {
    let steps = passage.steps.iter();
    steps
        .map(|crossed| (crossed.step.registers.rip, crossed.free))
        .collect()
}

/// Where the system call continues from `number`, with what it calls run freely.
fn rest(record: &Record, number: usize) -> Vec<(u64, bool)> {
    let function = place_of(&PLACE_FUNCTION);
    let mut rest: Vec<(u64, bool)> = Vec::new();
    for step in &record.steps[number..] {
        let rip = step.registers.rip;
        let free = rip >= function;
        if !(free && rest.last().is_some_and(|&(_, free)| free)) {
            rest.push((rip, free));
        }
    }
    rest
}

fn what_nothing_masks_comes_at_each_instruction_of_an_entry() {
    for event in [Event::Nmi, Event::Debug, Event::MachineCheck] {
        comes_at_each_instruction_of_an_entry(event);
    }
}

fn comes_at_each_instruction_of_an_entry(event: Event) {
    let (mut guest, record) = recorded();
    let checkpoint = guest.machine.checkpoint().unwrap();
    let [calls, returns] = [3, 2].map(|word| guest.word(word));
    let handler = offsets(place_of(&PLACE_NMI), &[0, 1]);
    let function = place_of(&PLACE_FUNCTION);
    assert_eq!(record.steps.len(), 2 + 3 + 1 + 4 + 1);
    for (number, step) in record.steps.iter().enumerate() {
        guest.machine.place(0, at(event, &record, number)).unwrap();
        guest.order(1, 1);
        let passage = passage(&mut guest);
        let Arrival::Taken(frame) = passage.arrival else {
            panic!("{event:?} {number}: {:?}", passage.arrival);
        };
        let expected = Frame {
            rip: step.registers.rip,
            cs: 0x10,
            rsp: step.registers.general[4],
            ..frame
        };
        assert_eq!(frame, expected, "{event:?} {number}");
        assert_eq!((passage.ended, passage.frame), (PassageEnd::User, None));
        let places = places(&passage);
        let begin = [(handler[0], false), (handler[1], false), (function, true)];
        assert_eq!(places[..3], begin, "{event:?} {number}");
        assert_eq!(places[6..], rest(&record, number), "{event:?} {number}");
        moves_on(&mut guest);
        assert_eq!(
            [3, 2].map(|word| guest.word(word)),
            [calls + 2, returns + 1]
        );
        guest.machine.rewind(&checkpoint).unwrap();
    }
    assert_eq!(guest.stop().words[63], 0, "an exception");
}

fn a_vcpu_stands_at_an_instruction_until_it_is_told_to_go_on() {
    let (mut guest, record) = recorded();
    guest
        .machine
        .place(0, at(Event::Stand, &record, 5))
        .unwrap();
    assert_eq!(guest.machine.placed(0), Placed::Waiting);
    guest.order(1, 1);
    guest.until("does not stand", |machine| {
        machine.placed(0) == Placed::Stands
    });
    let stands = guest.machine.sample(0).unwrap();
    assert_eq!((stands.rip, stands.cpl), (place_of(&PLACE_ENTRY) + 6, 0));
    assert_eq!(guest.machine.passage(0).unwrap(), None);
    let counted = guest.word(0);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(guest.word(0), counted);
    guest.machine.go_on(0).unwrap();
    let passage = passage(&mut guest);
    assert_eq!(
        (passage.arrival, passage.ended),
        (Arrival::Stood, PassageEnd::User)
    );
    assert_eq!(places(&passage), rest(&record, 5));
    moves_on(&mut guest);
    assert_eq!(guest.stop().words[63], 0, "an exception");
}

fn what_an_event_sets_off_ends_at_an_exception_and_the_machine_is_rewound() {
    let (mut guest, record) = recorded();
    let checkpoint = guest.machine.checkpoint().unwrap();
    guest.order(4, 1);
    guest.machine.place(0, at(Event::Nmi, &record, 0)).unwrap();
    guest.order(1, 1);
    let seen = passage(&mut guest);
    let expected = PassageEnd::Exception {
        vector: 14,
        rip: place_of(&PLACE_FAULT),
        cr2: 0x7000_0000,
    };
    assert_eq!(seen.ended, expected);
    // It stands there, and has not reset the machine.
    assert_eq!(guest.machine.sample(0).unwrap().cpl, 0);
    guest.machine.rewind(&checkpoint).unwrap();
    moves_on(&mut guest);
    guest.machine.place(0, at(Event::Nmi, &record, 0)).unwrap();
    guest.order(1, 1);
    assert_eq!(passage(&mut guest).ended, PassageEnd::User);
    moves_on(&mut guest);
    assert_eq!(guest.stop().words[63], 0, "an exception");
}

fn an_interrupt_is_blocked_where_interrupts_are_off() {
    let (mut guest, record) = recorded();
    let event = at(Event::Interrupt(0x40), &record, 0);
    guest.machine.place(0, event).unwrap();
    guest.order(1, 1);
    let passage = passage(&mut guest);
    assert_eq!(passage.arrival, Arrival::Blocked(Blocked::InterruptsOff));
    assert_eq!(
        (passage.ended, passage.steps),
        (PassageEnd::NoEvent, vec![])
    );
    moves_on(&mut guest);
    assert_eq!(guest.stop().words[63], 0, "an exception");
}

/// What comes of `event` at the instruction `offset` of the handler of an NMI that comes at step `number`, where
/// RSP is `below` that at the handler's first instruction.
fn in_handler(
    guest: &mut Running,
    record: &Record,
    number: usize,
    event: Event,
    offset: u64,
) -> Passage {
    let inner = at(event, record, number);
    let outer = OuterEvent {
        event: Event::Nmi,
        rip: inner.rip,
        rsp: inner.rsp,
        skip: inner.skip,
    };
    // In 64-bit mode RSP is aligned to 16 bytes before the frame of 40 is pushed (SDM vol. 3, 6.14.2).
    let rsp = (inner.rsp & !0xf) - 40;
    let event = EventAt {
        rip: place_of(&PLACE_NMI) + offset,
        rsp,
        skip: 0,
        outer: Some(outer),
        resume: None,
        ..inner
    };
    guest.machine.place(0, event).unwrap();
    guest.order(1, 1);
    passage(guest)
}

fn an_event_comes_in_the_handler_of_an_nmi_that_came_before() {
    let (mut guest, record) = recorded();
    let checkpoint = guest.machine.checkpoint().unwrap();
    let calls = guest.word(3);
    // Its first instruction, and the one that its function returns to.
    for offset in [0, 6] {
        for number in 0..record.steps.len() {
            let seen = in_handler(&mut guest, &record, number, Event::NestedNmi, offset);
            let registers = &record.steps[number].registers;
            let outer = seen.outer.unwrap();
            assert_eq!(
                (outer.rip, outer.rsp),
                (registers.rip, registers.general[4])
            );
            let Arrival::Taken(frame) = seen.arrival else {
                panic!("{number}: {:?}", seen.arrival);
            };
            assert_eq!(frame.rip, place_of(&PLACE_NMI) + offset, "{number}");
            assert_eq!(seen.ended, PassageEnd::User);
            moves_on(&mut guest);
            assert_eq!(guest.word(3), calls + 3);
            guest.machine.rewind(&checkpoint).unwrap();
            // Nothing has unmasked NMIs.
            let seen = in_handler(&mut guest, &record, number, Event::Nmi, offset);
            assert_eq!(seen.arrival, Arrival::Blocked(Blocked::NmiMasked));
            guest.machine.rewind(&checkpoint).unwrap();
        }
    }
    assert_eq!(guest.stop().words[63], 0, "an exception");
}

fn executions_are_counted_from_the_first_instruction_on_if_there_is_one() {
    let (mut guest, record) = recorded();
    let checkpoint = guest.machine.checkpoint().unwrap();
    let dec = place_of(&PLACE_ENTRY) + 11;
    let place = |number: usize| {
        let registers = &record.steps[number].registers;
        (registers.rip, registers.general[4])
    };
    let number = (0..).find(|&number| place(number).0 == dec).unwrap();
    // RDX at the event: from the entry on, from the loop's first instruction on, and from the one after it on.
    let left = [0, number, number + 1].map(|first| {
        let event = EventAt {
            first: Some(place(first)),
            ..at(Event::Nmi, &record, number)
        };
        guest.machine.place(0, event).unwrap();
        guest.order(1, 1);
        let passage = passage(&mut guest);
        guest.machine.rewind(&checkpoint).unwrap();
        passage.steps[0].step.registers.general[2]
    });
    assert_eq!(left, [2, 2, 1]);
}

fn an_instruction_that_is_executed_twice_is_told_by_its_number() {
    let (mut guest, record) = recorded();
    let checkpoint = guest.machine.checkpoint().unwrap();
    let dec = place_of(&PLACE_ENTRY) + 11;
    let steps = record.steps.iter().enumerate();
    let twice: Vec<usize> = steps
        .filter(|(_, step)| step.registers.rip == dec)
        .map(|(number, _)| number)
        .collect();
    let left = twice.iter().map(|&number| {
        guest
            .machine
            .place(0, at(Event::Nmi, &record, number))
            .unwrap();
        guest.order(1, 1);
        let passage = passage(&mut guest);
        guest.machine.rewind(&checkpoint).unwrap();
        passage.steps[0].step.registers.general[2]
    });
    assert_eq!(left.collect::<Vec<_>>(), [2, 1]);
}

fn what_is_raised_with_a_rewind_comes_before_anything_is_executed() {
    let mut guest = counting(Guest::new(&PLACES));
    guest.machine.arm(0, 1, &[]).unwrap();
    assert!(guest.machine.raise(0, Line::Nmi).unwrap());
    let record = fetch(&mut guest);
    moves_on(&mut guest);
    let checkpoint = guest.machine.checkpoint().unwrap();
    guest.machine.rewind(&checkpoint).unwrap();
    let mut counts = Vec::new();
    for order in 1..=5 {
        let beginning = Beginning {
            cpu: 0,
            follow: Follow::Event(at(Event::Stand, &record, 0)),
            raise: Some(Raise::Line(Line::Nmi)),
        };
        let told = |mailbox: &ipirig_abi::Mailbox| {
            let slot = &mailbox.cpus[5];
            slot.order_seq
                .store(order, std::sync::atomic::Ordering::SeqCst);
        };
        let raised = guest.machine.rewind_and(&checkpoint, beginning, told);
        assert!(raised.unwrap());
        guest.until("does not stand", |machine| {
            machine.placed(0) == Placed::Stands
        });
        counts.push(guest.word(0));
        let orders = &guest.machine.mailbox().cpus[5].order_seq;
        assert_eq!(orders.load(std::sync::atomic::Ordering::SeqCst), order);
    }
    assert_eq!(counts, [counts[0]; 5]);
    // An IPI that the guest has no handler for but the one that resets: not taken, as there is no APIC.
    let beginning = Beginning {
        cpu: 0,
        follow: Follow::Nothing,
        raise: Some(Raise::Ipi(0x40)),
    };
    let raised = guest.machine.rewind_and(&checkpoint, beginning, |_| {});
    assert!(!raised.unwrap());
    moves_on(&mut guest);
    assert_eq!(guest.stop().words[63], 0, "an exception");
}
