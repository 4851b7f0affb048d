//! The timer through its registers.

use crate::machine::{Machine, reg};
use ipirig_apic::{Action, MIN_TIMER_PERIOD_NS, Work};

const PERIODIC: u32 = 1 << 17;
const MASKED: u32 = 1 << 16;

fn fired() -> Work {
    Work {
        interrupt: Some(0xec),
        ..Work::default()
    }
}

/// One running CPU with its timer's LVT set, at one count a nanosecond, and a count written at 100.
fn started(lvt: u32, count: u32) -> Machine {
    let mut machine = Machine::xapic(1);
    machine.now = 100;
    machine.write(0, reg::LVT_TIMER, lvt);
    machine.write(0, reg::DIVIDE, 0b1011);
    machine.write(0, reg::INITIAL_COUNT, count);
    machine
}

#[test]
fn one_shot_fires_at_its_time_and_not_before() {
    let mut machine = started(0xec, 5000);
    assert_eq!(machine.cpus[0].timer_deadline(), Some(5100));
    assert_eq!(machine.cpus[0].poll(5099), Work::default());
    assert_eq!(machine.cpus[0].poll(5100), fired());
    assert_eq!(machine.cpus[0].timer_deadline(), None);
    machine.now = 6000;
    assert_eq!(machine.take_interrupt(0), Some(0xec));
    machine.write(0, reg::EOI, 0);
    machine.now = 1_000_000;
    assert_eq!(machine.take_interrupt(0), None);
}

#[test]
fn the_current_count_runs_down_at_the_divided_clock() {
    let mut machine = started(MASKED, 0);
    machine.write(0, reg::DIVIDE, 0b0011); // By 16.
    machine.write(0, reg::INITIAL_COUNT, 1000);
    let counts: Vec<u32> = [100, 116, 117, 8100, 16_099, 16_100, 99_999]
        .map(|now| {
            machine.now = now;
            machine.read(0, reg::CURRENT_COUNT)
        })
        .into();
    assert_eq!(counts, [1000, 999, 999, 500, 1, 0, 0]);
    assert_eq!(machine.read(0, reg::INITIAL_COUNT), 1000);
}

#[test]
fn periodic_keeps_phase_and_builds_no_backlog() {
    let mut machine = started(PERIODIC | 0xec, 1_000_000);
    machine.now = 1_000_100;
    assert_eq!(machine.take_interrupt(0), Some(0xec));
    machine.write(0, reg::EOI, 0);
    // Three and a half periods nobody looked: one interrupt, and the next is in phase.
    machine.now = 4_500_000;
    assert_eq!(machine.take_interrupt(0), Some(0xec));
    machine.write(0, reg::EOI, 0);
    assert_eq!(machine.take_interrupt(0), None);
    assert_eq!(machine.cpus[0].timer_deadline(), Some(5_000_100));
}

#[test]
fn a_tiny_period_is_stretched_to_the_lower_bound() {
    let mut machine = started(PERIODIC | 0xec, 1);
    let deadlines: Vec<Option<u64>> = (1..=3)
        .map(|_| {
            machine.now = machine.cpus[0].timer_deadline().unwrap();
            assert_eq!(machine.cpus[0].poll(machine.now), fired());
            machine.cpus[0].timer_deadline()
        })
        .collect();
    let expected = [2, 3, 4].map(|periods| Some(100 + periods * MIN_TIMER_PERIOD_NS));
    assert_eq!(deadlines, expected);
}

#[test]
fn a_masked_timer_counts_without_interrupting_and_wants_no_wake_up() {
    let mut machine = started(MASKED | 0xec, 5000);
    assert_eq!(machine.cpus[0].timer_deadline(), None);
    machine.now = 3100;
    assert_eq!(machine.read(0, reg::CURRENT_COUNT), 2000);
    assert_eq!(machine.cpus[0].poll(9999), Work::default());
    machine.now = 9999;
    machine.write(0, reg::LVT_TIMER, 0xec);
    assert_eq!(machine.cpus[0].poll(9999), Work::default());
}

#[test]
fn masking_does_not_take_back_a_pending_interrupt() {
    let mut machine = started(0xec, 5000);
    machine.now = 5100;
    machine.write(0, reg::LVT_TIMER, MASKED | 0xec);
    assert_eq!(machine.cpus[0].poll(5100), fired());
}

#[test]
fn a_zero_count_stops_the_timer() {
    let mut machine = started(PERIODIC | 0xec, 1_000_000);
    machine.write(0, reg::INITIAL_COUNT, 0);
    assert_eq!(machine.cpus[0].timer_deadline(), None);
    assert_eq!(machine.cpus[0].poll(u64::MAX), Work::default());
}

#[test]
fn a_running_count_changes_between_one_shot_and_periodic() {
    let mut machine = started(0xec, 1_000_000);
    machine.now = 500_100;
    machine.write(0, reg::LVT_TIMER, PERIODIC | 0xec);
    assert_eq!(machine.read(0, reg::CURRENT_COUNT), 500_000);
    assert_eq!(machine.cpus[0].poll(1_000_100), fired());
    assert_eq!(machine.cpus[0].timer_deadline(), Some(2_000_100));
    machine.now = 1_500_100;
    machine.write(0, reg::LVT_TIMER, 0xec);
    assert_eq!(machine.cpus[0].timer_deadline(), Some(2_000_100));
    machine.now = 2_000_100;
    assert_eq!(machine.read(0, reg::CURRENT_COUNT), 0);
    assert_eq!(machine.cpus[0].timer_deadline(), None);
}

#[test]
fn an_illegal_timer_vector_is_an_error_and_no_interrupt() {
    let mut machine = started(0x0f, 1);
    machine.now = 101;
    assert_eq!(machine.cpus[0].poll(101), Work::default());
    machine.write(0, reg::ESR, 0);
    assert_eq!(machine.read(0, reg::ESR), 1 << 6);
}

#[test]
fn a_clock_that_steps_back_is_harmless() {
    let mut machine = started(PERIODIC | 0xec, 1_000_000);
    assert_eq!(machine.cpus[0].poll(0), Work::default());
    machine.now = 0;
    assert_eq!(machine.read(0, reg::CURRENT_COUNT), 1_000_000);
    assert_eq!(machine.cpus[0].timer_deadline(), Some(1_000_100));
}

#[test]
fn the_tsc_deadline_mode_exists_only_where_it_is_offered() {
    const TSC_DEADLINE: u64 = 1 << 18;
    let mut machine = Machine::x2apic(1);
    let apic = &mut machine.cpus[0];
    assert!(apic.msr_write(0x832, TSC_DEADLINE | 0x40, 0).is_err());
    apic.offer_tsc_deadline();
    assert_eq!(
        apic.msr_write(0x832, TSC_DEADLINE | 0x40, 0),
        Ok(Action::None)
    );
    assert_eq!(apic.msr_read(0x832, 0), Ok(TSC_DEADLINE | 0x40));
}

#[test]
fn a_tsc_deadline_fires_once_and_then_reads_zero() {
    let mut machine = Machine::x2apic(1);
    let apic = &mut machine.cpus[0];
    apic.offer_tsc_deadline();
    apic.set_tsc_deadline(5000, 2000, 0);
    assert_eq!(
        (apic.tsc_deadline(0), apic.timer_deadline()),
        (0, None),
        "not in the mode yet"
    );
    assert_eq!(apic.msr_write(0x832, 1 << 18 | 0x40, 0), Ok(Action::None));
    apic.set_tsc_deadline(5000, 2000, 0);
    // Neither count nor divider matter now.
    assert_eq!(apic.msr_write(0x838, 7, 0), Ok(Action::None));
    assert_eq!(apic.msr_write(0x83e, 0b1011, 0), Ok(Action::None));
    assert_eq!(
        (apic.tsc_deadline(1999), apic.timer_deadline()),
        (5000, Some(2000))
    );
    assert_eq!(apic.poll(1999).interrupt, None);
    assert_eq!(apic.poll(2000).interrupt, Some(0x40));
    assert_eq!((apic.tsc_deadline(2000), apic.timer_deadline()), (0, None));
}

#[test]
fn zero_or_a_switch_of_mode_disarms_a_tsc_deadline() {
    let mut machine = Machine::x2apic(1);
    let apic = &mut machine.cpus[0];
    apic.offer_tsc_deadline();
    assert_eq!(apic.msr_write(0x832, 1 << 18 | 0x40, 0), Ok(Action::None));
    apic.set_tsc_deadline(5000, 2000, 0);
    apic.set_tsc_deadline(0, 0, 0);
    assert_eq!(apic.timer_deadline(), None);
    apic.set_tsc_deadline(5000, 2000, 0);
    assert_eq!(apic.msr_write(0x832, 0x40, 0), Ok(Action::None));
    assert_eq!(
        (apic.timer_deadline(), apic.poll(9000).interrupt),
        (None, None)
    );
}

#[test]
fn a_tsc_deadline_that_passed_unseen_is_not_overwritten() {
    let mut machine = Machine::x2apic(1);
    let apic = &mut machine.cpus[0];
    apic.offer_tsc_deadline();
    assert_eq!(apic.msr_write(0x832, 1 << 18 | 0x40, 0), Ok(Action::None));
    apic.set_tsc_deadline(5000, 2000, 0);
    apic.set_tsc_deadline(9000, 4000, 2500);
    assert_eq!(apic.poll(2500).interrupt, Some(0x40));
    assert_eq!(apic.timer_deadline(), Some(4000));
}
