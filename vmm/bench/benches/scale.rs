//! How things grow with the number of vCPUs: boot, restore, the window, and the memory of the process beyond
//! the guest's own. Whole runs of `ipirig run static-key-flip`, as ratios to the first machine.
//! `cargo bench -p ipirig-bench --bench scale [-- VCPUS...]`.

use std::fs;
use std::process::{Child, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use ipirig_bench::{numbers, run, seconds};

const VCPUS: [usize; 6] = [2, 4, 8, 16, 32, 64];
/// A machine of 64 overcommitted vCPUs may be slow.
const TIMEOUT: &str = "1800";
const MEMORY_MIB: u64 = 128;

fn main() -> ExitCode {
    let asked = numbers();
    let sizes = if asked.is_empty() {
        VCPUS.to_vec()
    } else {
        asked
    };
    println!("vCPUs  boot             restored         window           beyond guest memory");
    let mut first = None;
    for vcpus in sizes {
        let row = match measured(vcpus) {
            Ok(row) => row,
            Err(why) => {
                println!("{vcpus:>5}  {why}");
                continue;
            }
        };
        let one = *first.get_or_insert(row);
        let time = |seconds: f64, one: f64| format!("{seconds:.2} s ({:.1})", seconds / one);
        println!(
            "{vcpus:>5}  {:<15}  {:<15}  {:<15}  {} MiB",
            time(row.boot, one.boot),
            time(row.restored, one.restored),
            time(row.window, one.window),
            row.beyond_kib / 1024
        );
    }
    ExitCode::SUCCESS
}

#[derive(Clone, Copy)]
struct Row {
    boot: f64,
    restored: f64,
    window: f64,
    /// Most that was resident besides the guest's memory.
    beyond_kib: u64,
}

/// Boots, boots to save, and restores that.
fn measured(vcpus: usize) -> Result<Row, String> {
    let number = vcpus.to_string();
    let args = ["--vcpus", &number, "--timeout", TIMEOUT];
    let mut beyond_kib = 0;
    let cold = run(&[&args[..], &["--cold"]].concat(), |child| {
        beyond_kib = watch(child);
    })?;
    run(&args, |_| {})?;
    let restored = run(&args, |_| {})?;
    Ok(Row {
        boot: seconds(&cold, "boot_s")?,
        restored: seconds(&restored, "restored_s")?,
        window: seconds(&restored, "window_s")?,
        beyond_kib,
    })
}

/// Looks at the process until it ends.
fn watch(child: &mut Child) -> u64 {
    let path = format!("/proc/{}/smaps", child.id());
    let mut most = 0;
    while let Ok(None) = child.try_wait() {
        if let Ok(maps) = fs::read_to_string(&path) {
            most = most.max(beyond(&maps));
        }
        // The kernel keeps no peak of this sum. Often enough for what stays, and seldom enough to
        // cost the run little.
        sleep(Duration::from_millis(100));
    }
    most
}

/// KiB of all mappings but the guest's memory.
fn beyond(maps: &str) -> u64 {
    let (mut total, mut guest) = (0, false);
    for line in maps.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let kib = value.trim().strip_suffix(" kB").map(str::trim);
        let kib: Option<u64> = kib.and_then(|kib| kib.parse().ok());
        match (name, kib) {
            ("Size", Some(kib)) => guest = kib == MEMORY_MIB * 1024,
            ("Rss", Some(kib)) if !guest => total += kib,
            _ => {}
        }
    }
    total
}
