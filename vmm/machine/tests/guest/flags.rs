//! RFLAGS as a guest's own code and its exceptions store them while the machine steps it.
#![expect(unsafe_code, reason = "the guests' assembler text")]

use ipirig_entry::{Began, Ended};

use crate::Suite;
use crate::harness::Guest;
use crate::image::{address, guest};
use crate::recording::{counting, fetch, moves_on, offsets, path};

pub(crate) fn list(suite: &mut Suite) {
    suite.stepping(
        "a_recorded_guest_pushes_its_flags_as_they_are_without_the_machine",
        a_recorded_guest_pushes_its_flags_as_they_are_without_the_machine,
    );
    suite.stepping(
        "a_watched_instruction_pushes_the_flags_as_they_are_without_the_machine",
        a_watched_instruction_pushes_the_flags_as_they_are_without_the_machine,
    );
}

// Counts in CPL 3; order 0 makes it raise a #UD, whose handler stores RFLAGS in words 1 and 2 by PUSHF of both sizes,
// and raises a #GP, whose handler stores those of the frame in word 3.
guest!(
    PUSHES,
    "
    call rt_setup
    mov edi, 6
    lea rax, [rip + PUSHING]
    call rt_gate
    mov edi, 13
    lea rax, [rip + FAULTING]
    call rt_gate
    lea rax, [rip + 21f]
    jmp rt_user
21: inc qword ptr [r15]
    cmp dword ptr [r15 - 60], 0
    je 21b
    mov dword ptr [r15 - 60], 0
    ud2
    jmp 21b
    .globl PUSHING, PUSHED, FAULTING
PUSHING:
    add qword ptr [rsp], 2              # 0
    push rcx                            # 5
PUSHED:
    pushfq                              # 6
    pop qword ptr [r15 + 128]           # 7
    .byte 0x66, 0x9c                    # 14: PUSHF of 16 bits
    pop cx                              # 16
    mov word ptr [r15 + 2 * 128], cx    # 18
    mov ecx, 0xffff                     # 26
    rdmsr                               # 31: no such MSR
    pop rcx                             # 33
    iretq                               # 34
FAULTING:
    add qword ptr [rsp + 8], 2          # 0
    push qword ptr [rsp + 24]           # 6
    pop qword ptr [r15 + 3 * 128]       # 10
    add rsp, 8                          # 17
    iretq                               # 21
    "
);

// SAFETY: labels of the guest; their addresses are all that is used.
unsafe extern "C" {
    safe static PUSHING: u8;
    safe static PUSHED: u8;
    safe static FAULTING: u8;
}

const TF: u64 = 1 << 8;

fn a_recorded_guest_pushes_its_flags_as_they_are_without_the_machine() {
    let mut guest = counting(Guest::new(&PUSHES));
    guest.machine.arm(0, 100, &[Began::Vector(6)]).unwrap();
    guest.order(0, 1);
    let record = fetch(&mut guest);
    let began = Began::Vector(6);
    assert_eq!((record.began, record.ended), (began, Ended::User));
    assert_eq!(record.check(began), Ok(()));
    let mut expected = offsets(address(&PUSHING), &[0, 5, 6, 7, 14, 16, 18, 26, 31]);
    expected.extend(offsets(address(&FAULTING), &[0, 6, 10, 17, 21]));
    expected.extend(offsets(address(&PUSHING), &[33, 34]));
    assert_eq!(path(&record), expected);
    moves_on(&mut guest);
    let seen = guest.stop();
    let stored = [1, 2, 3].map(|word: usize| seen.words[word]);
    assert!(stored.iter().all(|flags| flags & 2 != 0), "{stored:x?}");
    assert_eq!(stored.map(|flags| flags & TF), [0; 3]);
    assert_eq!(seen.words[63], 0, "an exception");
}

fn a_watched_instruction_pushes_the_flags_as_they_are_without_the_machine() {
    let mut guest = counting(Guest::new(&PUSHES));
    guest.machine.watch(0, &[address(&PUSHED)]).unwrap();
    guest.order(0, 1);
    moves_on(&mut guest);
    let seen = guest.stop();
    assert_eq!(seen.watched.len(), 1);
    assert_eq!(seen.words[1] & (TF | 2), 2);
    assert_eq!(seen.words[63], 0, "an exception");
}
