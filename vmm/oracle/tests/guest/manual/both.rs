//! What holds in both modes.

use super::*;

pub(super) fn both() -> Vec<Case> {
    let mut cases = Vec::new();
    // 11.8.3.1: an interrupt's class must be above the priority's.
    cases.extend(each(
        "a_task_priority_masks_its_class_to_the_last_vector_and_no_more",
        1,
        |_| {
            one(&[
                Operation::InterruptsOn,
                write(Register::TPR, 0x40),
                to_self(0x4f),
                to_self(0x50),
                Operation::Read(PPR),
                write(Register::TPR, 0x30),
                Operation::Read(PPR),
            ])
        },
        &[&[
            interrupt(0x50),
            reads(PPR, 0x40),
            interrupt(0x4f),
            reads(PPR, 0x30),
        ]],
    ));
    let lower = each(
        "the_lower_half_of_the_task_priority_is_kept_and_is_the_processors",
        1,
        |_| {
            one(&[
                write(Register::TPR, 0x4f),
                Operation::Read(Register::TPR),
                Operation::Read(PPR),
            ])
        },
        &[&[reads(Register::TPR, 0x4f), reads(PPR, 0x4f)]],
    );
    cases.extend(lower.map(|case| Case {
        deviates: Some("KVM on SVM clears the lower half"),
        ..case
    }));
    cases.extend(each(
        "cr8_is_the_upper_half_of_the_task_priority",
        1,
        |_| {
            one(&[
                Operation::InterruptsOn,
                Operation::Cr8(6),
                Operation::Read(Register::TPR),
                to_self(0x6f),
                to_self(0x70),
                Operation::Cr8(5),
            ])
        },
        &[&[
            Entry::Observed(6),
            reads(Register::TPR, 0x60),
            interrupt(0x70),
            interrupt(0x6f),
            Entry::Observed(5),
        ]],
    ));
    // 11.8.4: the highest vector first, and each EOI ends the highest in service.
    cases.extend(each(
        "interrupts_come_by_priority_and_nest_by_class",
        1,
        |_| {
            one(&[
                NO_EOI,
                to_self(0x31),
                to_self(0x25),
                to_self(0x24),
                Operation::Read(IRR_1),
                Operation::InterruptsOn,
                Operation::Read(IRR_1),
                Operation::Read(ISR_1),
                write(Register::EOI, 0),
                Operation::Read(ISR_1),
                write(Register::EOI, 0),
                write(Register::EOI, 0),
                Operation::Read(ISR_1),
                write(Register::EOI, 0),
            ])
        },
        &[&[
            reads(IRR_1, 1 << 0x11 | 1 << 5 | 1 << 4),
            interrupt(0x31),
            reads(IRR_1, 1 << 5 | 1 << 4),
            reads(ISR_1, 1 << 0x11),
            interrupt(0x25),
            reads(ISR_1, 1 << 5),
            interrupt(0x24),
            reads(ISR_1, 0),
        ]],
    ));
    // 11.8.4: one more of a vector can wait while one is in service.
    cases.extend(each(
        "of_a_vector_in_service_one_more_waits",
        1,
        |_| {
            one(&[
                Operation::Handlers {
                    end: true,
                    open: true,
                    sends: 1,
                    vector_step: 0,
                    nmis: 0,
                },
                Operation::InterruptsOn,
                to_self(0x44),
            ])
        },
        &[&[interrupt(0x44), interrupt(0x44)]],
    ));
    // 6.7.1: one NMI waits while another is handled, however many are sent.
    cases.extend(each(
        "of_ten_nmis_in_an_nmi_handler_one_is_taken",
        1,
        |_| {
            one(&[
                Operation::Handlers {
                    end: true,
                    open: false,
                    sends: 0,
                    vector_step: 0,
                    nmis: 10,
                },
                send(0x4400, 0),
            ])
        },
        &[&[Entry::Nmi, Entry::Nmi]],
    ));
    // 11.6.1: by destination and by shorthand.
    cases.extend(each(
        "a_broadcast_reaches_every_cpu_and_wakes_those_in_hlt",
        3,
        |face| {
            let everybody = match face {
                Face::Xapic => 0xff,
                Face::X2apic => u32::MAX,
            };
            vec![
                on(0, Operation::InterruptsOn),
                on(1, Operation::Rest),
                on(2, Operation::Rest),
                on(0, Operation::Count { divide: 0xb }),
                on(0, send(0x4041, everybody)),
                on(1, Operation::Rest),
                on(2, Operation::Rest),
                on(0, send(0x8_4042, 0)),
                on(1, Operation::Rest),
                on(2, Operation::Rest),
                on(0, send(0xc_4043, 0)),
            ]
        },
        &[
            &[
                Entry::Observed(0),
                reads(INITIAL_COUNT, u32::MAX),
                Entry::Observed(0),
                interrupt(0x41),
                interrupt(0x42),
            ],
            &[interrupt(0x41), interrupt(0x42), interrupt(0x43)],
            &[interrupt(0x41), interrupt(0x42), interrupt(0x43)],
        ],
    ));
    // 11.5.4: the mode is read back; a switch to or from TSC-deadline mode stops the timer, others do not.
    cases.extend(each(
        "the_timers_mode_reads_back_and_only_tsc_deadline_mode_stops_a_count",
        1,
        |_| {
            one(&[
                write(LVT_TIMER, 0x1_0060),
                write(INITIAL_COUNT, 0x7fff_ffff),
                write(LVT_TIMER, 0x3_0060),
                Operation::Read(LVT_TIMER),
                Operation::Read(INITIAL_COUNT),
                write(LVT_TIMER, 0x1_0060),
                Operation::Read(LVT_TIMER),
                Operation::Read(INITIAL_COUNT),
                write(LVT_TIMER, 0x5_0060),
                Operation::Read(LVT_TIMER),
                Operation::Read(INITIAL_COUNT),
                write(INITIAL_COUNT, 1000),
                Operation::Read(INITIAL_COUNT),
                write(LVT_TIMER, 0x1_0060),
                Operation::Read(INITIAL_COUNT),
            ])
        },
        &[&[
            reads(LVT_TIMER, 0x3_0060),
            reads(INITIAL_COUNT, 0x7fff_ffff),
            reads(LVT_TIMER, 0x1_0060),
            reads(INITIAL_COUNT, 0x7fff_ffff),
            reads(LVT_TIMER, 0x5_0060),
            reads(INITIAL_COUNT, 0),
            reads(INITIAL_COUNT, 0),
            reads(INITIAL_COUNT, 0),
        ]],
    ));
    // 11.5.4.1.
    cases.extend(each(
        "a_tsc_deadline_that_has_passed_fires_once_and_reads_as_zero",
        1,
        |_| {
            let timer = Operation::TscDeadline {
                vector: 0x33,
                cycles: 0,
            };
            one(&[Operation::InterruptsOn, timer, timer])
        },
        &[&[
            interrupt(0x33),
            Entry::Observed(0),
            reads(IRR_1, 0),
            interrupt(0x33),
            Entry::Observed(0),
            reads(IRR_1, 0),
        ]],
    ));
    // 11.4.7.2: while software has it disabled, entries stay masked and IPIs are not taken, but what is pending is.
    cases.extend(each(
        "an_apic_that_software_disables_masks_its_entries_and_takes_no_ipi",
        1,
        |_| {
            one(&[
                write(LVT_TIMER, 0x61),
                to_self(0x22),
                write(Register::SVR, 0xff),
                Operation::Read(LVT_TIMER),
                write(LVT_TIMER, 0x62),
                Operation::Read(LVT_TIMER),
                to_self(0x23),
                Operation::Read(IRR_1),
                Operation::InterruptsOn,
                write(Register::SVR, 0x1ff),
                Operation::Read(LVT_TIMER),
            ])
        },
        &[&[
            reads(LVT_TIMER, 0x1_0061),
            reads(LVT_TIMER, 0x1_0062),
            reads(IRR_1, 1 << 2),
            interrupt(0x22),
            reads(LVT_TIMER, 0x1_0062),
        ]],
    ));
    // 11.5.3: a write shows the errors since the last one; an illegal vector raises the error interrupt once.
    let errors = each(
        "an_illegal_vector_is_an_error_that_the_next_write_of_the_esr_shows",
        1,
        |_| {
            one(&[
                write(Register::LVT_ERROR, 0x55),
                Operation::InterruptsOn,
                to_self(0x0f),
                to_self(0x05),
                Operation::Read(Register::ESR),
                write(Register::ESR, 0),
                Operation::Read(Register::ESR),
                write(Register::ESR, 0),
                Operation::Read(Register::ESR),
            ])
        },
        &[&[
            interrupt(0x55),
            reads(Register::ESR, 0),
            reads(Register::ESR, 0x20),
            reads(Register::ESR, 0),
        ]],
    );
    let errors = errors.map(|case| Case {
        deviates: Some("KVM logs no errors"),
        ..case
    });
    cases.extend(errors);
    cases
}
