//! How things grow with the number of vCPUs: boot, restore, the window, and the memory of the process beyond
//! the guest's own. Whole runs of `ipirig run static-key-flip`, as ratios to the smallest machine.
//! `cargo bench -p ipirig --bench scale [-- VCPUS...]`.

use std::env;
use std::fs;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

const VCPUS: [usize; 6] = [2, 4, 8, 16, 32, 64];
/// A machine of 64 overcommitted vCPUs may be slow.
const TIMEOUT: &str = "600";
const MEMORY_MIB: u64 = 128;

fn main() -> ExitCode {
    let asked: Vec<usize> = env::args()
        .skip(1)
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let sizes = if asked.is_empty() {
        VCPUS.to_vec()
    } else {
        asked
    };
    println!(
        "vCPUs  verdict   boot             restored         window           beyond guest memory"
    );
    let mut first = None;
    for vcpus in sizes {
        let rows = measure(vcpus, &["--cold"]).and_then(|cold| {
            // Makes the snapshot.
            measure(vcpus, &[])?;
            Ok((cold, measure(vcpus, &[])?))
        });
        let (cold, restored) = match rows {
            Ok(rows) => rows,
            Err(why) => {
                println!("{vcpus:>5}  {why}");
                continue;
            }
        };
        let (boot, window) = (cold.boot, restored.window);
        let (boot_1, restored_1, window_1) =
            *first.get_or_insert((boot, restored.restored, window));
        let time = |seconds: f64, one: f64| format!("{seconds:.2} s ({:.1})", seconds / one);
        println!(
            "{vcpus:>5}  {:<8}  {:<15}  {:<15}  {:<15}  {} MiB",
            restored.verdict,
            time(boot, boot_1),
            time(restored.restored, restored_1),
            time(window, window_1),
            cold.beyond_kib / 1024
        );
    }
    ExitCode::SUCCESS
}

struct Row {
    verdict: String,
    boot: f64,
    restored: f64,
    window: f64,
    /// Most that was resident besides the guest's memory.
    beyond_kib: u64,
}

fn measure(vcpus: usize, args: &[&str]) -> Result<Row, String> {
    let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    let mut child = Command::new(env!("CARGO_BIN_EXE_ipirig"))
        .args(["run", "static-key-flip", "--vcpus", &vcpus.to_string()])
        .args(["--timeout", TIMEOUT, "--json"])
        .arg(file.path())
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let beyond_kib = watch(&mut child);
    let text = fs::read_to_string(file.path()).map_err(|error| error.to_string())?;
    let result: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let seconds = |name: &str| result["timing"][name].as_f64().unwrap_or(f64::NAN);
    if result["timing"]["window_s"].is_null() {
        return Err(result["checks"][0]["evidence"].to_string());
    }
    Ok(Row {
        verdict: result["verdict"].as_str().unwrap_or_default().to_owned(),
        boot: seconds("boot_s"),
        restored: seconds("restored_s"),
        window: seconds("window_s"),
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
