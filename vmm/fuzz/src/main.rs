//! Feeds one target with as many inputs as it is told to: `ipirig-fuzz apic 1000000000 [SEED]`. Or writes the good
//! inputs of one, for another fuzzer to begin with: `ipirig-fuzz corpus scenario DIR`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;
use std::{fs, io};

use ipirig_fuzz::{Corpus, TARGETS, Target, apic};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, name, dir] = arguments.as_slice()
        && command == "corpus"
        && let Some(target) = Target::find(name)
    {
        return match write(target, Path::new(dir)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{dir}: {error}");
                ExitCode::from(3)
            }
        };
    }
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    let (Some(name), Some(count)) = (arguments.first(), number(1)) else {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!(
            "usage: ipirig-fuzz TARGET COUNT [SEED], where TARGET is apic, {}\n       ipirig-fuzz corpus TARGET DIR",
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

/// Writes the good inputs of `target` to files in `dir`, by number.
fn write(target: Target, dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for (number, input) in (target.corpus)().into_iter().enumerate() {
        fs::write(dir.join(number.to_string()), input)?;
    }
    Ok(())
}
