//! Feeds one target with as many inputs as it is told to: `ipirig-fuzz apic 1000000000 [SEED]`.

use std::process::ExitCode;
use std::time::Instant;

use ipirig_fuzz::{Corpus, TARGETS, Target, apic};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    let (Some(name), Some(count)) = (arguments.first(), number(1)) else {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!(
            "usage: ipirig-fuzz TARGET COUNT [SEED], where TARGET is apic, {}",
            names.join(", ")
        );
        return ExitCode::from(2);
    };
    let seed = number(2).unwrap_or(1);
    let started = Instant::now();
    if name == "apic" {
        apic::stream(count, seed);
    } else if let Some(target) = Target::find(name) {
        let mut corpus = Corpus::new((target.corpus)(), seed);
        for _ in 0..count {
            (target.feed)(&corpus.next_input());
        }
    } else {
        eprintln!("no such target: {name}");
        return ExitCode::from(2);
    }
    println!(
        "{name}: {count} inputs of seed {seed} in {:.0} s",
        started.elapsed().as_secs_f64()
    );
    ExitCode::SUCCESS
}
