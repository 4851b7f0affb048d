//! What holds in one of the modes alone.

use super::*;

pub(super) fn xapic() -> Vec<Case> {
    let case = |name, cpus, steps, seen: &[&[Entry]]| Case {
        name,
        face: Face::Xapic,
        deviates: None,
        cpus,
        steps,
        seen: seen.iter().map(|seen| seen.to_vec()).collect(),
    };
    let logical = |vector: u32, destination| on(0, send(0x4800 | vector, destination));
    let ldr = |cpu, id: u32| on(cpu, write(Register::LDR, id << 24));
    let dfr = |cpu, model| on(cpu, write(Register::DFR, model));
    let enabled = [0, 1, 2].map(|cpu| on(cpu, Operation::InterruptsOn));
    vec![
        // 11.6.2.2: one CPU a bit; a logical id may have several.
        case(
            "a_flat_logical_destination_reaches_those_that_share_a_bit_with_it",
            3,
            [
                &enabled[..],
                &[
                    logical(0x41, 0b001),
                    logical(0x42, 0b110),
                    logical(0x43, 0b1000),
                    ldr(2, 0b1001),
                    logical(0x44, 0b1000),
                    logical(0x45, 0xff),
                ],
            ]
            .concat(),
            &[
                &[interrupt(0x41), interrupt(0x45)],
                &[interrupt(0x42), interrupt(0x45)],
                &[interrupt(0x42), interrupt(0x44), interrupt(0x45)],
            ],
        ),
        // The same: the upper half is a cluster, the lower one a bit of each CPU in it.
        case(
            "a_cluster_logical_destination_reaches_its_cluster_only",
            3,
            [
                &enabled[..],
                &[
                    ldr(0, 0x11),
                    ldr(1, 0x12),
                    ldr(2, 0x21),
                    dfr(0, 0x0fff_ffff),
                    dfr(1, 0x0fff_ffff),
                    dfr(2, 0x0fff_ffff),
                    logical(0x41, 0x11),
                    logical(0x42, 0x13),
                    logical(0x43, 0x2f),
                    logical(0x44, 0x31),
                    logical(0x45, 0xff),
                ],
            ]
            .concat(),
            &[
                &[interrupt(0x41), interrupt(0x42), interrupt(0x45)],
                &[interrupt(0x42), interrupt(0x45)],
                &[interrupt(0x43), interrupt(0x45)],
            ],
        ),
        // 11.4.5: the registers are where IA32_APIC_BASE says, and nothing is where they were.
        Case {
            deviates: Some("KVM moves the page"),
            ..case(
                "a_moved_page_has_the_registers_and_the_old_one_has_none",
                1,
                one(&[
                    write(Register::TPR, 0x50),
                    Operation::ApicBase(0xfef0_0900),
                    page(Register::TPR),
                    Operation::Page {
                        register: Register::TPR,
                        page: 0xfef0_0000,
                    },
                    Operation::ApicBase(0x10_0900),
                    Operation::ApicBase(0xfee0_0900),
                    page(Register::TPR),
                ]),
                &[&[
                    Entry::Observed(0xfef0_0900),
                    reads(Register::TPR, u32::MAX),
                    reads(Register::TPR, 0x50),
                    Entry::Refused(Register(0x1b)),
                    Entry::Observed(0xfef0_0900),
                    Entry::Observed(0xfee0_0900),
                    reads(Register::TPR, 0x50),
                ]],
            )
        },
        // 11.4.7.1, 11.12.5.1: bits 0 to 7 and 9 are reserved, EXTD needs EN, and the page is gone with EN.
        case(
            "a_disabled_apic_has_no_page_and_no_way_to_x2apic_and_cr8_stays",
            1,
            one(&[
                Operation::ApicBase(0xfee0_0901),
                Operation::ApicBase(0xfee0_0b00),
                Operation::ApicBase(0xfee0_0500),
                Operation::ApicBase(0xfee0_0100),
                page(VERSION),
                page(Register::TPR),
                Operation::Cr8(9),
                page(Register::TPR),
                Operation::Cr8(0),
                Operation::ApicBase(0xfee0_0d00),
                Operation::ApicBase(0xfee0_0500),
                Operation::ApicBase(0xfee0_0900),
                page(Register(0x02)),
            ]),
            &[&[
                Entry::Refused(Register(0x1b)),
                Entry::Observed(0xfee0_0900),
                Entry::Refused(Register(0x1b)),
                Entry::Observed(0xfee0_0900),
                Entry::Refused(Register(0x1b)),
                Entry::Observed(0xfee0_0900),
                Entry::Observed(0xfee0_0100),
                reads(VERSION, u32::MAX),
                reads(Register::TPR, u32::MAX),
                Entry::Observed(9),
                reads(Register::TPR, u32::MAX),
                Entry::Observed(0),
                Entry::Refused(Register(0x1b)),
                Entry::Observed(0xfee0_0100),
                Entry::Refused(Register(0x1b)),
                Entry::Observed(0xfee0_0100),
                Entry::Observed(0xfee0_0900),
                reads(Register(0x02), 0),
            ]],
        ),
    ]
}

pub(super) fn x2apic() -> Vec<Case> {
    let case = |name, cpus, steps, seen: &[&[Entry]]| Case {
        name,
        face: Face::X2apic,
        deviates: None,
        cpus,
        steps,
        seen: seen.iter().map(|seen| seen.to_vec()).collect(),
    };
    let logical = |vector: u32, destination| on(0, send(0x4800 | vector, destination));
    vec![
        // 11.12.2: no page in x2APIC mode.
        case(
            "in_x2apic_mode_nothing_is_at_the_page_of_registers",
            1,
            one(&[page(Register(0x02)), page(VERSION), page(Register::TPR)]),
            &[&[
                reads(Register(0x02), u32::MAX),
                reads(VERSION, u32::MAX),
                reads(Register::TPR, u32::MAX),
            ]],
        ),
        // 11.12.5.1: to disabled only; from there to xAPIC.
        case(
            "x2apic_mode_is_left_by_disabling_only",
            1,
            one(&[
                Operation::ApicBase(0xfee0_0900),
                Operation::ApicBase(0xfee0_0500),
                Operation::ApicBase(0xfee0_0100),
                Operation::Read(Register::TPR),
                Operation::ApicBase(0xfee0_0d00),
                Operation::ApicBase(0xfee0_0900),
                Operation::Read(Register::TPR),
                page(Register::TPR),
                Operation::ApicBase(0xfee0_0d00),
                Operation::Read(Register::TPR),
            ]),
            &[&[
                Entry::Refused(Register(0x1b)),
                Entry::Observed(0xfee0_0d00),
                Entry::Refused(Register(0x1b)),
                Entry::Observed(0xfee0_0d00),
                Entry::Observed(0xfee0_0100),
                Entry::Refused(Register::TPR),
                Entry::Refused(Register(0x1b)),
                Entry::Observed(0xfee0_0100),
                Entry::Observed(0xfee0_0900),
                Entry::Refused(Register::TPR),
                reads(Register::TPR, 0),
                Entry::Observed(0xfee0_0d00),
                reads(Register::TPR, 0),
            ]],
        ),
        // Table 11-6: the id and the LDR cannot be written, there is no DFR, EOI and self-IPI cannot be read.
        case(
            "what_the_x2apic_does_not_let_be_read_or_written_raises_gp",
            2,
            vec![
                on(1, write(Register(0x02), 0)),
                on(1, Operation::Read(Register(0x02))),
                on(1, write(Register::LDR, 1)),
                on(1, Operation::Read(Register::LDR)),
                on(1, write(Register::DFR, u32::MAX)),
                on(1, Operation::Read(Register::DFR)),
                on(1, Operation::Read(Register::EOI)),
                on(1, Operation::Read(Register::SELF_IPI)),
                on(1, Operation::Read(Register::ICR_HIGH)),
                on(1, write(PPR, 0)),
                on(1, write(Register::ESR, 1)),
            ],
            &[
                &[],
                &[
                    Entry::Refused(Register(0x02)),
                    reads(Register(0x02), 1),
                    Entry::Refused(Register::LDR),
                    reads(Register::LDR, 2),
                    Entry::Refused(Register::DFR),
                    Entry::Refused(Register::DFR),
                    Entry::Refused(Register::EOI),
                    Entry::Refused(Register::SELF_IPI),
                    Entry::Refused(Register::ICR_HIGH),
                    Entry::Refused(PPR),
                    Entry::Refused(Register::ESR),
                ],
            ],
        ),
        // 11.12.10.1: a cluster of sixteen, and a bit of each in it.
        case(
            "a_logical_destination_reaches_those_of_its_cluster_whose_bits_it_has",
            3,
            vec![
                on(0, Operation::InterruptsOn),
                on(1, Operation::InterruptsOn),
                on(2, Operation::InterruptsOn),
                logical(0x41, 0b101),
                logical(0x42, 0x1_0007),
                logical(0x43, u32::MAX),
                on(1, write(Register::SELF_IPI, 0x44)),
            ],
            &[
                &[interrupt(0x41), interrupt(0x43)],
                &[interrupt(0x43), interrupt(0x44)],
                &[interrupt(0x41), interrupt(0x43)],
            ],
        ),
    ]
}
