//! INIT and start-up IPIs.
#![expect(unsafe_code, reason = "the guests' assembler text")]

use ipirig_apic::{AcceptedKind, DeliveryMode, Origin};
use ipirig_machine::ApicMode;

use crate::Suite;
use crate::harness::{Guest, ipi};
use crate::image::guest;

pub(crate) fn list(suite: &mut Suite) {
    suite.both(
        "an_ap_starts_once_whatever_follows_its_first_sipi",
        an_ap_starts_once_whatever_follows_its_first_sipi,
    );
    suite.both(
        "cpuid_has_no_apic_while_its_base_has_it_disabled",
        cpuid_has_no_apic_while_its_base_has_it_disabled,
    );
    suite.both(
        "an_ap_reset_amid_a_register_access_starts_at_its_page",
        an_ap_reset_amid_a_register_access_starts_at_its_page,
    );
    suite.both(
        "an_ap_reset_in_its_nmi_handler_takes_nmis_again",
        an_ap_reset_in_its_nmi_handler_takes_nmis_again,
    );
}

guest!(
    START,
    "
    call rt_setup
    call rt_apic_on
    mov edi, 0x41
    lea rax, [rip + rt_handler]
    call rt_gate
    mov r8d, 1
    lea rax, [rip + 3f]
    call rt_start_ap
21: cmp qword ptr [r15 + 128], 1
    jne 21b
    call rt_sipi                        # the customary second one
    mov eax, 0x4677                     # and one that would start at garbage
    mov edx, 1
    call rt_ipi
    mov eax, 0x4041                     # taken after them
    mov edx, 1
    call rt_ipi
2:  cmp qword ptr [r15], 1
    jne 2b
    mov eax, dword ptr [0x13ff0]        # runs of the trampoline
    mov qword ptr [r15 + 2 * 128], rax
    call rt_ring
    jmp rt_rest
3:  mov qword ptr [r15 + 3 * 128], r13  # the AP's own id
    inc qword ptr [r15 + 128]
    sti
4:  pause
    jmp 4b
    "
);

guest!(
    DISABLED,
    "
    call rt_setup
    mov r8d, 3
    lea rdi, [r15]
21: mov eax, 1
    cpuid
    shr edx, 9                          # SDM vol. 2, table 3-11: APIC on chip
    and edx, 1
    mov qword ptr [rdi], rdx
    add rdi, 128
    mov ecx, 0x1b
    rdmsr
    xor eax, 0x800
    wrmsr
    dec r8d
    jnz 21b
    call rt_ring
    jmp rt_rest
    "
);

fn cpuid_has_no_apic_while_its_base_has_it_disabled(apic: ApicMode) {
    let mut guest = Guest::new(&DISABLED).apic(apic).start();
    guest.rings();
    assert_eq!(guest.stop().words[..3], [1, 0, 1]);
}

fn startup(page: u8) -> (AcceptedKind, Origin) {
    (AcceptedKind::Startup(page), Origin::Ipi)
}

const INIT: (AcceptedKind, Origin) = (AcceptedKind::Init, Origin::Ipi);

fn an_ap_starts_once_whatever_follows_its_first_sipi(apic: ApicMode) {
    let mut guest = Guest::new(&START).cpus(2).apic(apic).start();
    guest.rings();
    let seen = guest.stop();
    assert_eq!(seen.words[..4], [1, 1, 1, 1]);
    assert_eq!(
        seen.sent(0),
        [
            (DeliveryMode::Init, 0, vec![1]),
            (DeliveryMode::Startup, 0x13, vec![1]),
            (DeliveryMode::Startup, 0x13, vec![1]),
            (DeliveryMode::Startup, 0x77, vec![1]),
            (DeliveryMode::Fixed, 0x41, vec![1]),
        ]
    );
    assert_eq!(seen.taken(1), [INIT, startup(0x13), ipi(0x41)]);
}

guest!(
    RESET_AMID_ACCESS,
    "
    call rt_setup
    call rt_apic_on
    mov r8d, 1
    lea rax, [rip + 4f]
    call rt_start_ap
    mov ebx, 1
21: cmp qword ptr [r15], rbx            # turn RBX of the AP
    jne 21b
    inc ebx
    cmp ebx, 20
    je 3f
    lea rax, [rip + 4f]
    call rt_start_ap
    jmp 21b
3:  mov eax, dword ptr [0x13ff0]
    mov qword ptr [r15 + 128], rax
    call rt_ring
    jmp rt_rest
4:  inc qword ptr [r15]
5:  mov ecx, 2                          # reads its APIC id for ever: nearly always in an exit
    call rt_read
    jmp 5b
    "
);

fn an_ap_reset_amid_a_register_access_starts_at_its_page(apic: ApicMode) {
    let mut guest = Guest::new(&RESET_AMID_ACCESS).cpus(2).apic(apic).start();
    guest.rings();
    let seen = guest.stop();
    assert_eq!(
        seen.words[..2],
        [19, 19],
        "starts, and runs of the trampoline"
    );
}

guest!(
    RESET_IN_NMI,
    "
    call rt_setup
    call rt_apic_on
    mov edi, 2
    lea rax, [rip + 5f]
    call rt_gate
    mov ebx, 1
21: mov r8d, 1
    lea rax, [rip + 4f]
    call rt_start_ap
2:  cmp qword ptr [r15 + 128], rbx      # the AP is up for the RBXth time
    jne 2b
    mov eax, 0x4400
    mov edx, 1
    call rt_ipi
3:  cmp qword ptr [r15], rbx            # its handler runs for the RBXth time, never to return
    jne 3b
    inc ebx
    cmp ebx, 3
    jne 21b
    call rt_ring
    jmp rt_rest
4:  inc qword ptr [r15 + 128]
9:  jmp 9b
5:  inc qword ptr [r15]
9:  jmp 9b
    "
);

fn an_ap_reset_in_its_nmi_handler_takes_nmis_again(apic: ApicMode) {
    let mut guest = Guest::new(&RESET_IN_NMI).cpus(2).apic(apic).start();
    guest.rings();
    let seen = guest.stop();
    assert_eq!(seen.words[..2], [2, 2]);
}
