//! What takes too long to be run each time. `IPIRIG_LONG=N` does it N times instead of as often as each says.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use crate::Test;
use crate::harness::{ensure, ipirig, stderr};
use crate::snapshots::{self, Cache};

pub(crate) const TESTS: &[(&str, Test)] = &[
    (
        "every_restored_run_has_the_result_of_a_cold_one",
        snapshots::whole_catalogue,
    ),
    ("sixteen_vcpus_boot_and_hold_each_time", || many_vcpus("16")),
    ("thirty_three_vcpus_boot_and_hold_each_time", || {
        many_vcpus("33")
    }),
    ("eight_runs_at_once_share_a_cache", eight_at_once),
    ("after_kill_9_the_next_run_finds_nothing_half_done", killed),
    ("memory_stays_flat_over_an_observation", observation),
    ("memory_stays_flat_over_many_runs", many_runs),
];

/// Why they are ignored.
pub(crate) fn asked_for() -> String {
    "takes minutes: run it by its name, with --ignored".to_owned()
}

/// How often something is done.
fn times(usual: u32) -> u32 {
    let asked = std::env::var("IPIRIG_LONG").ok();
    asked.and_then(|times| times.parse().ok()).unwrap_or(usual)
}

fn many_vcpus(vcpus: &str) -> Result<(), Failed> {
    let mut failed = Vec::new();
    let times = times(20);
    for time in 1..=times {
        let run = ["run", "static-key-flip", "--cold", "--vcpus", vcpus];
        let started = Instant::now();
        let output = ipirig(&[&run[..], &["--timeout", "600"]].concat());
        let seconds = started.elapsed().as_secs();
        println!(
            "{time} of {times}: {:?} after {seconds} s",
            output.status.code()
        );
        if output.status.code() != Some(0) {
            failed.push(format!(
                "run {time}: {:?}\n{}",
                output.status,
                stderr(&output)
            ));
        }
    }
    ensure(failed.is_empty(), || {
        format!("{} of {times}:\n{}", failed.len(), failed.join("\n"))
    })
}

/// The first eight find no snapshot and each boots; the second eight find the one that was left.
fn eight_at_once() -> Result<(), Failed> {
    let cache = Cache::new()?;
    for round in ["from scratch", "restored"] {
        let start = || {
            let mut command = cache.command();
            command.args(["--timeout", "600"]).stderr(Stdio::piped());
            command.stdout(Stdio::null()).spawn()
        };
        let children = (0..8).map(|_| start()).collect::<Result<Vec<Child>, _>>()?;
        let outputs: Vec<_> = children
            .into_iter()
            .map(|child| thread::spawn(|| child.wait_with_output()))
            .collect();
        for output in outputs {
            let output = output.join().map_err(|_| "a thread that waits died")??;
            ensure(output.status.code() == Some(0), || {
                format!("{round}: {:?}\n{}", output.status, stderr(&output))
            })?;
        }
        cache.only()?;
    }
    Ok(())
}

/// At moments spread over a run, cold and restored.
fn killed() -> Result<(), Failed> {
    const CHECKED: u32 = 10;
    let cache = Cache::new()?;
    let started = Instant::now();
    cache.run()?;
    let whole = started.elapsed();
    let times = times(100);
    // So far apart, modulo 1, that they fall all over it in any number (the golden ratio).
    let mut moment = 0.0_f64;
    for time in 1..=times {
        moment = (moment + 0.618_034).fract();
        if time % 2 == 0 {
            for file in cache.files()? {
                fs::remove_file(file)?;
            }
        }
        let mut child = cache
            .command()
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        thread::sleep(whole.mul_f64(moment));
        child.kill()?;
        child.wait()?;
        if time % CHECKED == 0 {
            println!("{time} of {times}");
            let (_, table) = cache.run()?;
            ensure(!table.contains("threw away"), || {
                format!("after {time} times: {table}")
            })?;
            cache.only()?;
        }
    }
    Ok(())
}

/// The most memory, in KiB, that `child` has had resident at a time, in each of three equal parts of its life, by
/// looks that are so far apart.
fn thirds(child: &mut Child, apart: Duration) -> Result<[u64; 3], Failed> {
    let mut looks = Vec::new();
    let path = format!("/proc/{}/status", child.id());
    while child.try_wait()?.is_none() {
        let status = fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        looks.extend(kib.and_then(|kib| kib.parse::<u64>().ok()));
        thread::sleep(apart);
    }
    let third = looks.len().div_ceil(3).max(1);
    let mut most = looks
        .chunks(third)
        .map(|part| part.iter().copied().max().unwrap_or_default());
    Ok([(); 3].map(|()| most.next().unwrap_or_default()))
}

/// That the last third has no more than a tenth above the first, and that what was measured was a run that held.
fn is_flat(command: &mut Command, apart: Duration) -> Result<(), Failed> {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let thirds = thirds(&mut child, apart)?;
    let status = child.wait()?;
    println!("KiB at most, by thirds: {thirds:?}");
    ensure(status.code() == Some(0), || format!("{status:?}"))?;
    let [first, _, last] = thirds;
    ensure(first > 0 && last <= first + first / 10, || {
        format!("KiB at most, by thirds: {thirds:?}")
    })
}

/// Of ten minutes.
fn observation() -> Result<(), Failed> {
    let seconds = (60 * times(10)).to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipirig"));
    command.args([
        "observe", "--for", &seconds, "--", "load", "fork", "bpf", "net",
    ]);
    is_flat(&mut command, Duration::from_secs(1))
}

/// Of thirty runs in one process.
fn many_runs() -> Result<(), Failed> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipirig"));
    command.arg("run");
    command.args((0..times(30)).map(|_| "static-key-flip"));
    is_flat(&mut command, Duration::from_millis(100))
}
