//! The registers through both faces: initial values, reserved bits, permissions, errors.

use crate::machine::{Machine, msr, reg};
use ipirig_apic::{
    Accepted, AcceptedKind, Action, Bus, GeneralProtection, LocalApic, Origin, SetupError,
};
use std::sync::Arc;

#[test]
fn registers_after_power_up_are_as_the_sdm_lists_them() {
    let mut machine = Machine::power_up(2);
    let registers: Vec<u32> = [
        reg::ID,
        reg::VERSION,
        reg::TPR,
        reg::PPR,
        reg::LDR,
        reg::DFR,
        reg::SVR,
        reg::ISR,
        reg::TMR,
        reg::IRR,
        reg::ESR,
        reg::ICR,
        reg::ICR_HIGH,
        reg::LVT_TIMER,
        reg::LVT_LINT0,
        reg::LVT_ERROR,
        reg::INITIAL_COUNT,
        reg::CURRENT_COUNT,
        reg::DIVIDE,
    ]
    .map(|offset| machine.read(1, offset))
    .into();
    let masked = 0x1_0000;
    assert_eq!(
        registers,
        [
            0x0100_0000,
            0x5_0014,
            0,
            0,
            0,
            u32::MAX,
            0xff,
            0,
            0,
            0,
            0,
            0,
            0,
            masked,
            masked,
            masked,
            0,
            0,
            0
        ]
    );
    assert_eq!(
        [0, 1].map(|cpu| machine.cpus[cpu].apic_base()),
        [0xfee0_0900, 0xfee0_0800]
    );
    assert_eq!(
        [0, 1].map(|cpu| machine.cpus[cpu].waiting_for_startup()),
        [false, true]
    );
}

#[test]
fn xapic_keeps_writable_bits_only() {
    let mut machine = Machine::xapic(1);
    let mut after_all_ones = |offset| {
        machine.write(0, offset, u32::MAX);
        machine.read(0, offset)
    };
    assert_eq!(after_all_ones(reg::TPR), 0xff);
    assert_eq!(after_all_ones(reg::LDR), 0xff00_0000);
    assert_eq!(after_all_ones(reg::SVR), 0x3ff);
    assert_eq!(after_all_ones(reg::LVT_TIMER), 0x3_00ff);
    assert_eq!(after_all_ones(0x330), 0x1_07ff);
    assert_eq!(after_all_ones(0x340), 0x1_07ff);
    assert_eq!(after_all_ones(reg::LVT_LINT0), 0x1_a7ff);
    assert_eq!(after_all_ones(reg::LVT_ERROR), 0x1_00ff);
    assert_eq!(after_all_ones(reg::DIVIDE), 0b1011);
    machine.write(0, reg::DFR, 0);
    assert_eq!(machine.read(0, reg::DFR), 0x0fff_ffff);
}

#[test]
fn the_lvt_stays_masked_while_software_keeps_the_apic_disabled() {
    let mut machine = Machine::xapic(1);
    machine.write(0, reg::LVT_LINT0, 0x700);
    machine.write(0, reg::SVR, 0xff);
    assert_eq!(machine.read(0, reg::LVT_LINT0), 0x1_0700);
    machine.write(0, reg::LVT_TIMER, 0xec);
    assert_eq!(machine.read(0, reg::LVT_TIMER), 0x1_00ec);
    machine.write(0, reg::SVR, 0x1ff);
    assert_eq!(machine.read(0, reg::LVT_LINT0), 0x1_0700);
}

#[test]
fn errors_show_in_the_esr_after_a_write_to_it() {
    let mut machine = Machine::xapic(1);
    machine.ipi(0, 0x400f, 0);
    assert_eq!(machine.read(0, reg::ESR), 0);
    machine.write(0, reg::ESR, 0);
    assert_eq!(machine.read(0, reg::ESR), 1 << 5);
    machine.write(0, reg::ESR, 0xffff_ffff);
    assert_eq!(machine.read(0, reg::ESR), 0);
}

#[test]
fn reserved_and_read_only_registers_log_an_illegal_address() {
    let mut machine = Machine::xapic(1);
    let mut error_after = |access: &dyn Fn(&mut Machine)| {
        access(&mut machine);
        machine.write(0, reg::ESR, 0);
        machine.read(0, reg::ESR)
    };
    let illegal = 1 << 7;
    assert_eq!(error_after(&|m| m.write(0, reg::VERSION, 0)), illegal);
    assert_eq!(error_after(&|m| m.write(0, reg::IRR, 0xffff_ffff)), illegal);
    assert_eq!(error_after(&|m| m.write(0, 0x3f0, 0x40)), illegal);
    assert_eq!(error_after(&|m| m.write(0, 0x84, 0x40)), illegal);
    assert_eq!(error_after(&|m| m.write(0, 0xfff0, 0)), illegal);
    assert_eq!(error_after(&|m| assert_eq!(m.read(0, 0x40), 0)), illegal);
    assert_eq!(error_after(&|m| assert_eq!(m.read(0, reg::EOI), 0)), 0);
    assert_eq!(machine.read(0, reg::TPR), 0);
    assert_eq!(machine.read(0, reg::IRR), 0);
}

#[test]
fn the_error_interrupt_comes_once_until_the_esr_is_written() {
    let mut machine = Machine::xapic(1);
    machine.write(0, reg::LVT_ERROR, 0xfe);
    machine.write(0, reg::VERSION, 0);
    assert_eq!(machine.take_interrupt(0), Some(0xfe));
    machine.write(0, reg::EOI, 0);
    machine.write(0, reg::VERSION, 0);
    assert_eq!(machine.take_interrupt(0), None);
    machine.write(0, reg::ESR, 0);
    machine.write(0, reg::VERSION, 0);
    assert_eq!(machine.take_interrupt(0), Some(0xfe));
    let kind = AcceptedKind::Fixed(0xfe);
    let error = Accepted {
        kind,
        origin: Origin::Lvt,
        merged: false,
    };
    assert_eq!(*machine.ledger.accepted.borrow(), [(0, error), (0, error)]);
}

#[test]
fn an_illegal_vector_for_the_error_interrupt_is_an_error_and_no_more() {
    let mut machine = Machine::xapic(1);
    machine.write(0, reg::LVT_ERROR, 0x0f);
    machine.write(0, reg::VERSION, 0);
    assert_eq!(machine.take_interrupt(0), None);
    machine.write(0, reg::ESR, 0);
    assert_eq!(machine.read(0, reg::ESR), 1 << 7 | 1 << 6);
}

#[test]
fn an_illegal_self_ipi_counts_as_received() {
    let mut machine = Machine::x2apic(1);
    let action = machine.cpus[0]
        .msr_write(msr(reg::SELF_IPI), 0x0f, 0)
        .unwrap();
    assert!(machine.carry_out(0, action).ipi.undeliverable);
    assert_eq!(
        machine.cpus[0].msr_write(msr(reg::ESR), 0, 0),
        Ok(Action::None)
    );
    assert_eq!(machine.cpus[0].msr_read(msr(reg::ESR), 0), Ok(1 << 6));
}

#[test]
fn x2apic_has_exactly_the_registers_of_the_sdm() {
    let mut machine = Machine::x2apic(1);
    let apic = &mut machine.cpus[0];
    let (mut readable, mut writable) = (Vec::new(), Vec::new());
    for msr in 0x800..=0x8ff {
        match apic.msr_read(msr, 0) {
            Ok(_) => readable.push(msr - 0x800),
            Err(GeneralProtection::WriteOnly { .. }) => {}
            Err(error) => assert_eq!(error, GeneralProtection::NoSuchRegister { msr }),
        }
        match apic.msr_write(msr, 0, 0) {
            Ok(_) => writable.push(msr - 0x800),
            Err(GeneralProtection::ReadOnly { .. }) => {}
            Err(error) => assert_eq!(error, GeneralProtection::NoSuchRegister { msr }),
        }
    }
    let mut expected = vec![0x02, 0x03, 0x08, 0x0a, 0x0d, 0x0f];
    expected.extend(0x10..=0x28);
    expected.extend([0x30, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3e]);
    assert_eq!(readable, expected);
    assert_eq!(
        writable,
        [
            0x08, 0x0b, 0x0f, 0x28, 0x30, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x3e, 0x3f
        ]
    );
}

#[test]
fn x2apic_refuses_reserved_bits_and_changes_nothing() {
    let mut machine = Machine::x2apic(1);
    let apic = &mut machine.cpus[0];
    let mut reserved = |offset: u16, value: u64| match apic.msr_write(msr(offset), value, 0) {
        Err(GeneralProtection::ReservedBits { bits, .. }) => bits,
        other => panic!("{other:?}"),
    };
    assert_eq!(reserved(reg::TPR, 0x1ff), 0x100);
    assert_eq!(reserved(reg::EOI, 1), 1);
    assert_eq!(reserved(reg::ESR, 0x80), 0x80);
    assert_eq!(reserved(reg::SVR, 0x13ff), 0x1000);
    assert_eq!(reserved(reg::SVR, 1 << 32), 1 << 32);
    assert_eq!(reserved(reg::ICR, 0xffff_ffff), 0xfff3_2000);
    assert_eq!(reserved(reg::LVT_TIMER, 0x4_00ec), 0x4_0000);
    assert_eq!(reserved(reg::LVT_ERROR, 0x4fe), 0x400);
    assert_eq!(reserved(reg::DIVIDE, 0xf), 0x4);
    assert_eq!(reserved(reg::INITIAL_COUNT, 1 << 40), 1 << 40);
    assert_eq!(reserved(reg::SELF_IPI, 0x1f6), 0x100);
    assert_eq!(apic.msr_read(msr(reg::TPR), 0), Ok(0));
    assert_eq!(apic.msr_read(msr(reg::SVR), 0), Ok(0x1ff));
    assert_eq!(apic.msr_read(msr(reg::ICR), 0), Ok(0));
}

#[test]
fn status_bits_may_be_written_and_do_not_stick() {
    let mut machine = Machine::x2apic(1);
    let apic = &mut machine.cpus[0];
    assert_eq!(
        apic.msr_write(msr(reg::LVT_LINT0), 0x5700, 0),
        Ok(Action::None)
    );
    assert_eq!(apic.msr_read(msr(reg::LVT_LINT0), 0), Ok(0x700));
}

#[test]
fn the_faces_show_one_state() {
    let mut machine = Machine::xapic(18);
    machine.write(17, reg::TPR, 0x10);
    machine.write(17, reg::LVT_TIMER, 0x2_00ec);
    machine.ipi(0, 0x4055, 17);
    machine.take_interrupt(17);
    machine.ipi(0, 0x4056, 17);
    let by_mmio: Vec<u32> = [reg::TPR, reg::PPR, 0x120, 0x220, reg::LVT_TIMER, reg::SVR]
        .map(|offset| machine.read(17, offset))
        .into();
    machine.cpus[17].set_apic_base(0xfee0_0c00).unwrap();
    let by_msr: Vec<u64> = [reg::TPR, reg::PPR, 0x120, 0x220, reg::LVT_TIMER, reg::SVR]
        .map(|offset| machine.cpus[17].msr_read(msr(offset), 0).unwrap())
        .into();
    assert_eq!(by_mmio, [0x10, 0x50, 1 << 21, 1 << 22, 0x2_00ec, 0x1ff]);
    assert_eq!(by_msr, [0x10, 0x50, 1 << 21, 1 << 22, 0x2_00ec, 0x1ff]);
    // The id and the logical id are the x2APIC's own.
    assert_eq!(machine.cpus[17].msr_read(msr(reg::ID), 0), Ok(17));
    assert_eq!(machine.cpus[17].msr_read(msr(reg::LDR), 0), Ok(0x0001_0002));
}

#[test]
fn a_bus_joins_1_to_64_cpus_with_one_apic_each() {
    assert_eq!(Bus::new(0).err(), Some(SetupError::CpuCount { cpus: 0 }));
    assert_eq!(Bus::new(65).err(), Some(SetupError::CpuCount { cpus: 65 }));
    let bus = Bus::new(64).unwrap();
    let apic = |cpu| LocalApic::new(Arc::clone(&bus), cpu, true);
    assert_eq!(
        apic(64).err(),
        Some(SetupError::NoSuchCpu { cpu: 64, cpus: 64 })
    );
    assert_eq!(apic(63).map(|apic| apic.cpu()).ok(), Some(63));
    assert_eq!(apic(63).err(), Some(SetupError::Taken { cpu: 63 }));
}
