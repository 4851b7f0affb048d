//! Runs that come to no evidence, and hosts on which there can be none.

use std::fs;
use std::process::Command;

use libtest_mimic::Failed;
use serde_json::Value;

use crate::harness::{
    REFERENCE_MEMORY, ended, ensure, interrupt, ipirig, reference_kernel, run, stderr,
};
use crate::{entries, machines};

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

/// Ctrl-C as soon as `args` announce `phase`: their last words, and what the files of `options` have then. These come after
/// the first of `args`.
fn cut<const N: usize>(
    args: &[&str],
    phase: &str,
    options: [&str; N],
) -> Result<(String, [String; N]), Failed> {
    let dir = tempfile::tempdir()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipirig"));
    let (first, rest) = args.split_at(1);
    command.args(first);
    for option in options {
        command.arg(option).arg(dir.path().join(option));
    }
    command.args(rest);
    let last = interrupt(&mut command, phase)?.unwrap_or_default();
    let mut texts = options.map(str::to_owned);
    for text in &mut texts {
        let told = fs::read_to_string(dir.path().join(&*text));
        *text = told.map_err(|error| format!("{text}: {error}; {last}"))?;
    }
    Ok((last, texts))
}

/// The lines of KTAP that are of no subtest, diagnostics left out.
fn tests(ktap: &str) -> Vec<&str> {
    let of_test = |line: &&str| !line.starts_with([' ', '#']);
    ktap.lines().filter(of_test).collect()
}

/// Each report of the one run says that it was cut short, and when.
pub(crate) fn interrupted(phase: &str) -> Result<(), Failed> {
    let cold = if phase == "boot" {
        &["--cold"][..]
    } else {
        &[]
    };
    let args = [&["run", "static-key-flip"], cold].concat();
    let (last, texts) = cut(&args, phase, ["--ktap", "--junit", "--json", "--html"])?;
    let [ktap, junit, json, html] = texts;
    let why = format!("interrupted during: {phase}");
    ensure(last == format!("ipirig: {why}"), || last.clone())?;
    let expected = [
        "KTAP version 1".to_owned(),
        "1..1".to_owned(),
        format!("not ok 1 static-key-flip # ERROR run: {why}"),
        format!("Bail out! {why}"),
    ];
    ensure(tests(&ktap) == expected, || ktap.clone())?;
    let case = format!("<error message=\"{why}\" type=\"run\">");
    ensure(junit.contains(&case) && html.contains(&why), || {
        junit.clone()
    })?;
    let result: Value = serde_json::from_str(&json)?;
    machines::fits_the_schema(&result)?;
    let (evidence, _) = ended(&result, "error")?;
    ensure(result["verdict"] == "error" && evidence == why, || json)
}

/// Ctrl-C in the second of three scenarios: each report has the first, which has ended, and that the second was cut short.
pub(crate) fn interrupted_suite() -> Result<(), Failed> {
    let args = ["run", "vunmap-storm", "static-key-flip", "set-memory"];
    let (last, [ktap, junit, json]) =
        cut(&args, "static-key-flip", ["--ktap", "--junit", "--json"])?;
    ensure(last.starts_with("ipirig: interrupted"), || last.clone())?;
    let begins = [
        "KTAP version 1",
        "1..3",
        "ok 1 vunmap-storm",
        "not ok 2 static-key-flip # ERROR run: interrupted",
        "Bail out! interrupted",
    ];
    let lines = tests(&ktap);
    let mut both = lines.iter().zip(begins);
    ensure(
        lines.len() == begins.len() && both.all(|(line, begin)| line.starts_with(begin)),
        || ktap.clone(),
    )?;
    let of = |name: &str| junit.contains(&format!("<testsuite name=\"{name}\""));
    ensure(
        junit.matches("<testsuite ").count() == 2 && of("vunmap-storm") && of("static-key-flip"),
        || junit.clone(),
    )?;
    let result: Value = serde_json::from_str(&json)?;
    let runs = result["runs"].as_array().into_iter().flatten();
    let verdicts: Vec<&Value> = runs.map(|run| &run["verdict"]).collect();
    ensure(
        verdicts == ["held", "error"] && result["verdict"] == "error",
        || result.to_string(),
    )
}

/// Ctrl-C before there is a point of a sweep, or anything to observe.
pub(crate) fn interrupted_others() -> Result<(), Failed> {
    let (why, ctrl_c) = ("interrupted during: boot", "ipirig: interrupted");
    let args = ["sweep", "syscall-exit", "--event", "nmi", "--cold"];
    let (last, [json, ktap]) = cut(&args, "boot", ["--json", "--ktap"])?;
    let result: Value = serde_json::from_str(&json)?;
    let expected = format!("not ok 1 complete # ERROR {why}");
    ensure(
        result["complete"] == false && result["why"] == why && last.starts_with(ctrl_c),
        || format!("{last}\n{json}"),
    )?;
    ensure(
        tests(&ktap) == ["KTAP version 1", "1..1", &expected],
        || ktap.clone(),
    )?;

    let args = ["observe", "--cold", "--", "load", "idle"];
    let (last, [json, html]) = cut(&args, "boot", ["--json", "--html"])?;
    ensure(last.starts_with(ctrl_c), || last.clone())?;
    let result: Value = serde_json::from_str(&json)?;
    ensure(
        ended(&result, "error")?.0 == why && html.contains(why),
        || result.to_string(),
    )
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
