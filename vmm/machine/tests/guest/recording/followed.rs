//! Interrupts that are followed from wherever they came, and functions that are watched.

use ipirig_entry::{Began, Ended, Record};
use ipirig_machine::{Line, MachineError};

use super::{ENTRIES, HANDLER, IN_KERNEL, WATCHED, counting, fetch, moves_on, offsets, path};
use crate::Suite;
use crate::harness::{Guest, Running};
use crate::image::{address, guest};

pub(super) fn list(suite: &mut Suite) {
    suite.stepping(
        "each_interrupt_that_is_followed_is_recorded_wherever_it_came",
        each_interrupt_that_is_followed_is_recorded_wherever_it_came,
    );
    suite.stepping(
        "a_watched_function_is_reported_at_each_call",
        a_watched_function_is_reported_at_each_call,
    );
    suite.stepping("a_fifth_address_is_refused", a_fifth_address_is_refused);
    suite.stepping(
        "an_interrupt_without_a_register_left_is_told_by_name",
        an_interrupt_without_a_register_left_is_told_by_name,
    );
}

/// The next record of an interrupt that is followed.
fn followed(guest: &mut Running) -> Record {
    let found = std::cell::RefCell::new(Ok(vec![]));
    guest.until("was not followed", |machine| {
        let answer = machine.followed(0).map(Option::unwrap_or_default);
        let done = !matches!(&answer, Ok(records) if records.is_empty());
        if done {
            *found.borrow_mut() = answer;
        }
        done
    });
    let mut found = guest.answered(found.into_inner());
    assert_eq!(found.len(), 1);
    found.remove(0)
}

fn each_interrupt_that_is_followed_is_recorded_wherever_it_came() {
    for (program, ended) in [(&IN_KERNEL, Ended::Interrupted), (&ENTRIES, Ended::User)] {
        let mut guest = counting(Guest::new(program));
        guest.machine.follow(0, 100, &[2]).unwrap();
        for _ in 0..3 {
            guest.machine.raise(0, Line::Nmi).unwrap();
            let record = followed(&mut guest);
            assert_eq!((record.began, record.ended), (Began::Vector(2), ended));
            assert_eq!(path(&record), offsets(address(&HANDLER), &[0, 1, 3, 4]));
            assert_eq!(record.check(Began::Vector(2)), Ok(()));
        }
        guest.machine.follow(0, 100, &[]).unwrap();
        guest.machine.raise(0, Line::Nmi).unwrap();
        moves_on(&mut guest);
        assert_eq!(guest.machine.followed(0).unwrap(), Some(vec![]));
        assert_eq!(guest.stop().words[63], 0, "an exception");
    }
}

guest!(
    CALLS,
    "
    call rt_setup
    xor edi, edi
21: cmp dword ptr [r15 - 60], 0
    je 21b
22: inc edi
    lea esi, [edi + 100]
    call WATCHED
    cmp edi, 5
    jne 22b
    call rt_ring
    jmp rt_rest
    .globl WATCHED
WATCHED:
    inc qword ptr [r15]
    ret
    "
);

fn a_watched_function_is_reported_at_each_call() {
    let mut guest = Guest::new(&CALLS).start();
    guest.machine.watch(0, &[address(&WATCHED)]).unwrap();
    guest.order(0, 1);
    guest.rings();
    let seen = guest.stop();
    let calls: Vec<_> = seen
        .watched
        .iter()
        .map(|event| {
            (
                event.cpu,
                event.address,
                event.arguments[0],
                event.arguments[1],
            )
        })
        .collect();
    let expected: Vec<_> = (1..=5)
        .map(|n| (0, address(&WATCHED), n, n + 100))
        .collect();
    assert_eq!(calls, expected);
    assert_eq!(seen.words[0], 5, "each call went on");
}

fn a_fifth_address_is_refused() {
    let guest = Guest::new(&CALLS).start();
    let refused = guest.machine.watch(0, &[1, 2, 3, 4, 5]);
    assert!(
        matches!(refused, Err(MachineError::TooManyStops(0))),
        "{refused:?}"
    );
    assert!(matches!(
        guest.machine.watch(7, &[1]),
        Err(MachineError::NoAnswer(7))
    ));
    guest.stop();
}

fn an_interrupt_without_a_register_left_is_told_by_name() {
    let mut guest = counting(Guest::new(&ENTRIES));
    // As many as fit: a host's workaround may need a register, too.
    let ways = [3, 6, 13].map(Began::Vector);
    let armed = (1..=ways.len())
        .rev()
        .find(|&count| guest.machine.arm(0, 100, &ways[..count]).is_ok());
    assert!(armed.is_some());
    assert!(guest.machine.raise(0, Line::Timer).unwrap());
    let record = fetch(&mut guest);
    assert_eq!(
        (record.began, record.ended, record.steps.len()),
        (Began::Vector(0x40), Ended::NoBreakpoint, 0)
    );
    moves_on(&mut guest);
    assert_eq!(guest.stop().words[63], 0, "an exception");
}
