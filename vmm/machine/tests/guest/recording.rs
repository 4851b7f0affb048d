//! Kernel entries recorded instruction by instruction, and addresses that are watched.
#![expect(unsafe_code, reason = "the guests' assembler text")]

mod followed;

use ipirig_entry::{Began, Ended, Record};
use ipirig_machine::{ApicMode, Line};

use crate::Suite;
use crate::harness::{Guest, Running};
use crate::image::{address, guest};

pub(crate) fn list(suite: &mut Suite) {
    suite.stepping("an_nmi_is_recorded_from_its_handler_to_user_space", || {
        recorded(Line::Nmi, Began::Vector(2));
    });
    suite.stepping("a_timer_interrupt_is_recorded_across_exits", || {
        for apic in [ApicMode::Xapic, ApicMode::Auto] {
            a_timer_interrupt_is_recorded_across_exits(apic);
        }
    });
    suite.stepping("an_exception_is_recorded", an_exception_is_recorded);
    suite.stepping(
        "a_return_that_faults_is_recorded_and_no_entry_before_it",
        a_return_that_faults_is_recorded_and_no_entry_before_it,
    );
    suite.stepping("a_syscall_is_recorded", a_syscall_is_recorded);
    suite.stepping(
        "an_invpcid_is_recorded_with_its_descriptor",
        an_invpcid_is_recorded_with_its_descriptor,
    );
    suite.stepping(
        "a_record_ends_at_its_limit_and_the_guest_goes_on",
        a_record_ends_at_its_limit_and_the_guest_goes_on,
    );
    suite.stepping(
        "entries_from_the_kernel_are_not_recorded",
        entries_from_the_kernel_are_not_recorded,
    );
    suite.stepping(
        "an_nmi_that_comes_during_another_is_no_debug_exception_of_the_guest",
        an_nmi_that_comes_during_another_is_no_debug_exception_of_the_guest,
    );
    followed::list(suite);
}

// Counts in CPL 3; order 0 makes it raise a #UD, order 1 a SYSCALL.
guest!(
    ENTRIES,
    "
    call rt_setup
    call rt_apic_on
    mov ecx, 0x32                       # the timer: vector 0x40, masked
    mov eax, 0x10040
    call rt_write
    mov edi, 0x40
    lea rax, [rip + TIMER_HANDLER]
    call rt_gate
    mov edi, 2
    lea rax, [rip + HANDLER]
    call rt_gate
    mov edi, 6
    lea rax, [rip + UD_HANDLER]
    call rt_gate
    mov dword ptr [0x400000], 0x070f4890 # nop; sysretq, where CPL 3 may not go
    mov ecx, 0xc0000080                 # EFER.SCE
    rdmsr
    or eax, 1
    wrmsr
    mov ecx, 0xc0000081                 # STAR
    xor eax, eax
    mov edx, 0x00180010
    wrmsr
    inc ecx                             # LSTAR
    mov eax, 0x400000
    xor edx, edx
    wrmsr
    mov ecx, 0xc0000084                 # FMASK
    mov eax, 0x200
    wrmsr
    lea rax, [rip + 21f]
    jmp rt_user
21: inc qword ptr [r15]
    cmp dword ptr [r15 - 60], 0
    jne 22f
    cmp dword ptr [r15 - 60 + 128], 0
    je 21b
    mov dword ptr [r15 - 60 + 128], 0
    syscall
    jmp 21b
22: mov dword ptr [r15 - 60], 0
    ud2
    jmp 21b
    .globl HANDLER, UD_HANDLER, TIMER_HANDLER
HANDLER:
    push rax
    xor eax, eax
    pop rax
    iretq
UD_HANDLER:
    add qword ptr [rsp], 2
    iretq
TIMER_HANDLER:
    push rax
    push rcx
    push rdx
    call rt_eoi
    pop rdx
    pop rcx
    pop rax
    iretq
    "
);

// Counts in CPL 3; an NMI executes INVPCID, where there is one (CPUID leaf 7), with the descriptor on
// the stack.
guest!(
    INVPCIDS,
    "
    call rt_setup
    mov edi, 2
    lea rax, [rip + 31f]
    call rt_gate
    lea rax, [rip + 21f]
    jmp rt_user
21: inc qword ptr [r15]
    jmp 21b
31: push rax
    push rbx
    push rcx
    push rdx
    mov eax, 7
    xor ecx, ecx
    cpuid
    bt ebx, 10
    jnc 32f
    push 0x123000
    push 5
    mov eax, 2                          # all, global translations included
    invpcid rax, [rsp]
    add rsp, 16
32: pop rdx
    pop rcx
    pop rbx
    pop rax
    iretq
    "
);

// SAFETY: labels of the guest above; their addresses are all that is used.
unsafe extern "C" {
    safe static HANDLER: u8;
    safe static UD_HANDLER: u8;
    safe static GP_HANDLER: u8;
    safe static TIMER_HANDLER: u8;
    safe static WATCHED: u8;
}

/// Where the record was, instruction by instruction.
pub(crate) fn path(record: &Record) -> Vec<u64> {
    record.steps.iter().map(|step| step.registers.rip).collect()
}

pub(crate) fn offsets(start: u64, offsets: &[u64]) -> Vec<u64> {
    offsets.iter().map(|offset| start + offset).collect()
}

/// A guest that counts in CPL 3.
pub(crate) fn counting(guest: Guest) -> Running {
    let mut guest = guest.start();
    moves_on(&mut guest);
    guest
}

/// Waits until the guest counts on.
pub(crate) fn moves_on(guest: &mut Running) {
    let before = guest.word(0);
    let count = |machine: &ipirig_machine::Machine| {
        let slot = &machine.mailbox().cpus[0];
        slot.task
            .heartbeat
            .load(std::sync::atomic::Ordering::SeqCst)
    };
    guest.until("stopped counting", |machine| count(machine) > before + 1000);
}

pub(crate) fn fetch(guest: &mut Running) -> Record {
    let mut record = None;
    let found = std::cell::RefCell::new(&mut record);
    guest.until("was not recorded", |machine| {
        let mut found = found.borrow_mut();
        **found = machine.record(0).unwrap();
        found.is_some()
    });
    record.unwrap()
}

fn recorded(line: Line, began: Began) {
    let mut guest = counting(Guest::new(&ENTRIES));
    guest.machine.arm(0, 100, &[]).unwrap();
    assert!(guest.machine.raise(0, line).unwrap());
    let record = fetch(&mut guest);
    assert_eq!((record.cpu, record.began), (0, began));
    assert_eq!(record.ended, Ended::User);
    assert_eq!(path(&record), offsets(address(&HANDLER), &[0, 1, 3, 4]));
    let code: Vec<&[u8]> = record
        .steps
        .iter()
        .map(|step| &step.code.bytes()[..1])
        .collect();
    assert_eq!(code, [[0x50], [0x31], [0x58], [0x48]]);
    assert!(record.steps.iter().all(|step| step.registers.cpl == 0));
    assert_eq!(guest.machine.record(0).unwrap(), None, "fetched once");
    moves_on(&mut guest);
    assert_eq!(guest.stop().words[63], 0, "an exception");
}

fn an_invpcid_is_recorded_with_its_descriptor() {
    let mut guest = counting(Guest::new(&INVPCIDS));
    guest.machine.arm(0, 100, &[]).unwrap();
    assert!(guest.machine.raise(0, Line::Nmi).unwrap());
    let record = fetch(&mut guest);
    assert_eq!(record.ended, Ended::User);
    let seen: Vec<_> = record
        .steps
        .iter()
        .filter_map(|step| step.descriptor)
        .collect();
    let invpcid = [0x66, 0x0f, 0x38, 0x82];
    let executed = record
        .steps
        .iter()
        .any(|step| step.code.bytes().starts_with(&invpcid));
    let expected: &[[u64; 2]] = if executed { &[[5, 0x12_3000]] } else { &[] };
    assert_eq!(seen, expected);
    moves_on(&mut guest);
    assert_eq!(guest.stop().words[63], 0, "an exception");
}

fn a_timer_interrupt_is_recorded_across_exits(apic: ApicMode) {
    let mut guest = counting(Guest::new(&ENTRIES).apic(apic));
    guest.machine.arm(0, 100, &[]).unwrap();
    assert!(guest.machine.raise(0, Line::Timer).unwrap());
    let record = fetch(&mut guest);
    assert_eq!(
        (record.began, record.ended),
        (Began::Vector(0x40), Ended::User)
    );
    let start = address(&TIMER_HANDLER);
    assert_eq!(record.check(Began::Vector(0x40)), Ok(()));
    let path = path(&record);
    assert_eq!(path[..4], offsets(start, &[0, 1, 2, 3]));
    // The EOI, an exit, is in between.
    assert_eq!(path[path.len() - 4..], offsets(start, &[8, 9, 10, 11]));
    moves_on(&mut guest);
    assert_eq!(guest.stop().words[63], 0, "an exception");
}

fn an_exception_is_recorded() {
    let mut guest = counting(Guest::new(&ENTRIES));
    guest.machine.arm(0, 100, &[Began::Vector(6)]).unwrap();
    guest.order(0, 1);
    let record = fetch(&mut guest);
    assert_eq!(
        (record.began, record.ended),
        (Began::Vector(6), Ended::User)
    );
    assert_eq!(path(&record), offsets(address(&UD_HANDLER), &[0, 5]));
    assert_eq!(record.check(Began::Vector(6)), Ok(()));
    moves_on(&mut guest);
    guest.stop();
}

fn a_syscall_is_recorded() {
    let mut guest = counting(Guest::new(&ENTRIES));
    guest.machine.arm(0, 100, &[]).unwrap();
    assert_eq!(guest.machine.lstar(0).unwrap(), 0x40_0000);
    guest.order(1, 1);
    let record = fetch(&mut guest);
    assert_eq!((record.began, record.ended), (Began::Syscall, Ended::User));
    assert_eq!(path(&record), [0x40_0000, 0x40_0001]);
    assert_eq!(record.check(Began::Syscall), Ok(()));
    // Once more, with nobody looking.
    guest.order(1, 1);
    moves_on(&mut guest);
    assert_eq!(guest.machine.record(0).unwrap(), None);
    guest.stop();
}

fn a_record_ends_at_its_limit_and_the_guest_goes_on() {
    let mut guest = counting(Guest::new(&ENTRIES));
    guest.machine.arm(0, 2, &[]).unwrap();
    guest.machine.raise(0, Line::Nmi).unwrap();
    let record = fetch(&mut guest);
    assert_eq!(record.ended, Ended::Limit);
    assert_eq!(path(&record), offsets(address(&HANDLER), &[0, 1]));
    moves_on(&mut guest);
    assert_eq!(guest.stop().words[63], 0, "an exception");
}

// Counts in CPL 3; order 0 makes it raise a #UD, of which the return raises a #GP, as there is no such code
// segment. The return from that goes where the first was to go.
guest!(
    FAULTING_RETURN,
    "
    call rt_setup
    mov edi, 6
    lea rax, [rip + 31f]
    call rt_gate
    mov edi, 13
    lea rax, [rip + GP_HANDLER]
    call rt_gate
    lea rax, [rip + 21f]
    jmp rt_user
21: inc qword ptr [r15]
    cmp dword ptr [r15 - 60], 0
    je 21b
    mov dword ptr [r15 - 60], 0
    ud2
    jmp 21b
31: add qword ptr [rsp], 2
    mov word ptr [rsp + 8], 0xfffb
    iretq
    .globl GP_HANDLER
GP_HANDLER:
    mov rsp, qword ptr [rsp + 32]       # that of the frame that could not be returned to
    mov word ptr [rsp + 8], 0x2b
    iretq
    "
);

fn a_return_that_faults_is_recorded_and_no_entry_before_it() {
    let faulting = Began::FaultingReturn(13);
    let mut guest = counting(Guest::new(&FAULTING_RETURN));
    guest
        .machine
        .arm(0, 100, &[Began::Vector(6), faulting])
        .unwrap();
    guest.order(0, 1);
    // The #UD that comes before it was waited for as well.
    assert_eq!(fetch(&mut guest).began, Began::Vector(6));
    guest.machine.arm(0, 100, &[faulting]).unwrap();
    guest.order(0, 1);
    let record = fetch(&mut guest);
    assert_eq!((record.began, record.ended), (faulting, Ended::User));
    assert_eq!(path(&record), offsets(address(&GP_HANDLER), &[0, 5, 12]));
    assert_eq!(record.check(faulting), Ok(()));
    moves_on(&mut guest);
    // A #GP of the same vector that does not come from a return is none.
    guest.machine.arm(0, 100, &[Began::Vector(13)]).unwrap();
    guest.order(0, 1);
    moves_on(&mut guest);
    assert_eq!(guest.machine.record(0).unwrap(), None);
    guest.stop();
}

guest!(
    IN_KERNEL,
    "
    call rt_setup
    mov edi, 2
    lea rax, [rip + HANDLER]
    call rt_gate
21: inc qword ptr [r15]
    jmp 21b
    "
);

fn entries_from_the_kernel_are_not_recorded() {
    let mut guest = counting(Guest::new(&IN_KERNEL));
    guest.machine.arm(0, 100, &[]).unwrap();
    guest.machine.raise(0, Line::Nmi).unwrap();
    moves_on(&mut guest);
    assert_eq!(guest.machine.record(0).unwrap(), None);
    assert_eq!(guest.stop().report.vcpus[0].counters.nmis, 1);
}

guest!(
    LONG_NMI,
    "
    call rt_setup
    mov edi, 2
    lea rax, [rip + LONG_HANDLER]
    call rt_gate
21: inc qword ptr [r15]
    jmp 21b
LONG_HANDLER:
    push rcx
    inc qword ptr [r15 + 128]
    mov rcx, qword ptr [r15 + 128]
22: cmp dword ptr [r15 - 60], ecx
    jb 22b
    pop rcx
    iretq
    "
);

fn an_nmi_that_comes_during_another_is_no_debug_exception_of_the_guest() {
    let mut guest = counting(Guest::new(&LONG_NMI));
    // Never reached: what counts is that there is a breakpoint.
    guest.machine.watch(0, &[0xdead_0000]).unwrap();
    let begun = |machine: &ipirig_machine::Machine| {
        let slot = &machine.mailbox().cpus[1];
        slot.task
            .heartbeat
            .load(std::sync::atomic::Ordering::SeqCst)
    };
    for nmi in (1..20).step_by(2) {
        let raised = guest.machine.raise(0, Line::Nmi);
        guest.answered(raised);
        guest.until("took no NMI", |machine| begun(machine) == nmi);
        let raised = guest.machine.raise(0, Line::Nmi);
        guest.answered(raised);
        guest.order(0, u32::try_from(nmi).unwrap() + 1);
        guest.until("lost an NMI", |machine| begun(machine) == nmi + 1);
    }
    moves_on(&mut guest);
    let seen = guest.stop();
    assert_eq!((seen.words[1], seen.words[63]), (20, 0));
}
