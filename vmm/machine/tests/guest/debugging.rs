//! Guests that debug themselves while the machine has breakpoints and steps of its own, and steps
//! across what does not leave RFLAGS.TF alone.
#![expect(unsafe_code, reason = "the guests' assembler text")]

use ipirig_entry::{Began, Ended};
use ipirig_machine::ApicMode;

use crate::Suite;
use crate::harness::{Guest, GuestRecord, Running};
use crate::image::{address, guest};
use crate::recording::{counting, fetch, moves_on, offsets, path};

pub(crate) fn list(suite: &mut Suite) {
    suite.stepping(
        "a_guest_that_steps_itself_gets_its_traps_amid_breakpoints",
        a_guest_that_steps_itself_gets_its_traps_amid_breakpoints,
    );
    suite.stepping(
        "a_guest_that_steps_over_a_watched_address_gets_its_traps",
        a_guest_that_steps_over_a_watched_address_gets_its_traps,
    );
    suite.stepping(
        "a_breakpoint_of_the_guest_is_suspended_or_the_guests_alone",
        a_breakpoint_of_the_guest_is_suspended_or_the_guests_alone,
    );
    suite.stepping(
        "a_trap_of_user_space_is_recorded_as_an_entry",
        a_trap_of_user_space_is_recorded_as_an_entry,
    );
    suite.stepping(
        "int1_is_the_same_to_a_guest_that_is_recorded_and_to_one_that_is_not",
        int1_is_the_same_to_a_guest_that_is_recorded_and_to_one_that_is_not,
    );
    suite.stepping(
        "no_instruction_is_missing_after_an_access_to_mmio",
        no_instruction_is_missing_after_an_access_to_mmio,
    );
    suite.stepping(
        "a_fault_in_the_kernel_is_recorded_with_its_handler",
        a_fault_in_the_kernel_is_recorded_with_its_handler,
    );
}

// On order 0 does what word 4 says: 1 steps itself over two NOPs, 2 over a call of WATCHED_STEP, 3
// calls that with a breakpoint of its own there. What its #DBs were: word 0 counts them, words 1 to 3
// are DR6, RIP and RFLAGS of the last one.
guest!(
    STEPS,
    "
    call rt_setup
    mov edi, 1
    lea rax, [rip + 3f]
    call rt_gate
20: cmp dword ptr [r15 - 60], 0
    je 20b
    mov eax, dword ptr [r15 - 60]
    cmp eax, 2
    je 22f
    cmp eax, 3
    je 23f
    mov edi, 0x100
    call 30f
    .globl TRAPPED
    nop
TRAPPED:
    jmp 29f
22: mov edi, 0x100
    call 30f
    jmp WATCHED_STEP
23: lea rax, [rip + WATCHED_STEP]
    mov dr0, rax
    mov eax, 0x402
    mov dr7, rax
    jmp WATCHED_STEP
    .globl WATCHED_STEP
WATCHED_STEP:
    nop
29: xor eax, eax
    mov dr7, rax
    call rt_ring
    jmp rt_rest
30: pushfq                              # sets RFLAGS.TF
    or qword ptr [rsp], rdi
    popfq
    ret                                 # the first trap comes after this
3:  push rax
    inc qword ptr [r15]
    mov rax, dr6
    mov qword ptr [r15 + 128], rax
    mov rax, qword ptr [rsp + 8]
    mov qword ptr [r15 + 2 * 128], rax
    mov rax, qword ptr [rsp + 24]
    mov qword ptr [r15 + 3 * 128], rax
    mov eax, 0xffff0ff0
    mov dr6, rax
    lea rax, [rip + TRAPPED]            # at the end of what is stepped: no more of it
    cmp qword ptr [rsp + 8], rax
    je 31f
    lea rax, [rip + WATCHED_STEP + 1]
    cmp qword ptr [rsp + 8], rax
    jne 32f
31: and qword ptr [rsp + 24], 0xfffffffffffffeff
32: lea rax, [rip + WATCHED_STEP]
    cmp qword ptr [rsp + 8], rax
    jne 33f
    test byte ptr [r15 + 128], 1
    jz 33f
    or qword ptr [rsp + 24], 0x10000    # RF: not again
33: pop rax
    iretq
    "
);

// SAFETY: labels of the guests; their addresses are all that is used.
unsafe extern "C" {
    safe static TRAPPED: u8;
    safe static WATCHED_STEP: u8;
    safe static OWN_TRAP: u8;
    safe static DB_HANDLER: u8;
    safe static MMIO_HANDLER: u8;
    safe static FAULTS: u8;
    safe static FAULT_HANDLER: u8;
}

/// DR6 with no cause (SDM vol. 3, 18.2.3).
const NO_CAUSE: u64 = 0xffff_0ff0;
const BS: u64 = 1 << 14;
const TF: u64 = 1 << 8;

/// Gives STEPS an order while `watched` is, and waits for it.
fn steps(order: u32, watched: &u8) -> GuestRecord {
    let mut guest = Guest::new(&STEPS).start();
    guest.machine.watch(0, &[address(watched)]).unwrap();
    guest.order(0, order);
    guest.rings();
    guest.stop()
}

fn a_guest_that_steps_itself_gets_its_traps_amid_breakpoints() {
    let seen = steps(1, &DB_HANDLER);
    // After the RET and after the NOP.
    assert_eq!(seen.words[..3], [2, NO_CAUSE | BS, address(&TRAPPED)]);
    assert_eq!(seen.words[3] & TF, TF, "the frame has the guest's own flag");
    assert_eq!(seen.watched, []);
}

fn a_guest_that_steps_over_a_watched_address_gets_its_traps() {
    let seen = steps(2, &WATCHED_STEP);
    // After the RET, the JMP and the NOP, which the machine steps over.
    assert_eq!(
        seen.words[..3],
        [3, NO_CAUSE | BS, address(&WATCHED_STEP) + 1]
    );
    assert_eq!(seen.words[3] & TF, TF, "the frame has the guest's own flag");
    assert_eq!(seen.watched.len(), 1);
}

fn a_breakpoint_of_the_guest_is_suspended_or_the_guests_alone() {
    let own = [1, NO_CAUSE | 1, address(&WATCHED_STEP)];
    // KVM's emulator looks at the guest's breakpoints all the same.
    let seen = steps(3, &TRAPPED);
    assert!([[0, 0, 0], own].contains(&[seen.words[0], seen.words[1], seen.words[2]]));
    assert_eq!(seen.watched, []);
    // When the machine has none left, the guest's is back.
    let mut guest = Guest::new(&STEPS).start();
    guest
        .machine
        .watch(0, &[address(&WATCHED_STEP)])
        .and_then(|()| guest.machine.watch(0, &[]))
        .unwrap();
    guest.order(0, 3);
    guest.rings();
    let seen = guest.stop();
    assert_eq!(seen.words[..3], own);
    assert_eq!(seen.watched, []);
}

// Counts in CPL 3. Order 0 is how it enters the kernel: 1 a step of its own, 2 INT1, 3 a #UD whose
// handler raises a #GP. The timer, vector 0x40, has a handler that accesses the APIC by MMIO.
guest!(
    TRAPS,
    "
    call rt_setup
    call rt_apic_on
    mov ecx, 0x32                       # the timer: vector 0x40, masked
    mov eax, 0x10040
    call rt_write
    mov edi, 0x40
    lea rax, [rip + MMIO_HANDLER]
    call rt_gate
    mov edi, 1
    lea rax, [rip + DB_HANDLER]
    call rt_gate
    mov edi, 6
    lea rax, [rip + FAULTS]
    call rt_gate
    mov edi, 13
    lea rax, [rip + FAULT_HANDLER]
    call rt_gate
    lea rax, [rip + 21f]
    jmp rt_user
21: inc qword ptr [r15]
    mov eax, dword ptr [r15 - 60]
    test eax, eax
    je 21b
    mov dword ptr [r15 - 60], 0
    cmp eax, 2
    je 22f
    cmp eax, 3
    je 23f
    pushfq
    or qword ptr [rsp], 0x100
    popfq
    nop
    .globl OWN_TRAP, DB_HANDLER, MMIO_HANDLER, FAULTS, FAULT_HANDLER
OWN_TRAP:
    jmp 21b
22: .byte 0xf1                          # INT1
    inc qword ptr [r15 + 4 * 128]
    jmp 21b
23: ud2
    jmp 21b
DB_HANDLER:
    and qword ptr [rsp + 16], 0xfffffffffffffeff # 0
    push qword ptr [rsp]                # 9
    pop qword ptr [r15 + 128]           # 12
    inc qword ptr [r15 + 2 * 128]       # 19
    push rax                            # 26
    lea rax, [rip + OWN_TRAP + 2]       # 27: the INT1, where some KVMs leave RIP
    cmp qword ptr [rsp + 8], rax        # 34
    pop rax                             # 39
    jne 24f                             # 40
    inc qword ptr [rsp]                 # 42
24: iretq                               # 46
MMIO_HANDLER:
    push rax                            # 0
    mov eax, 0xfee000b0                 # 1: EOI
    mov dword ptr [rax], 0              # 6
    nop                                 # 12
    mov eax, 0xfee00080                 # 13: TPR
    mov eax, dword ptr [rax]            # 18
    nop                                 # 20
    mov eax, 0xfee00080                 # 21
    or dword ptr [rax], 0               # 26: a read and a write
    nop                                 # 29
    pop rax                             # 30
    iretq                               # 31
FAULTS:
    add qword ptr [rsp], 2              # 0
    push rcx                            # 5
    mov ecx, 0xffff                     # 6
    rdmsr                               # 11: no such MSR
    pop rcx                             # 13
    swapgs                              # 14
    nop                                 # 17
    swapgs                              # 18
    nop                                 # 21
    iretq                               # 22
FAULT_HANDLER:
    add qword ptr [rsp + 8], 2          # 0
    add rsp, 8                          # 6
    iretq                               # 10
    "
);

/// TRAPS, whose next entry is recorded.
fn armed(apic: ApicMode, vectors: &[u8]) -> Running {
    let guest = counting(Guest::new(&TRAPS).apic(apic));
    let ways: Vec<Began> = vectors.iter().copied().map(Began::Vector).collect();
    guest.machine.arm(0, 100, &ways).unwrap();
    guest
}

fn a_trap_of_user_space_is_recorded_as_an_entry() {
    let mut guest = armed(ApicMode::Auto, &[1]);
    guest.order(0, 1);
    let record = fetch(&mut guest);
    assert_eq!(
        (record.began, record.ended),
        (Began::Vector(1), Ended::User)
    );
    let handler = [0, 9, 12, 19, 26, 27, 34, 39, 40, 46];
    assert_eq!(path(&record), offsets(address(&DB_HANDLER), &handler));
    assert_eq!(record.check(Began::Vector(1)), Ok(()));
    moves_on(&mut guest);
    let seen = guest.stop();
    assert_eq!(seen.words[1..3], [address(&OWN_TRAP), 1]);
    assert_eq!(seen.words[63], 0, "an exception");
}

fn int1_is_the_same_to_a_guest_that_is_recorded_and_to_one_that_is_not() {
    let mut guest = counting(Guest::new(&TRAPS));
    guest.order(0, 2);
    moves_on(&mut guest);
    let unseen = guest.stop();
    let mut guest = armed(ApicMode::Auto, &[1]);
    guest.order(0, 2);
    let record = fetch(&mut guest);
    assert_eq!(record.check(Began::Vector(1)), Ok(()));
    moves_on(&mut guest);
    let seen = guest.stop();
    assert_eq!(seen.words[1..3], unseen.words[1..3]);
    assert_eq!(seen.words[2], 1);
    assert_eq!(seen.words[63], 0, "an exception");
}

fn no_instruction_is_missing_after_an_access_to_mmio() {
    let mut guest = armed(ApicMode::Xapic, &[]);
    assert!(guest.machine.raise(0, ipirig_machine::Line::Timer).unwrap());
    let record = fetch(&mut guest);
    let handler = address(&MMIO_HANDLER);
    assert_eq!(
        path(&record),
        offsets(handler, &[0, 1, 6, 12, 13, 18, 20, 21, 26, 29, 30, 31])
    );
    assert_eq!(record.check(Began::Vector(0x40)), Ok(()));
    moves_on(&mut guest);
    assert_eq!(guest.stop().words[63], 0, "an exception");
}

fn a_fault_in_the_kernel_is_recorded_with_its_handler() {
    let mut guest = armed(ApicMode::Auto, &[6]);
    guest.order(0, 3);
    let record = fetch(&mut guest);
    let mut expected = offsets(address(&FAULTS), &[0, 5, 6, 11]);
    expected.extend(offsets(address(&FAULT_HANDLER), &[0, 6, 10]));
    expected.extend(offsets(address(&FAULTS), &[13, 14, 17, 18, 21, 22]));
    assert_eq!(path(&record), expected);
    assert_eq!(record.check(Began::Vector(6)), Ok(()));
    moves_on(&mut guest);
    assert_eq!(guest.stop().words[63], 0, "an exception");
}
