//! The same program on KVM's own APIC and on the rig's.
#![expect(unsafe_code, reason = "the guest's assembler text")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ipirig_machine::{ApicMode, Host, StopReason, Wakeup};
use ipirig_oracle::{Difference, Entry, Face, Log, Operation, Program, Step, difference, shrink};

use crate::Suite;
use crate::harness::Guest;
use crate::image;

/// Where the interpreter looks for a program, and where it leaves the logs (interpreter.s).
const PROGRAM: u64 = 0x40_0000;
const LOGS: u64 = 0x80_0000;
const LOG: usize = 1 << 20;
/// A program takes a second or two on an emulated host; one that hangs, this.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pairs of guests that it may take to shrink a program, and time: some of them hang.
const QUESTIONS: usize = 120;
const SHRINKING: Duration = Duration::from_secs(100);
/// How many programs of which seed the long test runs: `COUNT` or `COUNT,SEED`.
const LONG: &str = "IPIRIG_ORACLE";

// SAFETY: the text defines symbols in the guests' section. This program never runs it.
core::arch::global_asm!(
    ".pushsection guest_code, \"ax\", @progbits",
    include_str!("interpreter.s"),
    ".popsection",
);

// SAFETY: the symbol is defined above; its address is all that is used.
unsafe extern "C" {
    safe static oracle_start: u8;
}

pub(crate) fn list(suite: &mut Suite) {
    for (face, name) in [(Face::Xapic, "xapic"), (Face::X2apic, "x2apic")] {
        let reason = match face {
            Face::Xapic => suite.no_kernel_apic.clone(),
            Face::X2apic => suite
                .no_kernel_apic
                .clone()
                .or_else(|| suite.no_x2apic.clone()),
        };
        for (cpus, number, programs, steps) in [
            (1, "one_cpu", 6, 500),
            (2, "two_cpus", 2, 100),
            (3, "three_cpus", 2, 100),
        ] {
            suite.add(
                &format!("{name}::programs_of_{number}_leave_the_same_on_kvms_own_apic"),
                reason.clone(),
                move || agree(1, programs, face, cpus, steps),
            );
        }
    }
    let reason = suite.no_kernel_apic.clone();
    let reason = reason.unwrap_or_else(|| format!("takes long, and {LONG}=COUNT,SEED"));
    suite.add(
        "many_programs_leave_the_same_on_kvms_own_apic",
        Some(reason),
        many,
    );
}

/// Why KVM has no APICs of its own for a machine here.
pub(crate) fn no_kernel_apic(host: &Arc<Host>) -> Option<String> {
    let image = image::vmlinux(&oracle_start);
    let guest = Guest::new(&oracle_start).apic(ApicMode::Kernel);
    if let Err(error) = guest.start_image(host, &image, Arc::new(())) {
        return Some(format!("no APIC of KVM's own: {error}"));
    }
    // One KVM that emulates guests' kernels has an APIC that ends each interrupt when it injects it.
    let step = |operation| Step { cpu: 0, operation };
    let command = 0x4_4041;
    let destination = 0;
    let program = Program {
        face: Face::Xapic,
        cpus: 1,
        steps: vec![
            step(Operation::InterruptsOn),
            step(Operation::Send {
                command,
                destination,
            }),
        ],
    };
    let interrupt = Entry::Interrupt {
        vector: 0x41,
        priority: 0,
    };
    let outcome = run(host, &program, ApicMode::Kernel);
    let unserved = outcome.logs.iter().any(|log| log.0.contains(&interrupt));
    unserved.then(|| "KVM's own APIC has no interrupt in service here (SDM 11.8.4)".to_owned())
}

/// What became of a program.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) logs: Vec<Log>,
    pub(crate) end: Wakeup,
}

pub(crate) fn run(host: &Arc<Host>, program: &Program, apic: ApicMode) -> Outcome {
    let bytes = program.encode();
    let image = image::vmlinux_with(&oracle_start, &[(PROGRAM, &bytes)]);
    let guest = Guest::new(&oracle_start)
        .cpus(program.cpus.into())
        .apic(apic);
    let mut guest = guest.start_image(host, &image, Arc::new(())).unwrap();
    let end = guest.machine.wait(Instant::now() + PATIENCE).unwrap();
    let logs = (0..u64::from(program.cpus)).map(|cpu| {
        let place = LOGS + cpu * LOG as u64;
        Log::decode(&guest.machine.read_physical(place, LOG).unwrap())
    });
    Outcome {
        logs: logs.collect(),
        end,
    }
}

/// What the two APICs make of a program, if it is not the same.
fn compare(host: &Arc<Host>, program: &Program) -> Option<(Option<Difference>, Outcome, Outcome)> {
    // KVM's own offers x2APIC always; whether it is used, the program says.
    let apic = if host.facts().x2apic {
        ApicMode::X2apic
    } else {
        ApicMode::Xapic
    };
    let ours = run(host, program, apic);
    let theirs = run(host, program, ApicMode::Kernel);
    let found = difference(&ours.logs, &theirs.logs);
    let fine = found.is_none() && ours.end == Wakeup::Doorbell && theirs.end == Wakeup::Doorbell;
    (!fine).then_some((found, ours, theirs))
}

/// Runs `programs` programs, the first of them of seed `seed`.
fn agree(seed: u64, programs: u64, face: Face, cpus: u8, steps: usize) {
    let host = Arc::new(Host::probe().unwrap());
    for seed in seed..seed + programs {
        let mut program = Program::random(seed, face, cpus, steps);
        let Some((_, _, theirs)) = compare(&host, &program) else {
            continue;
        };
        // One of the deviations.
        if fails_to_enter(&theirs.end)
            && let Some(without) = program.without_disabling()
        {
            println!("seed {seed}: without the steps that disable an APIC");
            program = without;
            if compare(&host, &program).is_none() {
                continue;
            }
        }
        let until = Instant::now() + SHRINKING;
        let least = shrink(&program, QUESTIONS, |candidate| {
            Instant::now() < until && compare(&host, candidate).is_some()
        });
        match compare(&host, &least) {
            Some((found, ours, theirs)) => {
                let found = found.map_or("the logs are the same".to_owned(), |f| f.to_string());
                let (ours, theirs) = (ours.end, theirs.end);
                panic!(
                    "seed {seed}: {found}\nends: on the rig's APIC {ours:?}, on KVM's {theirs:?}\n\
                     the least of the program that does it:\n{least}"
                );
            }
            None => panic!("seed {seed}: differs, but not each time:\n{least}"),
        }
    }
}

/// Whether the CPU refused to enter the guest for a control field of its VMCS: VM-instruction error 7 (SDM vol. 3, 31.4).
fn fails_to_enter(end: &Wakeup) -> bool {
    let Wakeup::Stopped(StopReason::UnexpectedExit { what, .. }) = end else {
        return false;
    };
    what.starts_with("FailEntry(7,")
}

/// As many as [`LONG`] says: of ten, six of one CPU and the others of two and three, in both modes.
fn many() {
    let wanted = std::env::var(LONG).unwrap_or_default();
    let (count, seed) = wanted.split_once(',').unwrap_or((&wanted, "1000"));
    let number = |text: &str| -> u64 {
        text.parse()
            .unwrap_or_else(|error| panic!("{LONG}={wanted}: {text}: {error}"))
    };
    let (count, seed) = (number(count), number(seed));
    for seed in seed..seed + count {
        let face = if seed % 2 == 0 {
            Face::X2apic
        } else {
            Face::Xapic
        };
        let (cpus, steps) = match seed / 2 % 5 {
            0..=2 => (1, 500),
            3 => (2, 100),
            _ => (3, 100),
        };
        agree(seed, 1, face, cpus, steps);
    }
    println!("{count} programs from seed {seed} on");
}
