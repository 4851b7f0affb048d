//! How long a verdict takes: whole runs of `ipirig run static-key-flip`, guest built beforehand.
//!
//! Hosts differ by a factor of a hundred, and this one may be busy: so each time is also given as a
//! multiple of a yardstick taken in the same breath, the host's own speed at a fixed piece of work.
//! `cargo bench -p ipirig --bench run [-- RUNS]`.

use std::env;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::Instant;

use serde_json::Value;

const RUNS: usize = 5;

fn main() -> ExitCode {
    let runs = env::args()
        .skip(1)
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(RUNS);
    let mut rows = Vec::new();
    for run in 1..=runs {
        let yardstick = yardstick();
        match measure() {
            Ok(row) => {
                println!(
                    "run {run}: boot {:6.2} s ({:5.1} y)  window {:6.2} s  total {:6.2} s ({:5.1} y)  yardstick {yardstick:.3} s",
                    row.boot,
                    row.boot / yardstick,
                    row.window,
                    row.total,
                    row.total / yardstick,
                );
                rows.push((row, yardstick));
            }
            Err(why) => {
                eprintln!("run {run}: {why}");
                return ExitCode::FAILURE;
            }
        }
    }
    let median = |pick: fn(&(Row, f64)) -> f64| {
        let mut values: Vec<f64> = rows.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    println!(
        "median of {runs}: boot {:.2} s ({:.1} y), window {:.2} s, total {:.2} s ({:.1} y)",
        median(|(row, _)| row.boot),
        median(|(row, y)| row.boot / y),
        median(|(row, _)| row.window),
        median(|(row, _)| row.total),
        median(|(row, y)| row.total / y),
    );
    ExitCode::SUCCESS
}

struct Row {
    boot: f64,
    window: f64,
    total: f64,
}

fn measure() -> Result<Row, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_ipirig"))
        .args(["run", "static-key-flip", "--json", "-"])
        .output()
        .map_err(|error| error.to_string())?;
    let result: Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
    if result["verdict"] != "held" {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let seconds = |name: &str| {
        result["timing"][name]
            .as_f64()
            .ok_or_else(|| format!("no timing.{name} in the result"))
    };
    Ok(Row {
        boot: seconds("boot_s")?,
        window: seconds("window_s")?,
        total: seconds("total_s")?,
    })
}

/// Seconds for 400 million dependent additions and rotations.
fn yardstick() -> f64 {
    let start = Instant::now();
    let mut value = 1_u64;
    for step in 0..400_000_000_u64 {
        value = value.wrapping_add(black_box(step)).rotate_left(7);
    }
    black_box(value);
    start.elapsed().as_secs_f64()
}
