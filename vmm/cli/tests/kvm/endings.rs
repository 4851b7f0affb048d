//! Runs that come to no evidence, and hosts on which there can be none.

use std::fs;
use std::process::Command;

use libtest_mimic::Failed;
use serde_json::Value;

use crate::entries;
use crate::harness::{
    REFERENCE_MEMORY, ended, ensure, interrupt, ipirig, reference_kernel, run, stderr,
};

pub(crate) fn panics() -> Result<(), Failed> {
    // No such init: the kernel gives up.
    let (result, table) = run(
        "static-key-flip",
        &["--append", "rdinit=/no/such/init root="],
        3,
    )?;
    let (evidence, report) = ended(&result, "error")?;
    ensure(
        evidence.contains("the guest stopped during: boot: Kernel panic"),
        || table.clone(),
    )?;
    ensure(report.contains("vCPU 0"), || report.to_owned())
}

pub(crate) fn bad_initramfs() -> Result<(), Failed> {
    let kernel = reference_kernel();
    let args = [
        "run",
        "static-key-flip",
        "--initramfs",
        "/no/such/initramfs",
        "--kernel",
    ];
    let output = ipirig(&[&args[..], &[&kernel]].concat());
    ensure(output.status.code() == Some(2), || stderr(&output))?;
    ensure(stderr(&output).contains("/no/such/initramfs"), || {
        stderr(&output)
    })
}

pub(crate) fn times_out() -> Result<(), Failed> {
    // A busy loop before the agent is not at hand; a boot with a second's patience is.
    let (result, table) = run("static-key-flip", &["--cold", "--timeout", "1"], 3)?;
    let (evidence, report) = ended(&result, "error")?;
    ensure(
        evidence.starts_with("no progress for 1 s during: boot"),
        || table.clone(),
    )?;
    ensure(report.contains("vCPU 2"), || report.to_owned())?;
    // Nor can a bisection tell.
    let output = ipirig(&[
        "run",
        "static-key-flip",
        "--cold",
        "--timeout",
        "1",
        "--bisect",
    ]);
    ensure(output.status.code() == Some(125), || stderr(&output))
}

pub(crate) fn skipped_without_module() -> Result<(), Failed> {
    let kernel = reference_kernel();
    let args = ["--kernel", &kernel, "--memory", REFERENCE_MEMORY];
    let (result, _) = run("static-key-flip", &args, 4)?;
    let (evidence, _) = ended(&result, "skipped")?;
    ensure(evidence.contains("needs the module ipirig.ko"), || {
        evidence.to_owned()
    })
}

pub(crate) fn skipped_without_tracing() -> Result<(), Failed> {
    let kernel = reference_kernel();
    let args = ["--kernel", &kernel, "--memory", REFERENCE_MEMORY];
    let (result, _) = run("tracepoint-toggle", &args, 4)?;
    let (evidence, _) = ended(&result, "skipped")?;
    ensure(evidence.starts_with("no CONFIG_TRACING"), || {
        evidence.to_owned()
    })?;
    // One that holds does not make up for it, unless somebody says so.
    let both = ["run", "static-key-flip", "tracepoint-toggle"];
    // With the module, for the other.
    let initramfs = entries::reference_initramfs();
    let args = [&args[..], &["--initramfs", &initramfs]].concat();
    let output = ipirig(&[&both[..], &args].concat());
    let hint = "`--allow-skipped tracepoint-toggle`";
    ensure(
        output.status.code() == Some(4) && stderr(&output).contains(hint),
        || stderr(&output),
    )?;
    let allowed = ["--allow-skipped", "tracepoint-toggle"];
    let output = ipirig(&[&both[..], &args, &allowed].concat());
    ensure(output.status.code() == Some(0), || stderr(&output))
}

/// Ctrl-C as soon as `phase` is announced.
pub(crate) fn interrupted(phase: &str) -> Result<(), Failed> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipirig"));
    command.args(["run", "static-key-flip"]);
    command.args((phase == "boot").then_some("--cold"));
    let last = interrupt(&mut command, phase)?;
    let expected = format!("ipirig: interrupted during: {phase}");
    ensure(last.as_deref() == Some(&expected), || format!("{last:?}"))
}

/// Ctrl-C in the second of three scenarios: the first has ended, and each report has it.
pub(crate) fn interrupted_suite() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let files = ["ktap", "junit", "json"].map(|name| dir.path().join(name));
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipirig"));
    command.args(["run", "vunmap-storm", "static-key-flip", "set-memory"]);
    for (file, option) in files.iter().zip(["--ktap", "--junit", "--json"]) {
        command.arg(option).arg(file);
    }
    let last = interrupt(&mut command, "static-key-flip")?.unwrap_or_default();
    ensure(last.starts_with("ipirig: interrupted"), || last.clone())?;
    let [ktap, junit, json] = files.each_ref().map(fs::read_to_string);
    let (ktap, junit) = (ktap?, junit?);
    let lines: Vec<&str> = ktap.lines().filter(|line| !line.starts_with(' ')).collect();
    ensure(
        lines.get(1) == Some(&"1..3")
            && lines
                .iter()
                .any(|line| line.starts_with("ok 1 vunmap-storm"))
            && lines
                .last()
                .is_some_and(|line| line.starts_with("Bail out! interrupted"))
            && !lines.iter().any(|line| line.contains("ok 2 ")),
        || ktap.clone(),
    )?;
    ensure(
        junit.matches("<testsuite ").count() == 1 && junit.contains("name=\"vunmap-storm\""),
        || junit.clone(),
    )?;
    let result: Value = serde_json::from_str(&json?)?;
    let runs = result["runs"].as_array().map_or(0, Vec::len);
    ensure(runs == 1 && result["verdict"] == "error", || {
        result.to_string()
    })
}

/// Runs a scenario and the doctor in a mount namespace of their own, after `hide`, as nobody.
pub(crate) fn skipped_by_host(hide: &str, why: &str, advice: &str) -> Result<(), Failed> {
    // Somewhere that nobody may read.
    let dir = tempfile::tempdir_in("/tmp")?;
    let open = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(dir.path(), open(0o755))?;
    let binary = dir.path().join("ipirig");
    std::fs::copy(env!("CARGO_BIN_EXE_ipirig"), &binary)?;
    let as_nobody = "exec setpriv --reuid=65534 --regid=65534 --clear-groups";
    let ipirig = |args: &str| {
        let script = format!("{hide} && {as_nobody} {} {args}", binary.display());
        // Mounts made inside do not come out: unshare(1) makes all of them private.
        Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .output()
    };

    let output = ipirig("run static-key-flip --json -")?;
    ensure(output.status.code() == Some(4), || stderr(&output))?;
    let result: Value = serde_json::from_slice(&output.stdout)?;
    let (evidence, _) = ended(&result, "skipped")?;
    ensure(
        result["verdict"] == "skipped" && evidence.starts_with(why),
        || result.to_string(),
    )?;
    ensure(stderr(&output).contains(advice), || stderr(&output))?;

    let output = ipirig("doctor")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure(output.status.code() == Some(4), || text.clone())?;
    ensure(text.contains(why) && text.contains(advice), || text.clone())
}

pub(crate) fn doctor() -> Result<(), Failed> {
    let output = ipirig(&["doctor"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure(output.status.code() == Some(0), || text.clone())?;
    ensure(text.ends_with("Runs are possible here.\n"), || text.clone())
}
