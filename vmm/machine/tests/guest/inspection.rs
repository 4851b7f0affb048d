//! What can be seen of a guest without disturbing it, and what the guest can see of its machine.
#![expect(unsafe_code, reason = "the guests' assembler text")]

use std::thread::sleep;
use std::time::Duration;

use ipirig_machine::{ApicMode, Host};

use crate::Suite;
use crate::harness::Guest;
use crate::image::{address, guest};

pub(crate) fn list(suite: &mut Suite) {
    suite.once(
        "a_sample_of_cpl_3_is_taken_unnoticed",
        a_sample_of_cpl_3_is_taken_unnoticed,
    );
    suite.once(
        "a_sample_of_cpl_0_is_taken_unnoticed",
        a_sample_of_cpl_0_is_taken_unnoticed,
    );
    suite.once(
        "the_doorbell_rings_at_any_width_without_an_exit",
        the_doorbell_rings_at_any_width_without_an_exit,
    );
    suite.once(
        "a_guest_in_hlt_costs_next_to_nothing",
        a_guest_in_hlt_costs_next_to_nothing,
    );
    suite.once(
        "the_guests_clock_is_read_as_the_guest_reads_it",
        the_guests_clock_is_read_as_the_guest_reads_it,
    );
    suite.once(
        "a_host_is_found_the_same_twice",
        a_host_is_found_the_same_twice,
    );
    suite.both(
        "cpuid_tells_what_the_policy_allows",
        cpuid_tells_what_the_policy_allows,
    );
}

guest!(
    USER,
    "
    call rt_setup
    lea rax, [rip + USER_LOOP]
    jmp rt_user
    .globl USER_LOOP, USER_LOOP_END
USER_LOOP:
    inc qword ptr [r15]
    jmp USER_LOOP
USER_LOOP_END:
    "
);

guest!(
    KERNEL,
    "
    call rt_setup
    sti
    .globl KERNEL_LOOP, KERNEL_LOOP_END
KERNEL_LOOP:
    inc qword ptr [r15]
    jmp KERNEL_LOOP
KERNEL_LOOP_END:
    "
);

// Keeps the time in word 0, and rings when it has been asked to by order 0.
guest!(
    CLOCK,
    "
    call rt_setup
21: cmp dword ptr [r15 - 60], 0
    je 21b
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov qword ptr [r15], rax
    call rt_ring
    jmp rt_rest
    "
);

// SAFETY: labels of the guests above; their addresses are all that is used.
unsafe extern "C" {
    safe static USER_LOOP: u8;
    safe static USER_LOOP_END: u8;
    safe static KERNEL_LOOP: u8;
    safe static KERNEL_LOOP_END: u8;
}

fn the_guests_clock_is_read_as_the_guest_reads_it() {
    let mut guest = Guest::new(&CLOCK).cpus(2).start();
    let before = guest.machine.moment(0).unwrap();
    guest.order(0, 1);
    guest.rings();
    let after = guest.machine.moment(0).unwrap();
    let tsc = guest.word(0);
    assert!(
        before.tsc < tsc && tsc < after.tsc && before.time_ns < after.time_ns,
        "{before:?} {tsc} {after:?}"
    );
    // The other vCPU's counter began with this one's.
    let other = guest.machine.moment(1).unwrap();
    let ticks_a_ns = (after.tsc - before.tsc) as f64 / (after.time_ns - before.time_ns) as f64;
    let elapsed = (other.time_ns - after.time_ns) as f64;
    let apart = (other.tsc - after.tsc) as f64 / ticks_a_ns - elapsed;
    assert!(apart.abs() < 1e6, "{apart} ns apart");
    assert!(guest.machine.moment(2).is_err());
}

/// Samples a guest that counts in a loop, where any exception or interrupt ends it.
fn sampled(entry: &'static u8, code: std::ops::Range<u64>, cpl: u8) {
    let mut guest = Guest::new(entry).start();
    let count = |machine: &ipirig_machine::Machine| {
        let slot = &machine.mailbox().cpus[0];
        slot.task
            .heartbeat
            .load(std::sync::atomic::Ordering::SeqCst)
    };
    for _ in 0..20 {
        let before = guest.word(0);
        guest.until("stopped counting", |machine| count(machine) > before);
        let sample = guest.machine.sample(0).unwrap();
        assert!(code.contains(&sample.rip), "{:#x}", sample.rip);
        assert_eq!(
            (sample.cpl, sample.parked, sample.cr3),
            (cpl, false, 0x9000)
        );
    }
    let before = guest.word(0);
    guest.until("stopped counting", |machine| count(machine) > before);
    let seen = guest.stop();
    assert_eq!(seen.words[63], 0, "an exception");
    assert!(seen.accepted.is_empty());
    let vcpu = &seen.report.vcpus[0];
    assert_eq!((vcpu.cpl, vcpu.counters.injected), (cpl, 0));
    assert!(vcpu.counters.kicks >= 20, "{:?}", vcpu.counters);
}

fn a_sample_of_cpl_3_is_taken_unnoticed() {
    sampled(&USER, address(&USER_LOOP)..address(&USER_LOOP_END), 3);
}

fn a_sample_of_cpl_0_is_taken_unnoticed() {
    sampled(&KERNEL, address(&KERNEL_LOOP)..address(&KERNEL_LOOP_END), 0);
}

guest!(
    DOORBELL,
    "
    call rt_setup
    mov dx, 0x510
    out dx, al
21: cmp dword ptr [r15 - 60], 0
    je 21b
    mov dx, 0x510
    out dx, ax
2:  cmp dword ptr [r15 - 60 + 128], 0
    je 2b
    mov dx, 0x510
    out dx, eax
    jmp rt_rest
    "
);

fn the_doorbell_rings_at_any_width_without_an_exit() {
    let mut guest = Guest::new(&DOORBELL).start();
    guest.rings();
    guest.order(0, 1);
    guest.rings();
    guest.order(1, 1);
    guest.rings();
    assert_eq!(guest.stop().report.vcpus[0].counters.io, 0);
}

guest!(
    IDLE,
    "
    call rt_setup
    call rt_apic_on
    call rt_ring
    sti
21: hlt
    inc qword ptr [r15]
    jmp 21b
    "
);

fn a_guest_in_hlt_costs_next_to_nothing() {
    let mut guest = Guest::new(&IDLE).start();
    guest.rings();
    // Long enough for a busy wait to show in the counters.
    sleep(Duration::from_millis(300));
    let seen = guest.stop();
    assert_eq!(seen.words[0], 0, "nothing woke it");
    let counters = &seen.report.vcpus[0].counters;
    assert_eq!(counters.halts, 1);
    assert!(counters.parks <= 10 && counters.turns <= 40, "{counters:?}");
}

fn a_host_is_found_the_same_twice() {
    let [first, second] = [(); 2].map(|()| Host::probe().unwrap());
    // All but how fast it was at that moment.
    let facts = |host: &Host| {
        let facts = format!("{:?}", host.facts());
        match facts.split_once("is emulated: ") {
            Some((before, after)) => {
                before.to_owned()
                    + after.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.')
            }
            None => facts,
        }
    };
    assert_eq!(facts(&first), facts(&second));
    for vcpus in [3, 5] {
        assert_eq!(first.cmdline(vcpus), second.cmdline(vcpus));
    }
    assert_eq!(first.facts().api_version, 12);
    assert!(!first.facts().cores.is_empty());
    for probe in &first.facts().probes {
        assert!(
            !probe.finding.is_empty() && !probe.finding.contains("in time"),
            "{probe:?}"
        );
    }
}

// CPU 1 leaves what it reads of each leaf in words 0 to 11.
guest!(
    CPUID,
    "
    call rt_setup
    call rt_apic_on
    mov r8d, 1
    lea rax, [rip + 21f]
    call rt_start_ap
    jmp rt_rest
21: mov eax, 1
    xor ecx, ecx
    cpuid
    mov qword ptr [r15], rbx
    mov qword ptr [r15 + 1 * 128], rcx
    mov qword ptr [r15 + 2 * 128], rdx
    mov eax, 0x40000000
    cpuid
    mov qword ptr [r15 + 3 * 128], rax
    mov qword ptr [r15 + 4 * 128], rbx
    mov eax, 0x40000001
    cpuid
    mov qword ptr [r15 + 5 * 128], rax
    mov qword ptr [r15 + 6 * 128], rdx
    mov eax, 0x0b
    mov ecx, 1
    cpuid
    mov qword ptr [r15 + 7 * 128], rbx
    mov qword ptr [r15 + 8 * 128], rdx
    mov ecx, 2                          # the APIC's own id
    call rt_read
    mov qword ptr [r15 + 9 * 128], rax
    mov qword ptr [r15 + 10 * 128], r14
    call rt_ring
    jmp rt_rest
    "
);

fn cpuid_tells_what_the_policy_allows(apic: ApicMode) {
    let mut guest = Guest::new(&CPUID).cpus(3).apic(apic).start();
    guest.rings();
    let words = guest.stop().words;
    let x2apic = apic == ApicMode::X2apic;
    let bit = |word: usize, bit: u32| words[word] >> bit & 1 == 1;
    assert_eq!(words[0] >> 16, 0x0103, "APIC id and number of CPUs");
    assert_eq!(
        [
            ("x2APIC", bit(1, 21)),
            ("hypervisor", bit(1, 31)),
            ("MONITOR", bit(1, 3)),
            ("VMX", bit(1, 5)),
            ("APIC", bit(2, 9)),
        ],
        [
            ("x2APIC", x2apic),
            ("hypervisor", true),
            ("MONITOR", false),
            ("VMX", false),
            ("APIC", true),
        ]
    );
    assert_eq!(
        words[3..5],
        [0x4000_0001, u64::from(u32::from_le_bytes(*b"KVMK"))]
    );
    // NOP_IO_DELAY, CLOCKSOURCE2 and CLOCKSOURCE_STABLE, as far as this host has them.
    assert_eq!(
        words[5] & !(1 << 1 | 1 << 3 | 1 << 24),
        0,
        "{:#x}",
        words[5]
    );
    assert_eq!(words[6], 0, "hints");
    assert_eq!(words[7..9], [3, 1], "leaf 0xb: CPUs, and this one's id");
    assert_eq!(words[9], if x2apic { 1 } else { 1 << 24 });
    assert_eq!(words[10], u64::from(x2apic));
}
