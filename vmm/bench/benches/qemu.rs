//! A cold boot in the rig and in QEMU: the same kernel, initramfs, command line, vCPUs and memory, by
//! turns, until the agent speaks. `cargo bench -p ipirig-bench --bench qemu [-- TURNS]`.
//!
//! In QEMU the agent finds no mailbox and says so on the console; in the rig it must also have started the
//! isolated tasks. QEMU's machines are `pc`, with its firmware, and `microvm`, which has next to none. Where QEMU does not come that far, its last
//! words are the figure.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ipirig_bench::{numbers, run, seconds};
use serde_json::Value;

const TURNS: usize = 5;
const QEMU: &str = "qemu-system-x86_64";
/// Ways to have QEMU run a guest: a name, and options.
const WAYS: [(&str, &[&str]); 4] = [
    (
        "QEMU, pc, KVM, -cpu host",
        &["-accel", "kvm", "-cpu", "host"],
    ),
    (
        "QEMU, microvm, KVM, -cpu host",
        &["-M", "microvm,acpi=off", "-accel", "kvm", "-cpu", "host"],
    ),
    (
        "QEMU, pc, KVM, -cpu qemu64",
        &["-accel", "kvm", "-cpu", "qemu64"],
    ),
    ("QEMU, pc, TCG, -cpu max", &["-accel", "tcg", "-cpu", "max"]),
];
/// How many times as long as the rig QEMU may take.
const PATIENCE: f64 = 3.0;
/// What the agent's words on the console begin with.
const AGENT: &str = "ipirig-agent: ";

fn main() -> ExitCode {
    ipirig_bench::end(bench(numbers().first().copied().unwrap_or(TURNS)))
}

fn bench(turns: usize) -> Result<(), String> {
    let version = match Command::new(QEMU).arg("--version").output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => {
            println!("skipped: {QEMU}: {error}; on Debian: apt install qemu-system-x86");
            return Ok(());
        }
    };
    println!("{}", version.lines().next().unwrap_or_default());
    let mut rig = Vec::new();
    let mut ways = WAYS.map(|(name, options)| (name, options, Ok(Vec::new())));
    for turn in 1..=turns {
        let result = run(&["--cold"], |_| {})?;
        let boot = seconds(&result, "boot_s")?;
        println!("{turn}: the rig: {boot:.2} s");
        rig.push(boot);
        for (name, options, ratios) in &mut ways {
            let Ok(so_far) = ratios else {
                continue;
            };
            match qemu(options, &result, Duration::from_secs_f64(boot * PATIENCE)) {
                Ok(time) => {
                    println!("{turn}: {name}: {time:.2} s");
                    so_far.push(boot / time);
                }
                // It would be the same again.
                Err(why) => *ratios = Err(why),
            }
        }
    }
    println!(
        "the rig: {:.2} s (median of {turns})",
        ipirig_bench::median(rig.into_iter())
    );
    for (name, _, ratios) in ways {
        match ratios {
            Ok(ratios) => println!(
                "{name}: the rig takes {:.1} times as long (median)",
                ipirig_bench::median(ratios.into_iter())
            ),
            Err(why) => println!("{name}: does not boot: {why}"),
        }
    }
    Ok(())
}

/// Seconds until the agent speaks in QEMU; else what QEMU said last.
fn qemu(options: &[&str], of: &Value, patience: Duration) -> Result<f64, String> {
    let text = |pointer: &str| {
        let value = of.pointer(pointer).and_then(Value::as_str);
        value.ok_or_else(|| format!("no {pointer} in the result"))
    };
    let memory = of["machine"]["memory_mib"].as_u64();
    let memory = memory.ok_or("no machine.memory_mib in the result")?;
    let vcpus = of["vcpus"].as_array().map_or(0, Vec::len);
    let start = Instant::now();
    let mut child = Command::new(QEMU)
        .args(options)
        .args(["-m", &format!("{memory}M"), "-smp", &vcpus.to_string()])
        .args(["-kernel", text("/kernel/path")?])
        .args(["-initrd", text("/kernel/initramfs")?])
        .args(["-append", text("/kernel/cmdline")?])
        .args([
            "-nodefaults",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-no-reboot",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let outcome = until_it_speaks(&mut child, start, patience);
    // It may have ended by itself.
    let _ = child.kill();
    child.wait().map_err(|error| error.to_string())?;
    outcome
}

fn until_it_speaks(child: &mut Child, start: Instant, patience: Duration) -> Result<f64, String> {
    let (lines, read) = mpsc::channel();
    let (console, words) = (child.stdout.take(), child.stderr.take());
    let send = lines.clone();
    thread::spawn(move || forward(console, &send));
    thread::spawn(move || forward(words, &lines));
    let mut last = "nothing was said".to_owned();
    loop {
        let left = patience.saturating_sub(start.elapsed());
        match read.recv_timeout(left) {
            Ok(line) if line.contains(AGENT) => return Ok(start.elapsed().as_secs_f64()),
            // What KVM cannot do. A dump of registers follows, and then QEMU just waits.
            Ok(line) if line.contains("KVM internal error") => {
                let code = |line: String| line.strip_prefix("Code=").map(str::to_owned);
                let code = std::iter::from_fn(|| read.recv_timeout(left).ok()).find_map(code);
                let code = code.unwrap_or_default();
                // The instruction begins at the byte in <>.
                let at = code.find('<').map_or("", |start| &code[start..]);
                return Err(format!("{} at `{at}`", line.trim()));
            }
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => line.trim().clone_into(&mut last),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return Err(format!(
                    "not within {:.0} s: {last}",
                    patience.as_secs_f64()
                ));
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(last),
        }
    }
}

fn forward(from: Option<impl std::io::Read>, to: &mpsc::Sender<String>) {
    let lines = from
        .into_iter()
        .flat_map(|from| BufReader::new(from).split(b'\n'));
    for line in lines.map_while(Result::ok) {
        if to
            .send(String::from_utf8_lossy(&line).into_owned())
            .is_err()
        {
            return;
        }
    }
}
