//! Interrupts that come while the machine injects something else.
#![expect(unsafe_code, reason = "the guest's assembler text")]

use ipirig_apic::AcceptedKind;
use ipirig_machine::ApicMode;

use crate::Suite;
use crate::harness::Guest;
use crate::image::guest;

pub(crate) fn list(suite: &mut Suite) {
    suite.both(
        "no_ipi_is_taken_with_interrupts_off_amid_breakpoints",
        no_ipi_is_taken_with_interrupts_off_amid_breakpoints,
    );
    suite.both(
        "no_ipi_is_lost_amid_accesses_that_end_in_exceptions",
        no_ipi_is_lost_amid_accesses_that_end_in_exceptions,
    );
    suite.both(
        "an_nmi_and_an_ipi_at_once_hit_what_the_ledger_says",
        an_nmi_and_an_ipi_at_once_hit_what_the_ledger_says,
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
    jg 21b
    cmp qword ptr [r15], 0              # CPU 1 may be slower
    je 21b
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

// CPU 1 sends IPIs to CPU 0, each when the one before was taken. CPU 0 accesses MSRs that are not there
// or, on order 0, steps itself over an OUT.
guest!(
    EXCEPTIONS,
    "
    call rt_setup
    call rt_apic_on
    mov edi, 0x45
    lea rax, [rip + rt_handler]
    call rt_gate
    mov edi, 13
    lea rax, [rip + 4f]
    call rt_gate
    mov edi, 1
    lea rax, [rip + 5f]
    call rt_gate
20: cmp dword ptr [r15 - 60], 0         # which of the two, and begin
    je 20b
    mov r8d, 1
    lea rax, [rip + 2f]
    call rt_start_ap
    sti
    cmp dword ptr [r15 - 60], 1
    jne 23f
21: mov ecx, 0x83e                      # no register of an x2APIC
    rdmsr
    out 0x80, al                        # where KVM emulates, interrupts need such an exit
    wrmsr
    cmp qword ptr [r15], 500
    jb 21b
22: call rt_ring
    jmp rt_rest
23: pushfq
    or qword ptr [rsp], 0x100
    popfq
    out 0x80, al
24: cmp qword ptr [r15], 500
    jb 23b
    jmp 22b
2:  mov rbx, qword ptr [r15]            # CPU 1
    mov eax, 0x4045
    xor edx, edx
    call rt_ipi
3:  cmp qword ptr [r15], rbx
    je 3b
    cmp rbx, 499
    jb 2b
    jmp rt_rest
4:  add rsp, 8                          # #GP: past RDMSR or WRMSR
    add qword ptr [rsp], 2
    iretq
5:  and qword ptr [rsp + 16], 0xfffffffffffffeff
    iretq
    "
);

// KVM completes an access at the next entry. An exception that this ends in takes the place of an
// interrupt that was queued before.
fn no_ipi_is_lost_amid_accesses_that_end_in_exceptions(apic: ApicMode) {
    for order in [1, 2] {
        let mut guest = Guest::new(&EXCEPTIONS).cpus(2).apic(apic).start();
        guest.order(0, order);
        guest.rings();
        assert_eq!(guest.stop().words[0], 500);
    }
}

// CPU 1 sends CPU 0, which counts in CPL 3, an NMI and an IPI, again and again, when both were taken.
// Words 2 and 3: NMIs and IPIs that came in CPL 3. Words 4 and 5: all.
guest!(
    BOTH,
    "
    call rt_setup
    call rt_apic_on
    mov edi, 2
    lea rax, [rip + 4f]
    call rt_gate
    mov edi, 0x45
    lea rax, [rip + 5f]
    call rt_gate
    mov r8d, 1
    lea rax, [rip + 2f]
    call rt_start_ap
    lea rax, [rip + 21f]
    jmp rt_user
21: inc qword ptr [r15]
    jmp 21b
2:  xor ebx, ebx                        # CPU 1
3:  mov eax, 0x4400                     # NMI
    xor edx, edx
    call rt_ipi
    mov eax, 0x4045
    xor edx, edx
    call rt_ipi
    inc ebx
31: cmp qword ptr [r15 + 4 * 128], rbx
    jb 31b
    cmp qword ptr [r15 + 5 * 128], rbx
    jb 31b
    cmp ebx, 200
    jb 3b
    call rt_ring
    jmp rt_rest
4:  test byte ptr [rsp + 8], 3
    jz 41f
    inc qword ptr [r15 + 2 * 128]
41: inc qword ptr [r15 + 4 * 128]
    iretq
5:  test byte ptr [rsp + 8], 3
    jz 51f
    inc qword ptr [r15 + 3 * 128]
51: push rax
    push rcx
    push rdx
    call rt_eoi
    pop rdx
    pop rcx
    pop rax
    inc qword ptr [r15 + 5 * 128]
    iretq
    "
);

fn an_nmi_and_an_ipi_at_once_hit_what_the_ledger_says(apic: ApicMode) {
    let mut guest = Guest::new(&BOTH).cpus(2).apic(apic).start();
    // Keeps the thread of CPU 0 busy now and then, so that both are there when it looks.
    while guest.word(4) < 190 {
        let _ = guest.machine.read_virtual(0, 0, 0x8_0000);
        std::thread::yield_now();
    }
    guest.rings();
    let seen = guest.stop();
    let in_user_space = |kind| {
        let taken = seen.accepted.iter().filter(|event| event.cpu == 0);
        taken
            .filter(|event| event.accepted.kind == kind && event.cpl == Some(3))
            .count() as u64
    };
    assert_eq!(seen.words[4..6], [200, 200]);
    assert_eq!(
        [AcceptedKind::Nmi, AcceptedKind::Fixed(0x45)].map(in_user_space),
        seen.words[2..4]
    );
}
