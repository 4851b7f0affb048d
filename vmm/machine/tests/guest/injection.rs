//! Interrupts that come while the machine injects something else.
#![expect(unsafe_code, reason = "the guest's assembler text")]

use ipirig_machine::ApicMode;

use crate::Suite;
use crate::harness::Guest;
use crate::image::guest;

pub(crate) fn list(suite: &mut Suite) {
    suite.both(
        "no_ipi_is_taken_with_interrupts_off_amid_breakpoints",
        no_ipi_is_taken_with_interrupts_off_amid_breakpoints,
    );
}

guest!(
    BREAKPOINTS,
    "
    call rt_setup
    call rt_apic_on
    mov edi, 0x45
    lea rax, [rip + 5f]
    call rt_gate
    mov edi, 3
    lea rax, [rip + 4f]
    call rt_gate
    mov r8d, 1
    lea rax, [rip + 2f]
    call rt_start_ap
    sti
    mov ebx, 1000
21: int3
    mov ecx, 100                        # a while with interrupts on
22: dec ecx
    jnz 22b
    dec ebx
    jnz 21b
    mov qword ptr [r15 + 2 * 128], 1    # enough
    call rt_ring
    jmp rt_rest
2:  mov eax, 0x4045                     # CPU 1: to CPU 0, again and again
    xor edx, edx
    call rt_ipi
    mov ecx, 50
3:  dec ecx
    jnz 3b
    cmp qword ptr [r15 + 2 * 128], 1
    jne 2b
    jmp rt_rest
4:  push rcx                            # #BP, through an interrupt gate: IF = 0
    mov ecx, 20
6:  dec ecx
    jnz 6b
    pop rcx
    iretq
5:  test dword ptr [rsp + 16], 0x200    # IF of what it interrupts
    jnz 7f
    inc qword ptr [r15 + 3 * 128]
7:  jmp rt_handler
    "
);

// Where the machine injects #BP itself, an interrupt queued in the same breath would come in spite
// of the IF that the #BP cleared.
fn no_ipi_is_taken_with_interrupts_off_amid_breakpoints(apic: ApicMode) {
    let mut guest = Guest::new(&BREAKPOINTS).cpus(2).apic(apic).start();
    guest.rings();
    let seen = guest.stop();
    assert!(seen.words[0] > 0, "no IPI came");
    assert_eq!(seen.words[3], 0, "of {} IPIs", seen.words[0]);
}
