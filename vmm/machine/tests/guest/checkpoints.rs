//! Guests that are put back to a checkpoint, again and again.
#![expect(unsafe_code, reason = "the guests' assembler text")]

use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use ipirig_machine::{ApicMode, Beginning, Follow, Machine};

use crate::Suite;
use crate::harness::{Guest, ipi};
use crate::image::guest;

pub(crate) fn list(suite: &mut Suite) {
    suite.both(
        "a_rewound_guest_is_as_it_was_on_all_its_vcpus",
        a_rewound_guest_is_as_it_was_on_all_its_vcpus,
    );
    suite.tsc(
        "a_rewound_guest_has_the_time_that_it_had",
        a_rewound_guest_has_the_time_that_it_had,
    );
    suite.once(
        "a_guest_is_rewound_a_hundred_times",
        a_guest_is_rewound_a_hundred_times,
    );
    suite.once(
        "one_vcpu_goes_on_alone_until_the_others_are_let_go",
        one_vcpu_goes_on_alone_until_the_others_are_let_go,
    );
}

// CPU 1 waits in HLT and counts IPIs in word 0. CPU 0 counts in memory (0x70000) and in word 1. An order
// it adds to memory (0x71000) and to RBX, sends CPU 1 an IPI, and when that has come it tells both sums.
guest!(
    COUNTERS,
    "
    call rt_setup
    call rt_apic_on
    mov edi, 0x60
    lea rax, [rip + rt_handler]
    call rt_gate
    mov r8d, 1
    lea rax, [rip + 5f]
    call rt_start_ap
1:  cmp qword ptr [r15 + 4 * 128], 0
    je 1b
    xor ebx, ebx
    mov qword ptr [0x70000], 0
    mov qword ptr [0x71000], 0
2:  inc qword ptr [0x70000]
    mov rax, qword ptr [0x70000]
    mov qword ptr [r15 + 128], rax
    mov eax, dword ptr [r15 - 60 + 2 * 128]
    test eax, eax
    jz 2b
    mov dword ptr [r15 - 60 + 2 * 128], 0
    add qword ptr [0x71000], rax
    add rbx, rax
    mov edx, 1
    mov eax, 0x4060
    call rt_ipi
3:  cmp qword ptr [r15], 0
    je 3b
    mov rax, qword ptr [0x71000]
    mov qword ptr [r15 + 2 * 128], rax
    mov qword ptr [r15 + 3 * 128], rbx
    call rt_ring
    jmp 2b
5:  inc qword ptr [r15 + 4 * 128]
    sti
6:  hlt
    jmp 6b
    "
);

/// Whether CPU 0 counts, and CPU 1 has come to rest.
fn counts(machine: &Machine) -> bool {
    let counted = &machine.mailbox().cpus[1].task.heartbeat;
    counted.load(Ordering::SeqCst) > 0 && machine.sample(1).is_some_and(|sample| sample.parked)
}

fn a_rewound_guest_is_as_it_was_on_all_its_vcpus(apic: ApicMode) {
    let mut guest = Guest::new(&COUNTERS).cpus(2).apic(apic).start();
    guest.until("did not count", counts);
    let checkpoint = guest.machine.checkpoint().unwrap();
    for order in [7, 9] {
        guest.order(2, order);
        guest.rings();
        let told = [0, 2, 3].map(|word| guest.word(word));
        assert_eq!(told, [1, u64::from(order), u64::from(order)]);
        assert!(guest.word(1) > 0);
        let dirty = guest.machine.rewind(&checkpoint).unwrap();
        assert!((2..64).contains(&dirty), "{dirty} pages");
        assert_eq!([0, 2, 3].map(|word| guest.word(word)), [0; 3]);
    }
    // After INIT and the start-up IPI.
    assert_eq!(guest.stop().taken(1)[2..], [ipi(0x60), ipi(0x60)]);
}

fn a_rewound_guest_has_the_time_that_it_had() {
    let mut guest = Guest::new(&COUNTERS).cpus(2).start();
    guest.until("did not count", counts);
    let tsc = |guest: &crate::harness::Running, cpu| guest.machine.moment(cpu).unwrap().tsc;
    let checkpoint = guest.machine.checkpoint().unwrap();
    // A host may be busy for as long as the guest was left running.
    let earlier = (0..20).any(|_| {
        sleep(Duration::from_millis(100));
        let before = [0, 1].map(|cpu| tsc(&guest, cpu));
        guest.machine.rewind(&checkpoint).unwrap();
        let after = [0, 1].map(|cpu| tsc(&guest, cpu));
        after[0] < before[0] && after[1] < before[1]
    });
    assert!(earlier);
}

fn a_guest_is_rewound_a_hundred_times() {
    let mut guest = Guest::new(&COUNTERS).cpus(2).start();
    guest.until("did not count", counts);
    let checkpoint = guest.machine.checkpoint().unwrap();
    for order in 1..=100 {
        guest.order(2, order);
        guest.rings();
        assert_eq!([2, 3].map(|word| guest.word(word)), [u64::from(order); 2]);
        guest.machine.rewind(&checkpoint).unwrap();
    }
}

fn one_vcpu_goes_on_alone_until_the_others_are_let_go() {
    let mut guest = Guest::new(&COUNTERS).cpus(2).start();
    guest.until("did not count", counts);
    let checkpoint = guest.machine.checkpoint().unwrap();
    let counted = |machine: &Machine| {
        let counted = &machine.mailbox().cpus[1].task.heartbeat;
        counted.load(Ordering::SeqCst)
    };
    for order in [7, 9] {
        let beginning = Beginning {
            cpu: 0,
            follow: Follow::Nothing,
            raise: None,
        };
        let still = guest
            .machine
            .rewind_alone(&checkpoint, beginning, |_| {})
            .unwrap();
        let before = counted(&guest.machine);
        guest.until("does not count alone", |machine| counted(machine) > before);
        // CPU 0 sends the IPI and waits for CPU 1.
        guest.order(2, order);
        sleep(Duration::from_millis(50));
        assert_eq!([0, 2, 3].map(|word| guest.word(word)), [0; 3]);
        drop(still.expect("nothing was to be raised"));
        guest.rings();
        let told = [0, 2, 3].map(|word| guest.word(word));
        assert_eq!(told, [1, u64::from(order), u64::from(order)]);
    }
    // CPU 1, which is in HLT, takes nothing from CPU 0; CPU 0 does not count while it stands still.
    let still = guest.machine.still(1).unwrap();
    let before = counted(&guest.machine);
    sleep(Duration::from_millis(50));
    assert_eq!(counted(&guest.machine), before);
    drop(still);
    guest.until("does not go on", |machine| counted(machine) > before);
}
