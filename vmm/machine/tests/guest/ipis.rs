//! IPIs between vCPUs that run, wait in HLT, or keep interrupts off.
#![expect(unsafe_code, reason = "the guests' assembler text")]

use ipirig_apic::{Accepted, AcceptedKind, CpuSet, DeliveryMode, Ipi, Origin, Sent, Shorthand};
use ipirig_machine::ApicMode;

use crate::Suite;
use crate::harness::{Guest, GuestRecord, ipi};
use crate::image::{guest, icr_write};

pub(crate) fn list(suite: &mut Suite) {
    suite.both("a_self_ipi_is_taken_once_and_seen_once", a_self_ipi);
    suite.x2apic("the_self_ipi_register_sends_one_ipi", the_self_ipi_register);
    suite.both("an_ipi_wakes_a_halted_ap", an_ipi_wakes_a_halted_ap);
    suite.both(
        "all_but_self_is_one_write_and_a_send_to_each",
        all_but_self_is_one_write_and_a_send_to_each,
    );
    suite.both(
        "an_nmi_gets_through_with_interrupts_off",
        an_nmi_gets_through_with_interrupts_off,
    );
    suite.both(
        "an_ipi_to_nobody_is_undeliverable",
        an_ipi_to_nobody_is_undeliverable,
    );
    suite.both(
        "no_ipi_of_500_is_lost_between_spinning_cpus",
        no_ipi_of_500_is_lost_between_spinning_cpus,
    );
    suite.both(
        "no_ipi_of_2000_is_lost_between_halting_cpus",
        no_ipi_of_2000_is_lost_between_halting_cpus,
    );
    suite.both(
        "two_sends_before_delivery_are_one_interrupt_after_sti",
        two_sends_before_delivery_are_one_interrupt_after_sti,
    );
}

guest!(
    SELF_IPI,
    "
    call rt_setup
    call rt_apic_on
    mov edi, 0x40
    lea rax, [rip + rt_handler]
    call rt_gate
    sti
    mov eax, 0x44040                    # vector 0x40, shorthand: self
    xor edx, edx
    call rt_ipi
21: cmp qword ptr [r15], 0
    je 21b
    call rt_ring
    jmp rt_rest
    "
);

fn a_self_ipi(apic: ApicMode) {
    let mut guest = Guest::new(&SELF_IPI).apic(apic).start();
    guest.rings();
    let seen = guest.stop();
    assert_eq!(seen.words[0], 1);
    let [event] = &seen.ipis[..] else {
        panic!("{:?}", seen.ipis);
    };
    assert_eq!(
        event.sent,
        Sent {
            ipi: Ipi {
                vector: 0x40,
                mode: DeliveryMode::Fixed,
                shorthand: Shorthand::Itself,
                source: 0,
                targets: [0].into_iter().collect(),
                undeliverable: false,
            },
            coalesced: CpuSet::EMPTY,
            wake: CpuSet::EMPTY,
        }
    );
    assert_eq!(event.rip, icr_write(apic == ApicMode::X2apic));
    let [event] = &seen.accepted[..] else {
        panic!("{:?}", seen.accepted);
    };
    let expected = Accepted {
        kind: AcceptedKind::Fixed(0x40),
        origin: Origin::Ipi,
        merged: false,
    };
    assert_eq!(
        (event.cpu, event.accepted, event.cpl),
        (0, expected, Some(0))
    );
    assert_eq!(seen.taken(0), [ipi(0x40)]);
    assert_eq!(seen.report.vcpus[0].counters.injected, 1);
}

guest!(
    SELF_IPI_REGISTER,
    "
    call rt_setup
    call rt_apic_on
    mov edi, 0x40
    lea rax, [rip + rt_handler]
    call rt_gate
    sti
    mov ecx, 0x3f                       # the self-IPI register takes a bare vector
    mov eax, 0x40
    call rt_write
21: cmp qword ptr [r15], 0
    je 21b
    call rt_ring
    jmp rt_rest
    "
);

fn the_self_ipi_register() {
    let mut guest = Guest::new(&SELF_IPI_REGISTER).start();
    guest.rings();
    let seen = guest.stop();
    assert_eq!(seen.sent(0), [(DeliveryMode::Fixed, 0x40, vec![0])]);
    assert_eq!(seen.taken(0), [ipi(0x40)]);
}

guest!(
    WAKE_FROM_HLT,
    "
    call rt_setup
    call rt_apic_on
    mov edi, 0x41
    lea rax, [rip + rt_handler]
    call rt_gate
    mov r8d, 1
    lea rax, [rip + 2f]
    call rt_start_ap
21: cmp dword ptr [r15 - 60], 0         # the host has seen the AP in HLT
    je 21b
    mov eax, 0x4041
    mov edx, 1
    call rt_ipi
    jmp rt_rest
2:  sti
3:  hlt
    # One turn an interrupt: rings from the AP, past its HLT.
    call rt_ring
    jmp 3b
    "
);

fn an_ipi_wakes_a_halted_ap(apic: ApicMode) {
    let mut guest = Guest::new(&WAKE_FROM_HLT).cpus(2).apic(apic).start();
    guest.until("never put its AP to HLT", |machine| {
        machine
            .sample(1)
            .is_some_and(|s| s.parked && s.rflags & 0x200 != 0)
    });
    guest.order(0, 1);
    guest.rings();
    guest.until("did not go back to HLT", |machine| {
        machine.sample(1).is_some_and(|s| s.parked)
    });
    let seen = guest.stop();
    assert_eq!(seen.words[0], 1);
    assert_eq!(seen.report.vcpus[1].counters.halts, 2);
    assert_eq!(seen.taken(1).last(), Some(&ipi(0x41)));
    let last = seen.ipis.last().unwrap();
    assert_eq!(last.sent.wake.iter().collect::<Vec<_>>(), [1]);
}

guest!(
    ALL_BUT_SELF,
    "
    call rt_setup
    call rt_apic_on
    mov edi, 0x42
    lea rax, [rip + 5f]
    call rt_gate
    mov r8d, 1
21: mov r12d, r8d
    lea rax, [rip + 3f]
    call rt_start_ap
2:  cmp qword ptr [r15], r12            # one AP after the other: they share the entry's page
    jne 2b
    inc r8d
    cmp r8d, 4
    jne 21b
    sti
    mov qword ptr [r15 + 128], 1        # all are up
    jmp 4f
3:  sti
    inc qword ptr [r15]
    cmp r13d, 2
    jne 4f
6:  cmp qword ptr [r15 + 128], 1
    jne 6b
    mov eax, 0xc4042                    # vector 0x42, shorthand: all but self
    xor edx, edx
    call rt_ipi
4:  hlt
    jmp 4b
5:  # The handler: counts by CPU, from word 4 on. The last of the three rings.
    push rax
    push rcx
    push rdx
    mov eax, r13d
    shl eax, 7
    inc qword ptr [r15 + rax + 4 * 128]
    call rt_eoi
    mov eax, 1
    lock xadd qword ptr [r15 + 2 * 128], rax
    cmp eax, 2
    jne 7f
    call rt_ring
7:  pop rdx
    pop rcx
    pop rax
    iretq
    "
);

fn all_but_self_is_one_write_and_a_send_to_each(apic: ApicMode) {
    let mut guest = Guest::new(&ALL_BUT_SELF).cpus(4).apic(apic).start();
    guest.rings();
    let seen = guest.stop();
    assert_eq!(seen.words[4..8], [1, 1, 0, 1]);
    let [event] = &seen
        .ipis
        .iter()
        .filter(|e| e.sent.ipi.source == 2)
        .collect::<Vec<_>>()[..]
    else {
        panic!("{:?}", seen.ipis);
    };
    assert_eq!(
        event.sent.ipi,
        Ipi {
            vector: 0x42,
            mode: DeliveryMode::Fixed,
            shorthand: Shorthand::AllExcludingSelf,
            source: 2,
            targets: [0, 1, 3].into_iter().collect(),
            undeliverable: false,
        }
    );
    assert_eq!(seen.taken(0), [ipi(0x42)]);
    let fixed = |cpu| {
        seen.taken(cpu)
            .iter()
            .filter(|&&taken| taken == ipi(0x42))
            .count()
    };
    assert_eq!([fixed(1), fixed(2), fixed(3)], [1, 0, 1]);
}

guest!(
    NMI,
    "
    call rt_setup
    call rt_apic_on
    mov edi, 2
    lea rax, [rip + 4f]
    call rt_gate
    mov r8d, 1
    lea rax, [rip + 2f]
    call rt_start_ap
21: cmp qword ptr [r15 + 128], 1
    jne 21b
    mov eax, 0x4400                     # delivery mode 4: NMI
    mov edx, 1
    call rt_ipi
    jmp rt_rest
2:  # Interrupts stay off on the AP.
    mov qword ptr [r15 + 128], 1
3:  cmp qword ptr [r15], 0
    je 3b
    call rt_ring
    jmp rt_rest
4:  inc qword ptr [r15]
    iretq
    "
);

fn an_nmi_gets_through_with_interrupts_off(apic: ApicMode) {
    let mut guest = Guest::new(&NMI).cpus(2).apic(apic).start();
    guest.rings();
    let seen = guest.stop();
    assert_eq!(seen.words[0], 1);
    assert_eq!(seen.sent(0).last(), Some(&(DeliveryMode::Nmi, 0, vec![1])));
    let last = seen.accepted.last().unwrap();
    assert_eq!((last.cpu, last.cpl), (1, Some(0)));
    assert_eq!(last.accepted.kind, AcceptedKind::Nmi);
    assert_eq!(seen.report.vcpus[1].counters.nmis, 1);
}

guest!(
    ABSENT,
    "
    call rt_setup
    call rt_apic_on
    mov eax, 0x4040
    mov edx, 9                          # there is no such APIC id
    call rt_ipi
    call rt_ring
    jmp rt_rest
    "
);

fn an_ipi_to_nobody_is_undeliverable(apic: ApicMode) {
    let mut guest = Guest::new(&ABSENT).cpus(2).apic(apic).start();
    guest.rings();
    let seen = guest.stop();
    let [event] = &seen.ipis[..] else {
        panic!("{:?}", seen.ipis);
    };
    assert!(event.sent.ipi.undeliverable);
    assert_eq!(event.sent.ipi.targets, CpuSet::EMPTY);
    assert!(seen.accepted.is_empty());
}

// CPU 0 sends 0x50 and waits for the answer; CPU 1's handler of 0x50 answers with 0x51. Order 0: wait
// in HLT instead of spinning. Order 1: how often.
guest!(
    PING_PONG,
    "
    call rt_setup
    call rt_apic_on
    mov edi, 0x50
    lea rax, [rip + 6f]
    call rt_gate
    mov edi, 0x51
    lea rax, [rip + rt_handler]
    call rt_gate
    mov r8d, 1
    lea rax, [rip + 4f]
    call rt_start_ap
21: cmp qword ptr [r15 + 2 * 128], 1
    jne 21b
25: cmp dword ptr [r15 - 60 + 128], 0
    je 25b
    xor ebx, ebx
2:  inc ebx
    mov eax, 0x4050
    mov edx, 1
    call rt_ipi
3:  cli
    cmp qword ptr [r15], rbx
    je 7f
    cmp dword ptr [r15 - 60], 0
    jne 8f
    sti
    jmp 3b
8:  sti                                 # no interrupt before HLT: an answer cannot slip in between
    hlt
    jmp 3b
7:  cmp ebx, dword ptr [r15 - 60 + 128]
    jne 2b
    call rt_ring
    jmp rt_rest
4:  mov qword ptr [r15 + 2 * 128], 1
    sti
5:  cmp dword ptr [r15 - 60], 0
    je 5b
    hlt
    jmp 5b
6:  push rax
    push rcx
    push rdx
    inc qword ptr [r15 + 128]
    call rt_eoi
    mov eax, 0x4051
    xor edx, edx
    call rt_ipi
    pop rdx
    pop rcx
    pop rax
    iretq
    "
);

/// Has both CPUs send `rounds` IPIs each, one after the other; what was seen of it.
pub(crate) fn ping_pong(apic: ApicMode, halting: bool, rounds: u32) -> GuestRecord {
    let mut guest = Guest::new(&PING_PONG).cpus(2).apic(apic).start();
    if halting {
        guest.order(0, 1);
    }
    guest.order(1, rounds);
    guest.rings();
    let seen = guest.stop();
    assert_eq!(seen.words[..2], [u64::from(rounds); 2]);
    let answers = vec![ipi(0x51); rounds as usize];
    assert_eq!(seen.taken(0), answers);
    // CPU 1 took its INIT and its start-up IPI first.
    assert_eq!(seen.taken(1)[2..], vec![ipi(0x50); rounds as usize]);
    let fixed = seen
        .ipis
        .iter()
        .filter(|event| event.sent.ipi.mode == DeliveryMode::Fixed);
    assert_eq!(fixed.clone().count(), 2 * rounds as usize);
    let coalesced = fixed.filter(|event| !event.sent.coalesced.is_empty());
    assert_eq!(coalesced.count(), 0);
    seen
}

// On a core that others use, too, each of these costs its sender the rest of a time slice.
fn no_ipi_of_500_is_lost_between_spinning_cpus(apic: ApicMode) {
    ping_pong(apic, false, 250);
}

fn no_ipi_of_2000_is_lost_between_halting_cpus(apic: ApicMode) {
    ping_pong(apic, true, 1000);
}

guest!(
    TWO_SENDS,
    "
    call rt_setup
    call rt_apic_on
    mov edi, 0x43
    lea rax, [rip + rt_handler]
    call rt_gate
    mov r8d, 1
    lea rax, [rip + 2f]
    call rt_start_ap
21: cmp qword ptr [r15 + 128], 1        # the AP is up
    jne 21b
    mov eax, 0x4043
    mov edx, 1
    call rt_ipi
    mov eax, 0x4043
    mov edx, 1
    call rt_ipi
    mov qword ptr [r15 + 2 * 128], 1    # both are sent
    jmp rt_rest
2:  mov qword ptr [r15 + 128], 1
3:  cmp qword ptr [r15 + 2 * 128], 1
    jne 3b
    mov ecx, 2000
4:  dec ecx                             # time for an interrupt that comes too early
    jnz 4b
    mov rax, qword ptr [r15]
    mov qword ptr [r15 + 3 * 128], rax  # taken with IF = 0
    sti
5:  cmp qword ptr [r15], 0
    je 5b
    mov ecx, 2000
6:  dec ecx                             # time for a second one
    jnz 6b
    call rt_ring
    jmp rt_rest
    "
);

fn two_sends_before_delivery_are_one_interrupt_after_sti(apic: ApicMode) {
    let mut guest = Guest::new(&TWO_SENDS).cpus(2).apic(apic).start();
    guest.rings();
    let seen = guest.stop();
    assert_eq!((seen.words[0], seen.words[3]), (1, 0));
    let sent: Vec<_> = seen
        .ipis
        .iter()
        .filter(|event| event.sent.ipi.vector == 0x43)
        .map(|event| (event.sent.coalesced.len(), event.sent.wake.len()))
        .collect();
    assert_eq!(sent, [(0, 1), (1, 0)]);
    assert_eq!(seen.taken(1).last(), Some(&ipi(0x43)));
    let counters = &seen.report.vcpus[1].counters;
    assert_eq!(counters.injected, 1);
    assert_eq!(counters.windows, 1, "the exit that STI brings");
}
