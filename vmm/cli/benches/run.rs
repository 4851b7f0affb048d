//! How long a verdict takes: whole runs of `ipirig run static-key-flip`, from a boot and from a snapshot
//! by turns, guest built beforehand.
//!
//! Hosts differ by a factor of a hundred, and this one may be busy: so the two are compared with each
//! other, in each turn, and each time is also given as a multiple of a yardstick taken in the same
//! breath, the host's own speed at a fixed piece of work.
//! `cargo bench -p ipirig --bench run [-- TURNS]`.

use std::env;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::Instant;

use serde_json::Value;

const TURNS: usize = 5;

fn main() -> ExitCode {
    let turns = env::args()
        .skip(1)
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(TURNS);
    match bench(turns) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// One turn.
struct Turn {
    yardstick: f64,
    cold: Row,
    restored: Row,
}

/// Seconds of one run.
struct Row {
    /// Until the guest's agent was ready: booted or restored.
    ready: f64,
    window: f64,
    total: f64,
}

fn bench(turns: usize) -> Result<(), String> {
    // Makes the snapshot, if there is none.
    measure(&[])?;
    let mut rows = Vec::new();
    for turn in 1..=turns {
        let row = Turn {
            yardstick: yardstick(),
            cold: measure(&["--cold"])?,
            restored: measure(&[])?,
        };
        println!("{turn}: {}", row.text());
        rows.push(row);
    }
    let median = |pick: fn(&Turn) -> f64| {
        let mut values: Vec<f64> = rows.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let row = |pick: [fn(&Turn) -> f64; 3]| {
        let [ready, window, total] = pick.map(median);
        Row {
            ready,
            window,
            total,
        }
    };
    let medians = Turn {
        yardstick: median(|turn| turn.yardstick),
        cold: row([|t| t.cold.ready, |t| t.cold.window, |t| t.cold.total]),
        restored: row([
            |t| t.restored.ready,
            |t| t.restored.window,
            |t| t.restored.total,
        ]),
    };
    println!("medians of {turns}: {}", medians.text());
    println!(
        "median ratios, cold to restored: ready {:.0}, total {:.2}",
        median(|turn| turn.cold.ready / turn.restored.ready),
        median(|turn| turn.cold.total / turn.restored.total),
    );
    Ok(())
}

impl Turn {
    fn text(&self) -> String {
        let row = |row: &Row| {
            format!(
                "ready {:.2} s ({:.1} y), window {:.2} s, total {:.2} s ({:.1} y)",
                row.ready,
                row.ready / self.yardstick,
                row.window,
                row.total,
                row.total / self.yardstick,
            )
        };
        format!(
            "cold {}; restored {}; y {:.3} s",
            row(&self.cold),
            row(&self.restored),
            self.yardstick
        )
    }
}

fn measure(args: &[&str]) -> Result<Row, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_ipirig"))
        .args(["run", "static-key-flip", "--json", "-"])
        .args(args)
        .output()
        .map_err(|error| error.to_string())?;
    let result: Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
    if result["verdict"] != "held" {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let seconds = |name: &str| result["timing"][name].as_f64();
    let missing = |name: &'static str| move || format!("no timing.{name} in the result");
    Ok(Row {
        ready: seconds("boot_s")
            .or_else(|| seconds("restored_s"))
            .ok_or_else(missing("boot_s"))?,
        window: seconds("window_s").ok_or_else(missing("window_s"))?,
        total: seconds("total_s").ok_or_else(missing("total_s"))?,
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
