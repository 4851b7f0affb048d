//! Whatever ipirig is at when it is asked to end, it ends with 130 and leaves nothing. And where something cannot be
//! written it says so. Nothing here boots a guest.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for what should take a second.
const PATIENCE: Duration = Duration::from_secs(60);

fn ipirig() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipirig"));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().expect("started");
    assert!(status.success(), "{program} {args:?}");
}

fn signal(child: &Child, signal: &str) {
    run("kill", &[&format!("-{signal}"), &child.id().to_string()]);
}

/// Waits for the end of `child`, which is to come.
fn end(mut child: Child) -> Output {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().expect("ours").is_none() {
        if Instant::now() >= deadline {
            child.kill().expect("ours");
        }
        thread::sleep(Duration::from_millis(10));
    }
    assert!(Instant::now() < deadline, "it did not end");
    child.wait_with_output().expect("ours")
}

#[track_caller]
fn assert_interrupted(output: &Output) {
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{words}");
    assert!(words.contains("interrupted"), "{words}");
}

fn fifo(dir: &Path, name: &str) -> String {
    let path = dir.join(name).to_str().expect("text").to_owned();
    run("mkfifo", &[&path]);
    path
}

#[test]
fn what_reads_a_file_that_says_nothing_ends_at_each_signal() {
    let dir = tempfile::tempdir().expect("a directory");
    let results = fifo(dir.path(), "a.json");
    let scenario = fifo(dir.path(), "a.toml");
    for (args, path) in [
        (&["run", &scenario][..], &scenario),
        (&["compare", &results, &results], &results),
    ] {
        for name in ["INT", "TERM", "HUP"] {
            let child = ipirig().args(args).spawn().expect("ipirig starts");
            // Whoever opens it for writing waits until it is open for reading.
            let writer = File::options().write(true).open(path).expect("opened");
            signal(&child, name);
            assert_interrupted(&end(child));
            drop(writer);
        }
    }
}

#[test]
fn what_opens_a_file_that_nobody_writes_to_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let scenario = fifo(dir.path(), "a.toml");
    let mut command = ipirig();
    let child = command
        .args(["run", &scenario])
        .spawn()
        .expect("ipirig starts");
    // It sleeps in open(2) then, or is about to.
    let asleep = || {
        let stack = fs::read_to_string(format!("/proc/{}/wchan", child.id()));
        stack.is_ok_and(|stack| stack.contains("fifo") || stack.contains("wait_for_partner"))
    };
    let deadline = Instant::now() + Duration::from_secs(2);
    while !asleep() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    signal(&child, "TERM");
    assert_interrupted(&end(child));
}

#[test]
fn what_writes_where_nobody_reads_ends() {
    // A pipe has room for 65536 bytes: pipe(7).
    let script = "yes | head -c 65536; echo full >&2; exec \"$0\" list";
    let mut child = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_ipirig")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sh starts");
    let mut words = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    words.read_line(&mut line).expect("a line");
    assert_eq!(line, "full\n");
    let name = || fs::read_to_string(format!("/proc/{}/comm", child.id())).expect("there");
    // From the shell's exec to the handlers there is a moment in which a signal is the shell's.
    while name() != "ipirig\n" {
        thread::sleep(Duration::from_millis(10));
    }
    let caught = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("there");
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:\t"));
        let mask = u64::from_str_radix(mask.expect("a line"), 16).expect("a number");
        mask & 1 << (15 - 1) != 0
    };
    while !caught() {
        thread::sleep(Duration::from_millis(10));
    }
    signal(&child, "TERM");
    let mut rest = String::new();
    // Not `wait_with_output`, which reads.
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("ours") {
            break status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        thread::sleep(Duration::from_millis(10));
    };
    words.read_to_string(&mut rest).expect("text");
    assert_eq!(
        (status.code(), rest.as_str()),
        (Some(130), "ipirig: interrupted\n")
    );
}

#[test]
fn what_waits_for_a_lock_ends() {
    let cache = tempfile::tempdir().expect("a directory");
    fs::create_dir(cache.path().join("lock")).expect("made");
    let lock = File::create(cache.path().join("lock/source")).expect("made");
    lock.lock().expect("free");
    let mut child = ipirig()
        .args(["guest", "build"])
        .env("IPIRIG_CACHE_DIR", cache.path())
        .spawn()
        .expect("ipirig starts");
    let mut words = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    words.read_line(&mut line).expect("a line");
    assert!(line.contains("waiting for it"), "{line}");
    signal(&child, "INT");
    let output = end(child);
    words.read_to_string(&mut line).expect("text");
    assert_eq!(output.status.code(), Some(130), "{line}");
    assert!(
        line.ends_with(
            "interrupted while waiting for another ipirig at work on the kernel source\n"
        ),
        "{line}"
    );
}

/// Whether a process runs. A zombie does not.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|state| !state.is_empty() && !state.starts_with('Z'))
}

#[test]
fn a_build_ends_with_all_programs_that_it_has_started_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    // In the place of a program that takes long, and does not end when it is asked to.
    fs::create_dir(at("bin")).expect("made");
    let pids = at("pids");
    let script = format!(
        "#!/bin/sh\ntrap '' TERM INT HUP\nsleep 1000 &\necho $$ $! > {0}.part\nmv {0}.part {0}\nwait\n",
        pids.display()
    );
    fs::write(at("bin/apt-get"), script).expect("written");
    run("chmod", &["+x", at("bin/apt-get").to_str().expect("text")]);
    let path = std::env::var("PATH").expect("text");
    let child = ipirig()
        .args(["guest", "build"])
        .env("IPIRIG_CACHE_DIR", at("cache"))
        .env("PATH", format!("{}:{path}", at("bin").display()))
        .spawn()
        .expect("ipirig starts");
    let deadline = Instant::now() + PATIENCE;
    while !pids.exists() {
        assert!(Instant::now() < deadline, "no program was started");
        thread::sleep(Duration::from_millis(10));
    }
    signal(&child, "TERM");
    assert_interrupted(&end(child));
    for pid in fs::read_to_string(&pids)
        .expect("readable")
        .split_whitespace()
    {
        let deadline = Instant::now() + PATIENCE;
        while runs(pid) {
            assert!(Instant::now() < deadline, "{pid} lives on");
            thread::sleep(Duration::from_millis(10));
        }
    }
    let left = fs::read_dir(at("cache/work")).expect("listed").count();
    assert_eq!(left, 0);
}

#[test]
fn what_was_left_by_one_that_was_killed_is_removed_by_the_next() {
    let cache = tempfile::tempdir().expect("a directory");
    let left = cache.path().join("work/kernel-0/scratch/linux");
    fs::create_dir_all(&left).expect("made");
    fs::write(left.join("Makefile"), "").expect("written");
    // It finds nothing to build from, with a PATH in which there is nothing.
    let output = ipirig()
        .args(["guest", "build"])
        .env("IPIRIG_CACHE_DIR", cache.path())
        .env("PATH", "/nonexistent")
        .output()
        .expect("ipirig starts");
    assert_ne!(output.status.code(), Some(0));
    assert!(!cache.path().join("work/kernel-0").exists());
}

#[test]
fn what_cannot_be_written_for_want_of_room_is_the_machine_s_fault() {
    let full = File::options()
        .write(true)
        .open("/dev/full")
        .expect("there");
    let output = ipirig()
        .arg("list")
        .stdout(full)
        .output()
        .expect("ipirig starts");
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{words}");
    assert!(
        words.contains("cannot write to standard output: No space left"),
        "{words}"
    );

    // A file that is larger than a process may write (setrlimit(2)): SIGXFSZ, which is fatal by default.
    let dir = tempfile::tempdir().expect("a directory");
    let output = Command::new("sh")
        .args([
            "-c",
            "ulimit -f 1; exec \"$0\" man \"$1\"",
            env!("CARGO_BIN_EXE_ipirig"),
        ])
        .arg(dir.path())
        .output()
        .expect("sh starts");
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{words}");
    assert!(words.contains("File too large"), "{words}");
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
}

#[test]
fn text_of_a_file_does_not_steer_the_terminal() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.toml");
    let mut file = File::create(&path).expect("made");
    file.write_all(b"name = \"\x1b]0;title\x07\xc2\x9b2J\"\n")
        .expect("written");
    let output = ipirig()
        .arg("run")
        .arg(&path)
        .output()
        .expect("ipirig starts");
    let words = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains("title"), "{words}");
    let steers = |c: char| c.is_control() && !"\n\t".contains(c);
    assert!(!words.contains(steers), "{words:?}");
}

#[test]
fn a_file_of_results_that_never_ends_is_refused() {
    for args in [
        &["compare", "/dev/zero", "/dev/zero"][..],
        &["merge", "/dev/zero"],
    ] {
        let output = ipirig().args(args).output().expect("ipirig starts");
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {words}");
        assert!(words.contains("longer than 16 MiB"), "{args:?}: {words}");
    }
}
