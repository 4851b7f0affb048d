//! Guests that write anything anywhere into their APICs. Whatever it does to them, the machine
//! stays whole: it can be asked, stopped, and says how each vCPU was left.
#![expect(unsafe_code, reason = "the guests' assembler text")]

use ipirig_machine::{ApicMode, StopReason, Wakeup};

use crate::Suite;
use crate::harness::{Guest, Running};
use crate::image::guest;

pub(crate) fn list(suite: &mut Suite) {
    suite.both(
        "no_write_to_any_register_harms",
        no_write_to_any_register_harms,
    );
    suite.both("no_icr_write_harms", no_icr_write_harms);
    suite.both(
        "an_init_to_the_boot_cpu_is_a_reset",
        an_init_to_the_boot_cpu_is_a_reset,
    );
    suite.once(
        "no_access_of_any_width_in_the_apic_page_harms",
        no_access_of_any_width_in_the_apic_page_harms,
    );
    suite.both("no_apic_base_harms", no_apic_base_harms);
}

/// Waits for what the guest comes to, asks every vCPU, stops.
fn survive(mut guest: Running, cpus: usize, wanted: &Wakeup) {
    let wakeup = guest.next();
    for cpu in 0..cpus {
        let answers = guest.machine.sample(cpu).is_some();
        assert_eq!(answers, wakeup == Wakeup::Doorbell, "vCPU {cpu}");
    }
    let seen = guest.stop();
    assert_eq!(&wakeup, wanted, "{}", seen.report);
    assert_eq!(seen.words[63], 0, "an exception that nobody provoked");
    let numbers: Vec<_> = seen.report.vcpus.iter().map(|vcpu| vcpu.cpu).collect();
    assert_eq!(numbers, (0..cpus).collect::<Vec<_>>());
}

guest!(
    ANY_REGISTER,
    "
    call rt_setup
    lea r12, [rip + 21f]
    jmp hostile_begin
21: call hostile_number
    mov rsi, rax
    call hostile_number
    and eax, 0x3f
    cmp eax, 0x30                       # the ICR has a test of its own
    je 2f
    cmp eax, 0x3f
    je 2f
    mov ecx, eax
    test r14d, r14d
    jz 3f
    add ecx, 0x800
    mov rax, rsi
    mov rdx, rsi
    shr rdx, 32
    wrmsr
    rdmsr
    jmp 2f
3:  shl ecx, 4
    mov edx, 0xfee00000
    mov dword ptr [rdx + rcx], esi
    mov eax, dword ptr [rdx + rcx]
2:  dec ebp
    jnz 21b
    jmp hostile_end
    "
);

fn no_write_to_any_register_harms(apic: ApicMode) {
    let guest = Guest::new(&ANY_REGISTER).cpus(3).apic(apic).start();
    survive(guest, 3, &Wakeup::Doorbell);
}

// Without order 0 every INIT becomes an NMI, so that the guest gets to its end.
guest!(
    ANY_ICR,
    "
    call rt_setup
21: cmp dword ptr [r15 - 60 + 128], 0   # order 1: begin
    je 21b
    lea r12, [rip + 22f]
    jmp hostile_begin
22: call hostile_number
    mov rsi, rax
    call hostile_number
    mov edx, esi
    and edx, 0xff                       # a CPU that is there, one that is not, or everybody
    cmp edx, 0xfe
    jae 23f
    and edx, 3
23: and eax, 0xcffff
    cmp dword ptr [r15 - 60], 0
    jne 24f
    mov ecx, eax
    and ecx, 0x700
    cmp ecx, 0x500
    jne 24f
    and eax, 0xcfeff
24: call rt_ipi
    dec ebp
    jnz 22b
    jmp hostile_end
    "
);

fn no_icr_write_harms(apic: ApicMode) {
    let guest = Guest::new(&ANY_ICR).cpus(3).apic(apic).start();
    guest.order(1, 1);
    survive(guest, 3, &Wakeup::Doorbell);
}

fn an_init_to_the_boot_cpu_is_a_reset(apic: ApicMode) {
    let guest = Guest::new(&ANY_ICR).cpus(3).apic(apic).start();
    guest.order(0, 1);
    guest.order(1, 1);
    survive(guest, 3, &Wakeup::Stopped(StopReason::Reset));
}

guest!(
    ANY_WIDTH,
    "
    call rt_setup
    lea r12, [rip + 21f]
    jmp hostile_begin
21: call hostile_number
    mov rsi, rax
    call hostile_number
    mov edi, 0xfee00000
    and eax, 0xfff
    add rdi, rax
    # Not the ICR's low half, which has a test of its own, nor the next page.
    and eax, 0xff0
    cmp eax, 0x300
    je 2f
    cmp eax, 0x2f0
    je 2f
    cmp eax, 0xff0
    je 2f
    mov eax, esi
    shr eax, 4
    and eax, 7
    jz 3f
    dec eax
    jz 4f
    dec eax
    jz 5f
    dec eax
    jz 6f
    dec eax
    jz 7f
    mov dword ptr [rdi], esi
    jmp 2f
3:  mov byte ptr [rdi], sil
    jmp 2f
4:  mov word ptr [rdi], si
    jmp 2f
5:  mov qword ptr [rdi], rsi
    jmp 2f
6:  mov rax, qword ptr [rdi]
    jmp 2f
7:  mov al, byte ptr [rdi]
2:  dec ebp
    jnz 21b
    jmp hostile_end
    "
);

fn no_access_of_any_width_in_the_apic_page_harms() {
    let guest = Guest::new(&ANY_WIDTH).cpus(3).apic(ApicMode::Xapic).start();
    survive(guest, 3, &Wakeup::Doorbell);
}

guest!(
    ANY_BASE,
    "
    call rt_setup
    lea r12, [rip + 21f]
    jmp hostile_begin
21: call hostile_number
    mov rdx, rax
    shr rdx, 32
    test bl, 1                          # half of them leave the page where it is
    jz 2f
    and eax, 0xd00
    or eax, 0xfee00000
    xor edx, edx
2:  mov ecx, 0x1b
    wrmsr
    rdmsr
    mov ecx, 0x80f                      # enable by software, in case it is x2APIC now
    mov eax, 0x1ff
    xor edx, edx
    wrmsr
    dec ebp
    jnz 21b
    jmp hostile_end
    "
);

fn no_apic_base_harms(apic: ApicMode) {
    let guest = Guest::new(&ANY_BASE).cpus(3).apic(apic).start();
    survive(guest, 3, &Wakeup::Doorbell);
}
