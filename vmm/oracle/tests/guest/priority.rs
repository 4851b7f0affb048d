//! The task priority, through its register and through CR8.
#![expect(unsafe_code, reason = "the guests' assembler text")]

use ipirig_machine::ApicMode;

use crate::Suite;
use crate::harness::{Guest, ipi};
use crate::image::guest;

pub(crate) fn list(suite: &mut Suite) {
    suite.both(
        "a_written_task_priority_reads_back_and_shows_in_cr8",
        a_written_task_priority_reads_back_and_shows_in_cr8,
    );
    suite.both(
        "the_task_priority_register_masks_until_lowered",
        the_task_priority_register_masks_until_lowered,
    );
    suite.both("cr8_masks_until_lowered", cr8_masks_until_lowered);
}

guest!(
    READ_BACK,
    "
    call rt_setup
    call rt_apic_on
    mov ecx, 8
    mov eax, 0x53
    call rt_write
    mov rax, cr8
    mov qword ptr [r15], rax
    mov ecx, 8
    call rt_read
    mov qword ptr [r15 + 128], rax
    mov eax, 9
    mov cr8, rax
    mov ecx, 8
    call rt_read
    mov qword ptr [r15 + 2 * 128], rax
    call rt_ring
    jmp rt_rest
    "
);

fn a_written_task_priority_reads_back_and_shows_in_cr8(apic: ApicMode) {
    let mut guest = Guest::new(&READ_BACK).apic(apic).start();
    guest.rings();
    let seen = guest.stop();
    // A MOV to CR8 clears the lower half (SDM vol. 3, 12.8.6.1).
    assert_eq!(seen.words[..3], [5, 0x53, 0x90]);
}

guest!(
    REGISTER_MASKS,
    "
    call rt_setup
    call rt_apic_on
    mov edi, 0x45
    lea rax, [rip + rt_handler]
    call rt_gate
    mov ecx, 8
    mov eax, 0x40                       # class 4: masks vectors 0x40 to 0x4f
    call rt_write
    sti
    mov eax, 0x44045
    xor edx, edx
    call rt_ipi
    mov ecx, 2000
21: dec ecx
    jnz 21b
    mov rax, qword ptr [r15]
    mov qword ptr [r15 + 128], rax      # taken while masked
    mov ecx, 8
    xor eax, eax
    call rt_write
2:  cmp qword ptr [r15], 0
    je 2b
    call rt_ring
    jmp rt_rest
    "
);

fn the_task_priority_register_masks_until_lowered(apic: ApicMode) {
    let mut guest = Guest::new(&REGISTER_MASKS).apic(apic).start();
    guest.rings();
    let seen = guest.stop();
    assert_eq!(seen.words[..2], [1, 0]);
    assert_eq!(seen.taken(0), [ipi(0x45)]);
}

guest!(
    CR8_MASKS,
    "
    call rt_setup
    call rt_apic_on
    mov edi, 0x45
    lea rax, [rip + rt_handler]
    call rt_gate
    mov edi, 0x55
    lea rax, [rip + 4f]
    call rt_gate
    mov eax, 4                          # as above
    mov cr8, rax
    sti
    mov eax, 0x44045
    xor edx, edx
    call rt_ipi
    mov eax, 0x44055                    # class 5 gets through
    xor edx, edx
    call rt_ipi
21: cmp qword ptr [r15 + 2 * 128], 0
    je 21b
    mov rax, qword ptr [r15]
    mov qword ptr [r15 + 128], rax      # taken while masked
    xor eax, eax
    mov cr8, rax
    # Not every KVM exits when CR8 is lowered. Any exit will do for the machine to notice.
    mov ecx, 8
    call rt_read
2:  cmp qword ptr [r15], 0
    je 2b
    call rt_ring
    jmp rt_rest
4:  push rax
    push rcx
    push rdx
    inc qword ptr [r15 + 2 * 128]
    call rt_eoi
    pop rdx
    pop rcx
    pop rax
    iretq
    "
);

fn cr8_masks_until_lowered(apic: ApicMode) {
    let mut guest = Guest::new(&CR8_MASKS).apic(apic).start();
    guest.rings();
    let seen = guest.stop();
    assert_eq!(seen.words[..3], [1, 0, 1]);
    assert_eq!(seen.taken(0), [ipi(0x55), ipi(0x45)]);
}
