//! How long a verdict takes: whole runs of `ipirig run static-key-flip`, from a boot and from a snapshot
//! by turns, guest built beforehand.
//!
//! Hosts differ by a factor of a hundred, and this one may be busy: so the two are compared with each
//! other, in each turn, and each time is also given as a multiple of a yardstick taken in the same
//! breath, the host's own speed at a fixed piece of work.
//! `cargo bench -p ipirig-bench --bench run [-- TURNS]`.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use ipirig_bench::{numbers, run, seconds};

const TURNS: usize = 5;

fn main() -> ExitCode {
    ipirig_bench::end(bench(numbers().first().copied().unwrap_or(TURNS)))
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
    row(&[])?;
    let mut rows = Vec::new();
    for turn in 1..=turns {
        let row = Turn {
            yardstick: yardstick(),
            cold: row(&["--cold"])?,
            restored: row(&[])?,
        };
        println!("{turn}: {}", row.text());
        rows.push(row);
    }
    let median = |pick: fn(&Turn) -> f64| ipirig_bench::median(rows.iter().map(pick));
    let of = |pick: [fn(&Turn) -> f64; 3]| {
        let [ready, window, total] = pick.map(median);
        Row {
            ready,
            window,
            total,
        }
    };
    let medians = Turn {
        yardstick: median(|turn| turn.yardstick),
        cold: of([|t| t.cold.ready, |t| t.cold.window, |t| t.cold.total]),
        restored: of([
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

fn row(args: &[&str]) -> Result<Row, String> {
    let result = run(args, |_| {})?;
    Ok(Row {
        ready: seconds(&result, "boot_s").or_else(|_| seconds(&result, "restored_s"))?,
        window: seconds(&result, "window_s")?,
        total: seconds(&result, "total_s")?,
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
