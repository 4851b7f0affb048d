//! Guests that want a verdict which they have not earned (`guest/hostile`): none is `held`, none outlives its deadline,
//! none makes ipirig grow, and none steers the terminal.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use libtest_mimic::Failed;
use serde_json::Value;

use crate::harness::{REFERENCE_MEMORY, ensure, ipirig, reference_kernel};

/// Each with the verdicts that it may get, and the APIC that it needs.
const HOSTILE: &[(&str, &[&str], &str)] = &[
    // Lies about what was done.
    ("nothing", &["error"], "auto"),
    ("partial", &["error"], "auto"),
    ("witness", &["error"], "auto"),
    ("another-storm", &["error"], "auto"),
    ("operations-huge", &["error"], "auto"),
    ("counters-huge", &["error", "violated"], "auto"),
    ("counters-backwards", &["error", "violated"], "auto"),
    ("text-hostile", &["error", "violated"], "auto"),
    ("mailbox-text", &["error", "violated"], "auto"),
    // Where it says that there is no module it is believed, and nothing is judged.
    ("mailbox-all", &["error", "violated", "skipped"], "auto"),
    // Floods.
    ("doorbell-flood", &["error", "violated"], "auto"),
    ("console-flood", &["error", "violated"], "auto"),
    ("icr-flood", &["error", "violated"], "xapic"),
    ("icr-random", &["error", "violated"], "xapic"),
    ("init-storm", &["error", "violated"], "xapic"),
    ("self-ipis", &["error", "violated"], "xapic"),
    ("end-of-nothing", &["error", "violated"], "xapic"),
    // The same and more by MSRs, from ring 0.
    ("apic-base-random", &["error", "violated"], "auto"),
    ("apic-moved", &["error", "violated"], "auto"),
    ("apic-base-off", &["error", "violated"], "auto"),
    ("x2apic-random", &["error", "violated"], "auto"),
    ("icr-msr-flood", &["error", "violated"], "x2apic"),
    ("tsc-deadline-flood", &["error", "violated"], "auto"),
    // Machines that are broken.
    ("apic-off", &["error", "violated"], "xapic"),
    ("apic-renamed", &["error", "violated"], "xapic"),
    ("timer-of-one", &["error", "violated"], "xapic"),
    ("every-register", &["error", "violated"], "xapic"),
    ("panics", &["error"], "auto"),
    ("hangs", &["error"], "auto"),
    ("resets", &["error"], "auto"),
];

/// Those of [`HOSTILE`] that only lie: their runs come to their end, and each check is made.
const JUDGED: [&str; 7] = [
    "nothing",
    "partial",
    "witness",
    "another-storm",
    "operations-huge",
    "counters-huge",
    "counters-backwards",
];

/// The tests and their names.
pub(crate) fn tests()
-> impl Iterator<Item = (String, impl Fn() -> Result<(), Failed> + Send + 'static)> {
    HOSTILE.iter().map(|(name, verdicts, apic)| {
        let test = move || hostile(name, verdicts, apic);
        (format!("a_hostile_guest_is_not_held::{name}"), test)
    })
}

fn initramfs() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        let guest = ipirig(&["guest", "path", "--hostile"]);
        let paths = String::from_utf8_lossy(&guest.stdout);
        let path = paths
            .lines()
            .find_map(|line| line.strip_prefix("initramfs "));
        path.unwrap_or_default().trim().to_owned()
    })
}

fn hostile(name: &str, verdicts: &[&str], apic: &str) -> Result<(), Failed> {
    let word = format!("ipirig.hostile={name}");
    let kernel = reference_kernel();
    let args = [
        "run",
        "static-key-flip",
        "--cold",
        "--json",
        "-",
        "--console",
        "--timeout",
        "60",
        "--vcpus",
        "3",
        "--kernel",
        &kernel,
        "--initramfs",
        initramfs(),
        "--memory",
        REFERENCE_MEMORY,
        "--apic",
        apic,
        "--append",
        &word,
    ];
    let mut child = Command::new(env!("CARGO_BIN_EXE_ipirig"))
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let errors = child.stderr.take().ok_or("no standard error")?;
    let reader = std::thread::spawn(move || std::io::read_to_string(errors));
    let peak = peak(child.id());
    let output = child.wait_with_output()?;
    let words = reader.join().map_err(|_| "no words")??;
    let tail = || {
        let lines: Vec<_> = words.lines().rev().take(40).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    };
    let result: Value =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}\n{}", tail()))?;
    let verdict = result["verdict"].as_str().unwrap_or_default();
    ensure(verdicts.contains(&verdict), || {
        format!("{name} is {verdict}\n{}", tail())
    })?;
    let checks = result["checks"].as_array().map_or(0, Vec::len);
    ensure(!JUDGED.contains(&name) || checks > 1, || {
        format!("{name} was not judged\n{}", tail())
    })?;
    let steers = |c: char| c.is_control() && !"\n\t".contains(c);
    ensure(!words.contains(steers), || {
        format!("{name} steers the terminal")
    })?;
    // Of an honest guest of 128 MiB it is less than half of this.
    let peak = peak.join().map_err(|_| "no peak")?;
    ensure(peak < 512 << 10, || format!("{name}: {peak} KiB"))
}

/// The most memory that process `pid` had, in KiB.
fn peak(pid: u32) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut peak = 0;
        while let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let Some(kib) = line.and_then(|line| line.trim().strip_suffix(" kB")) else {
                // A zombie has none.
                break;
            };
            peak = kib.trim().parse().unwrap_or(peak);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        peak
    })
}
