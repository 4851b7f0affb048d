//! The APIC's timer, while the guest spins without any exit and while it waits in HLT.
#![expect(unsafe_code, reason = "the guests' assembler text")]

use ipirig_machine::ApicMode;

use crate::Suite;
use crate::harness::{Guest, timer};
use crate::image::guest;

pub(crate) fn list(suite: &mut Suite) {
    suite.both(
        "a_one_shot_timer_fires_once_while_spinning",
        a_one_shot_timer_fires_once_while_spinning,
    );
    suite.both("a_one_shot_timer_ends_a_halt", a_one_shot_timer_ends_a_halt);
    suite.both(
        "a_periodic_timer_goes_on_while_spinning",
        a_periodic_timer_goes_on_while_spinning,
    );
    suite.both(
        "a_periodic_timer_goes_on_through_halts",
        a_periodic_timer_goes_on_through_halts,
    );
    suite.both(
        "until_a_guest_has_booted_ticks_in_hlt_are_as_far_apart_as_at_work",
        until_a_guest_has_booted_ticks_in_hlt_are_as_far_apart_as_at_work,
    );
}

// Order 0: wait in HLT instead of spinning.
guest!(
    ONE_SHOT,
    "
    call rt_setup
    call rt_apic_on
    mov edi, 0x60
    lea rax, [rip + rt_handler]
    call rt_gate
21: cmp dword ptr [r15 - 60 + 128], 0   # order 1: begin
    je 21b
    mov ecx, 0x3e                       # divide by 1: a tick is a nanosecond
    mov eax, 0x0b
    call rt_write
    mov ecx, 0x32                       # one-shot, vector 0x60
    mov eax, 0x60
    call rt_write
    mov ecx, 0x38
    mov eax, 2000000
    call rt_write
    sti
    cmp dword ptr [r15 - 60], 0
    jne 3f
2:  cmp qword ptr [r15], 0              # no exit here: only a kick can bring the interrupt
    je 2b
    jmp 4f
3:  hlt                                 # the only wake-up is the timer's
4:  mov ecx, 0x39                       # the current count
    call rt_read
    mov qword ptr [r15 + 128], rax
    call rt_ring
    mov ecx, 40000
5:  dec ecx                             # time for a second shot
    jnz 5b
6:  cmp dword ptr [r15 - 60 + 2 * 128], 0 # two rings at once would be one
    je 6b
    call rt_ring
    jmp rt_rest
    "
);

fn one_shot(apic: ApicMode, halting: bool) {
    let mut guest = Guest::new(&ONE_SHOT).apic(apic).start();
    if halting {
        guest.order(0, 1);
    }
    guest.order(1, 1);
    guest.rings();
    guest.order(2, 1);
    guest.rings();
    let seen = guest.stop();
    assert_eq!(
        seen.words[..2],
        [1, 0],
        "interrupts, and what is left of the count"
    );
    assert_eq!(seen.taken(0), [timer(0x60)]);
    assert!(seen.ipis.is_empty());
}

fn a_one_shot_timer_fires_once_while_spinning(apic: ApicMode) {
    one_shot(apic, false);
}

fn a_one_shot_timer_ends_a_halt(apic: ApicMode) {
    one_shot(apic, true);
}

guest!(
    PERIODIC,
    "
    call rt_setup
    call rt_apic_on
    mov edi, 0x61
    lea rax, [rip + rt_handler]
    call rt_gate
21: cmp dword ptr [r15 - 60 + 128], 0
    je 21b
    mov ecx, 0x3e
    mov eax, 0x0b
    call rt_write
    mov ecx, 0x32                       # periodic, vector 0x61
    mov eax, 0x20061
    call rt_write
    mov ecx, 0x38
    mov eax, 1000000
    call rt_write
    sti
    cmp dword ptr [r15 - 60], 0
    jne 3f
2:  cmp qword ptr [r15], 5
    jb 2b
    jmp 4f
3:  hlt
    cmp qword ptr [r15], 5
    jb 3b
4:  cli
    mov ecx, 0x38                       # an initial count of zero stops it
    xor eax, eax
    call rt_write
    sti
    mov ecx, 4000
6:  dec ecx                             # time for what was pending by then: an emulator looks for
    jnz 6b                              # interrupts between stretches of instructions
    cli
    mov rax, qword ptr [r15]
    mov qword ptr [r15 + 128], rax
    sti
    mov ecx, 20000
5:  dec ecx                             # 5 ms or so: nothing comes any more
    jnz 5b
    call rt_ring
    jmp rt_rest
    "
);

fn periodic(apic: ApicMode, halting: bool) {
    let mut guest = Guest::new(&PERIODIC).apic(apic).start();
    if halting {
        guest.order(0, 1);
    }
    guest.order(1, 1);
    guest.rings();
    let seen = guest.stop();
    let count = seen.words[0];
    assert!(count >= 5, "{count}");
    assert_eq!(seen.words[1], count, "one came after the stop");
    assert_eq!(seen.taken(0), vec![timer(0x61); count as usize]);
}

fn a_periodic_timer_goes_on_while_spinning(apic: ApicMode) {
    periodic(apic, false);
}

fn a_periodic_timer_goes_on_through_halts(apic: ApicMode) {
    periodic(apic, true);
}

/// The least and the most time between two of the first ticks of a guest.
fn gaps(guest: Guest, halting: bool, settled: bool) -> (u64, u64) {
    let mut guest = guest.start();
    if settled {
        guest.machine.settle().unwrap();
    }
    if halting {
        guest.order(0, 1);
    }
    guest.order(1, 1);
    guest.rings();
    let seen = guest.stop();
    let times: Vec<u64> = seen.accepted.iter().map(|event| event.time_ns).collect();
    let mut gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_unstable();
    (gaps[0], gaps[gaps.len() - 1])
}

/// Where nothing spaces ticks at work, nothing spaces them in HLT either, and the gaps are all alike.
fn until_a_guest_has_booted_ticks_in_hlt_are_as_far_apart_as_at_work(apic: ApicMode) {
    let guest = Guest::new(&PERIODIC).apic(apic);
    let (at_work, _) = gaps(guest, false, false);
    let (in_hlt, _) = gaps(guest, true, false);
    // An access to the APIC may let a tick through that is due, so not all of them wait.
    let (_, booting) = gaps(guest.boots(), true, false);
    let (booted, _) = gaps(guest.boots(), true, true);
    assert!(2 * booting > at_work, "{booting} ns and {at_work} ns");
    if at_work > 10 * in_hlt {
        assert!(2 * booted < at_work, "{booted} ns and {at_work} ns");
    }
}
