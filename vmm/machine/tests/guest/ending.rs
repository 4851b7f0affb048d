//! How guests end, and what is said of it.
#![expect(unsafe_code, reason = "the guests' assembler text")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ipirig_machine::{AcceptedEvent, IpiEvent, Observer, StopReason, WatchEvent};

use crate::Suite;
use crate::harness::Guest;
use crate::image::{address, guest};

pub(crate) fn list(suite: &mut Suite) {
    suite.once("a_triple_fault_names_its_cpu", a_triple_fault_names_its_cpu);
    suite.once(
        "the_keyboard_controller_resets",
        the_keyboard_controller_resets,
    );
    suite.once("port_cf9_resets", port_cf9_resets);
    suite.once(
        "a_vcpu_thread_that_panics_ends_the_machine_at_once",
        a_vcpu_thread_that_panics_ends_the_machine_at_once,
    );
    suite.once(
        "a_guest_that_has_ended_is_settled_without_error",
        a_guest_that_has_ended_is_settled_without_error,
    );
    suite.once(
        "a_guest_that_hangs_can_be_stopped_and_is_described",
        a_guest_that_hangs_can_be_stopped_and_is_described,
    );
    suite.once(
        "a_panic_on_the_console_ends_a_guest_that_hangs",
        a_panic_on_the_console_ends_a_guest_that_hangs,
    );
    suite.once(
        "a_panic_is_a_better_reason_than_the_reset_after_it",
        a_panic_is_a_better_reason_than_the_reset_after_it,
    );
}

guest!(
    TRIPLE_FAULT,
    "
    call rt_setup
    call rt_apic_on
    mov r8d, 1
    lea rax, [rip + 21f]
    call rt_start_ap
    jmp rt_rest
21: push 0
    push 0
    lidt [rsp]                          # no handler for anything
    ud2
    "
);

fn a_triple_fault_names_its_cpu() {
    let mut guest = Guest::new(&TRIPLE_FAULT).cpus(2).start();
    assert_eq!(guest.ends(), StopReason::TripleFault { cpu: 1 });
}

guest!(
    SENDS_TO_ITSELF,
    "
    call rt_setup
    call rt_apic_on
    mov eax, 0x44040                    # vector 0x40, shorthand: self
    xor edx, edx
    call rt_ipi
    jmp rt_rest
    "
);

/// An observer with a bug.
#[derive(Debug)]
struct Panics;

impl Observer for Panics {
    fn ipi(&self, _: &IpiEvent) {
        panic!("this is a test");
    }

    fn accepted(&self, _: &AcceptedEvent) {}

    fn watched(&self, _: &WatchEvent) {}
}

fn a_vcpu_thread_that_panics_ends_the_machine_at_once() {
    let mut guest = Guest::new(&SENDS_TO_ITSELF)
        .cpus(2)
        .start_with(Arc::new(Panics));
    assert_eq!(guest.ends(), StopReason::Bug { cpu: 0 });
}

guest!(
    RESET_I8042,
    "
    mov al, 0xfe
    out 0x64, al
9:  jmp 9b
    "
);

fn the_keyboard_controller_resets() {
    let mut guest = Guest::new(&RESET_I8042).start();
    assert_eq!(guest.ends(), StopReason::Reset);
}

// The run is told of the end when it waits for the guest, and not by an error that says less.
fn a_guest_that_has_ended_is_settled_without_error() {
    let mut guest = Guest::new(&RESET_I8042).cpus(2).start();
    assert_eq!(guest.ends(), StopReason::Reset);
    guest.machine.settle().unwrap();
    // Once more when the vCPUs have no threads any more.
    guest.machine.stop();
    guest.machine.settle().unwrap();
    assert_eq!(guest.ends(), StopReason::Reset);
}

guest!(
    RESET_CF9,
    "
    mov dx, 0xcf9
    mov al, 0x06
    out dx, al
9:  jmp 9b
    "
);

fn port_cf9_resets() {
    let mut guest = Guest::new(&RESET_CF9).start();
    assert_eq!(guest.ends(), StopReason::Reset);
}

guest!(
    HANG,
    "
    call rt_setup
    lea rsi, [rip + 21f]
    call rt_say
    movabs rbx, 0x1234567890abcdef
    call rt_ring
    .globl HANG_HERE
HANG_HERE:
9:  jmp 9b
21: .asciz \"first line\\nsecond line\\n\"
    "
);

// SAFETY: a label of the guest above; its address is all that is used.
unsafe extern "C" {
    safe static HANG_HERE: u8;
}

fn a_guest_that_hangs_can_be_stopped_and_is_described() {
    let mut guest = Guest::new(&HANG).cpus(2).start();
    guest.rings();
    let rip = address(&HANG_HERE);
    guest.until("did not reach its loop", |machine| {
        machine.sample(0).is_some_and(|sample| sample.rip == rip)
    });
    assert_eq!(guest.machine.console_tail(1), ["second line"]);
    let reason = StopReason::Timeout {
        phase: "nothing".into(),
        seconds: 0,
    };
    let before = Instant::now();
    let report = guest.machine.report(reason.clone());
    assert!(before.elapsed() < Duration::from_secs(20));
    assert_eq!(report.reason, reason);
    assert_eq!(report.console, ["first line", "second line"]);
    let [hung, unstarted] = &report.vcpus[..] else {
        panic!("{report}");
    };
    assert_eq!(
        (hung.regs.rip, hung.regs.rbx, hung.cpl, hung.halted),
        (rip, 0x1234_5678_90ab_cdef, 0, false)
    );
    assert!(unstarted.waiting_for_startup);
    assert_eq!(hung.instruction[..2], [0xeb, 0xfe]);
    let text = report.to_string();
    for part in [
        "no progress: nothing did not end in 0 s",
        &format!("RIP {rip:#018x}"),
        "RBX 1234567890abcdef",
        "code: eb fe ",
        "vCPU 1: waits for a start-up IPI",
        "  first line\n  second line\n",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    // Stopped is stopped.
    assert_eq!(guest.machine.sample(0), None);
    assert_eq!(guest.machine.stop().len(), 2);
}

guest!(
    PANIC,
    "
    call rt_setup
    lea rsi, [rip + 21f]
    call rt_say
9:  jmp 9b
21: .asciz \"[    0.1] Kernel panic - not syncing: VFS\\n\"
    "
);

fn panic_line() -> StopReason {
    StopReason::Panic {
        line: "Kernel panic - not syncing: VFS".into(),
    }
}

fn a_panic_on_the_console_ends_a_guest_that_hangs() {
    let mut guest = Guest::new(&PANIC).start();
    assert_eq!(guest.ends(), panic_line());
    assert_eq!(guest.stop().report.reason, panic_line());
}

guest!(
    PANIC_AND_RESET,
    "
    call rt_setup
    lea rsi, [rip + 21f]
    call rt_say
    mov al, 0xfe
    out 0x64, al
9:  jmp 9b
21: .asciz \"Kernel panic - not syncing: VFS\\n\"
    "
);

fn a_panic_is_a_better_reason_than_the_reset_after_it() {
    let mut guest = Guest::new(&PANIC_AND_RESET).start();
    assert_eq!(guest.ends(), panic_line());
}
