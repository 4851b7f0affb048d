//! Switches of mode through IA32_APIC_BASE.

use crate::machine::{ENABLE, EXTD, Machine, msr, reg};
use ipirig_apic::{
    APIC_BASE_ADDRESS as BASE, Bus, CpuSet, GeneralProtection, LocalApic, Mode, Work,
};

#[test]
fn only_one_face_works_at_a_time() {
    let mut machine = Machine::xapic(1);
    let tpr = msr(reg::TPR);
    let refused = |mode| GeneralProtection::NotX2Apic { msr: tpr, mode };
    let apic = &mut machine.cpus[0];
    assert_eq!(apic.msr_read(tpr, 0), Err(refused(Mode::XApic)));
    assert_eq!(apic.msr_write(tpr, 0, 0), Err(refused(Mode::XApic)));
    apic.set_apic_base(BASE | ENABLE | EXTD).unwrap();
    machine.write(0, reg::TPR, 0x40);
    assert_eq!(machine.read(0, reg::TPR), u32::MAX);
    assert_eq!(machine.cpus[0].msr_read(tpr, 0), Ok(0));
    machine.cpus[0].set_apic_base(BASE).unwrap();
    assert_eq!(
        machine.cpus[0].msr_read(tpr, 0),
        Err(refused(Mode::Disabled))
    );
    assert_eq!(machine.read(0, reg::TPR), u32::MAX);
}

#[test]
fn illegal_switches_are_refused_and_legal_ones_go_round() {
    let mut machine = Machine::xapic(1);
    let apic = &mut machine.cpus[0];
    let illegal = |from, to| Err(GeneralProtection::IllegalSwitch { from, to });
    assert_eq!(apic.set_apic_base(BASE | ENABLE | EXTD), Ok(()));
    assert_eq!(
        apic.set_apic_base(BASE | ENABLE),
        illegal(Mode::X2Apic, Mode::XApic)
    );
    assert_eq!(
        apic.set_apic_base(BASE | EXTD),
        Err(GeneralProtection::InvalidMode)
    );
    assert_eq!(apic.set_apic_base(BASE), Ok(()));
    assert_eq!(
        apic.set_apic_base(BASE | ENABLE | EXTD),
        illegal(Mode::Disabled, Mode::X2Apic)
    );
    assert_eq!(apic.set_apic_base(BASE | ENABLE), Ok(()));
    assert_eq!(apic.mode(), Mode::XApic);
}

#[test]
fn without_x2apic_its_bit_is_reserved() {
    let mut apic = LocalApic::new(Bus::new(1).unwrap(), 0, false).unwrap();
    assert_eq!(
        apic.set_apic_base(BASE | ENABLE | EXTD),
        Err(GeneralProtection::ReservedBits {
            msr: 0x1b,
            bits: EXTD
        })
    );
}

#[test]
fn the_bsp_flag_cannot_be_changed() {
    let mut machine = Machine::xapic(2);
    machine.cpus[0].set_apic_base(BASE | ENABLE).unwrap();
    machine.cpus[1]
        .set_apic_base(BASE | ENABLE | 1 << 8)
        .unwrap();
    assert_eq!(
        [0, 1].map(|cpu| machine.cpus[cpu].apic_base()),
        [0xfee0_0900, 0xfee0_0800]
    );
}

#[test]
fn pending_interrupts_survive_the_switch_to_x2apic() {
    let mut machine = Machine::xapic(2);
    machine.ipi(0, 0x40fb, 1);
    machine.cpus[1].set_apic_base(BASE | ENABLE | EXTD).unwrap();
    assert_eq!(
        machine.cpus[1].poll(0),
        Work {
            interrupt: Some(0xfb),
            ..Work::default()
        }
    );
}

#[test]
fn disabling_loses_pending_interrupts_even_if_nobody_polled_in_between() {
    let mut machine = Machine::xapic(2);
    machine.ipi(0, 0x40fb, 1);
    machine.ipi(0, 0x4400, 1);
    machine.cpus[1].set_apic_base(BASE).unwrap();
    machine.cpus[1].set_apic_base(BASE | ENABLE).unwrap();
    assert_eq!(machine.cpus[1].poll(0), Work::default());
}

#[test]
fn routing_follows_the_mode_of_the_target() {
    let mut machine = Machine::xapic(3);
    // CPU 2's flat logical id is bit 2; so is its bit in x2APIC mode. With another LDR they differ.
    machine.write(2, reg::LDR, 0x8000_0000);
    let two: CpuSet = [2].into_iter().collect();
    assert_eq!(machine.ipi(0, 0x48fb, 0x80).ipi.targets, two);
    machine.cpus[2].set_apic_base(BASE | ENABLE | EXTD).unwrap();
    assert_eq!(machine.ipi(0, 0x48fb, 0x80).ipi.targets, CpuSet::EMPTY);
    assert_eq!(machine.ipi(0, 0x48fb, 0x04).ipi.targets, two);
}

#[test]
fn the_icr_destination_does_not_survive_the_switch_to_x2apic() {
    let mut machine = Machine::xapic(2);
    machine.ipi(0, 0x40fb, 1);
    machine.cpus[0].set_apic_base(BASE | ENABLE | EXTD).unwrap();
    assert_eq!(machine.cpus[0].msr_read(msr(reg::ICR), 0), Ok(0x40fb));
}
