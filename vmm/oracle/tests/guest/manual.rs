//! What the manual says of an APIC, one thing at a time, on the rig's APIC and on KVM's own: programs that are
//! spelled out, with all that each CPU has to see. Among them is what kvm-unit-tests asks of an APIC.

mod both;
mod faces;

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
    for case in both::both()
        .into_iter()
        .chain(faces::xapic())
        .chain(faces::x2apic())
    {
        let name = match case.face {
            Face::Xapic => format!("xapic::{}", case.name),
            Face::X2apic => format!("x2apic::{}", case.name),
        };
        let no_x2apic = match case.face {
            Face::Xapic => None,
            Face::X2apic => suite.no_x2apic.clone(),
        };
        let case = Arc::new(case);
        let lacks = no_x2apic.or_else(|| {
            let needed = case.steps.iter().any(Step::needs_tsc_deadline);
            suite.no_tsc_deadline.clone().filter(|_| needed)
        });
        let reason = suite.no_kvm.clone().or_else(|| lacks.clone());
        let ours = Arc::clone(&case);
        suite.add(&name, reason, move || ours.holds(false));
        let reason = suite.no_kernel_apic.clone().or(lacks).or_else(|| {
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
