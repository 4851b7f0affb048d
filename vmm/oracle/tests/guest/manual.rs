//! What the manual says of an APIC, one thing at a time, on the rig's APIC and on KVM's own: programs that are
//! spelled out, with all that each CPU has to see. Among them is what kvm-unit-tests asks of an APIC.

use std::sync::Arc;

use ipirig_machine::{ApicMode, Host, Wakeup};
use ipirig_oracle::{Entry, Face, Operation, Program, Register, Step};

use crate::Suite;
use crate::differential::run;

/// A program and what is to be seen.
struct Case {
    name: &'static str,
    face: Face,
    /// KVM's own APIC does otherwise, as the deviation says that begins so.
    deviates: Option<&'static str>,
    cpus: u8,
    steps: Vec<Step>,
    /// By CPU.
    seen: Vec<Vec<Entry>>,
}

const fn on(cpu: u8, operation: Operation) -> Step {
    Step { cpu, operation }
}

const fn write(register: Register, value: u32) -> Operation {
    Operation::Write { register, value }
}

const fn send(command: u32, destination: u32) -> Operation {
    Operation::Send {
        command,
        destination,
    }
}

const fn to_self(vector: u32) -> Operation {
    send(0x4_4000 | vector, 0)
}

const fn interrupt(vector: u8) -> Entry {
    Entry::Interrupt {
        vector,
        priority: vector & 0xf0,
    }
}

const fn reads(register: Register, value: u32) -> Entry {
    Entry::Value { register, value }
}

const fn page(register: Register) -> Operation {
    Operation::Page {
        register,
        page: 0xfee0_0000,
    }
}

const INITIAL_COUNT: Register = Register::INITIAL_COUNT;
const LVT_TIMER: Register = Register::LVT_TIMER;
const VERSION: Register = Register(0x03);
const PPR: Register = Register(0x0a);
/// Vectors 0x20 to 0x3f.
const IRR_1: Register = Register(0x21);
const ISR_1: Register = Register(0x11);

/// Handlers that leave their interrupt in service.
const NO_EOI: Operation = Operation::Handlers {
    end: false,
    open: false,
    sends: 0,
    vector_step: 0,
    nmis: 0,
};

pub(crate) fn list(suite: &mut Suite) {
    for case in both().into_iter().chain(xapic()).chain(x2apic()) {
        let name = match case.face {
            Face::Xapic => format!("xapic::{}", case.name),
            Face::X2apic => format!("x2apic::{}", case.name),
        };
        let no_x2apic = match case.face {
            Face::Xapic => None,
            Face::X2apic => suite.no_x2apic.clone(),
        };
        let case = Arc::new(case);
        let reason = suite.no_kvm.clone().or_else(|| no_x2apic.clone());
        let ours = Arc::clone(&case);
        suite.add(&name, reason, move || ours.holds(false));
        let reason = suite.no_kernel_apic.clone().or_else(|| {
            let deviates = case.deviates?;
            let mut deviations = ipirig_oracle::DEVIATIONS.iter();
            let known = deviations.find(|one| one.what.starts_with(deviates));
            let known = known.unwrap_or_else(|| panic!("{}: no such deviation", case.name));
            Some(format!("{} (SDM {})", known.what, known.section))
        });
        let name = format!("{name}_of_kvms_own");
        suite.add(&name, reason, move || case.holds(true));
    }
}

impl Case {
    fn holds(&self, kernel: bool) {
        let host = Arc::new(Host::probe().unwrap());
        let apic = match (kernel, host.facts().x2apic) {
            (true, _) => ApicMode::Kernel,
            (false, true) => ApicMode::X2apic,
            (false, false) => ApicMode::Xapic,
        };
        let program = Program {
            face: self.face,
            cpus: self.cpus,
            steps: self.steps.clone(),
        };
        let outcome = run(&host, &program, apic);
        let begins = |entry: &Entry| matches!(entry, Entry::Begins(_));
        let logs = outcome.logs.into_iter();
        let seen: Vec<Vec<Entry>> = logs
            .map(|log| log.0.into_iter().filter(|entry| !begins(entry)).collect())
            .collect();
        assert_eq!(
            (&seen, outcome.end),
            (&self.seen, Wakeup::Doorbell),
            "{program}"
        );
    }
}

/// A case for each face.
fn each(
    name: &'static str,
    cpus: u8,
    steps: impl Fn(Face) -> Vec<Step>,
    seen: &[&[Entry]],
) -> [Case; 2] {
    [Face::Xapic, Face::X2apic].map(|face| Case {
        name,
        face,
        deviates: None,
        cpus,
        steps: steps(face),
        seen: seen.iter().map(|seen| seen.to_vec()).collect(),
    })
}

fn one(steps: &[Operation]) -> Vec<Step> {
    steps.iter().map(|&step| on(0, step)).collect()
}

fn both() -> Vec<Case> {
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

fn xapic() -> Vec<Case> {
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

fn x2apic() -> Vec<Case> {
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
