//! What the first entry executed: listings, kernels that cannot be judged, and kernels with bugs.

use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Failed;
use serde_json::Value;

use crate::harness::{REFERENCE_MEMORY, ensure, held, ipirig, reference_kernel, run, stderr};

/// The three checks that rest on what was executed.
const EXECUTED: [&str; 3] = ["completed-on-entry", "danger-zone", "flag-order"];

fn check<'a>(result: &'a Value, name: &str) -> Option<&'a Value> {
    let checks = result["checks"].as_array()?;
    checks.iter().find(|check| check["name"] == name)
}

/// Every way in is recorded, each with a catch-up before ordinary code.
pub(crate) fn matrix() -> Result<(), Failed> {
    let result = held("entry-matrix", &[])?;
    let entries = result["entries"].as_array().cloned().unwrap_or_default();
    let kinds: Vec<&str> = entries.iter().filter_map(|e| e["kind"].as_str()).collect();
    let expected = [
        "syscall",
        "page-fault",
        "general-protection",
        "invalid-opcode",
        "debug",
        "breakpoint",
        "timer",
        "reschedule",
        "nmi",
    ];
    ensure(kinds == expected, || format!("{kinds:?}"))?;
    for entry in &entries {
        let audit = &entry["audit"];
        let number = |name: &str| audit[name].as_u64().unwrap_or(0);
        let (catch_up, ordinary) = (number("catch_up"), number("first_instrumentable"));
        let good = catch_up > 0
            && catch_up < ordinary
            && number("danger_zone") + 1 == catch_up
            && audit["ended"] == "user";
        ensure(good, || format!("{} {audit}", entry["kind"]))?;
    }
    Ok(())
}

/// The listing marks what matters, once an entry.
pub(crate) fn listing() -> Result<(), Failed> {
    let kinds = "syscall,page-fault,timer,nmi";
    let output = ipirig(&["entry", "entry-matrix", "--kind", kinds]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let whole = || format!("{text}\n{}", stderr(&output));
    ensure(output.status.code() == Some(0), whole)?;
    let titles: Vec<&str> = text.lines().filter(|l| l.starts_with("vCPU ")).collect();
    let expected = ["SYSCALL", "#PF", "timer interrupt", "NMI"].map(|k| format!("vCPU 2, {k}"));
    ensure(titles == expected, whole)?;
    for mark in [
        "<- flag set",
        "<- catch-up",
        "user -> kernel page table",
        "danger zone",
    ] {
        ensure(text.matches(mark).count() == 4, || {
            format!("{mark}\n{}", whole())
        })?;
    }
    for first in [
        "entry_SYSCALL_64  ",
        "asm_exc_page_fault  ",
        "asm_exc_nmi  ",
    ] {
        ensure(text.contains(first), || format!("{first}\n{}", whole()))?;
    }
    ensure(!text.contains('!'), whole)
}

/// A kernel file without symbols: isolation is still checked, which is held if that is all that is asked
/// for.
/// The reference kernel without its symbols, in a directory.
fn strip(dir: &Path) -> Result<PathBuf, Failed> {
    let kernel = dir.join("vmlinux");
    let strip = Command::new("strip")
        .args(["-o"])
        .arg(&kernel)
        .arg(reference_kernel())
        .status()?;
    ensure(strip.success(), || format!("strip: {strip}"))?;
    Ok(kernel)
}

pub(crate) fn stood_in_for() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let kernel = strip(dir.path())?;
    let kernel = kernel.to_str().ok_or("a path that is no text")?;
    let (initramfs, vmlinux) = (reference_initramfs(), reference_kernel());
    let files = ["--kernel", kernel, "--initramfs", &initramfs];
    let args = [&files[..], &["--memory", REFERENCE_MEMORY]].concat();
    run(
        "static-key-flip",
        &[&args[..], &["--vmlinux", &vmlinux]].concat(),
        0,
    )?;
    let off = [&args[..], &["--deferral", "off"]].concat();
    let (result, table) = run("static-key-flip", &off, 1)?;
    let blame = result["blame"].as_array().into_iter().flatten();
    // vCPU 2 is the isolated one.
    let mut blame = blame.filter(|blame| !blame["targets"]["2"].is_null());
    let known = |blame: &Value| blame["cause"] == "static key" && blame["broken"].is_null();
    ensure(blame.next().is_some_and(known) && blame.all(known), || {
        table
    })
}

pub(crate) fn stripped() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let kernel = strip(dir.path())?;
    let initramfs = reference_initramfs();
    let kernel = kernel.to_str().ok_or("a path that is no text")?;
    let files = ["--kernel", kernel, "--initramfs", &initramfs];
    let args = [&files[..], &["--memory", REFERENCE_MEMORY]].concat();
    let only = [&args[..], &["--isolation-only"]].concat();
    for (args, code, verdict, words) in [
        (
            &args,
            4,
            "skipped",
            "whether deferred work was done is not known",
        ),
        (&only, 0, "held", "isolation only"),
    ] {
        let (result, table) = run("static-key-flip", args, code)?;
        let said = result["verdict"] == verdict
            && result["isolation_only"] == (code == 0)
            && table.contains(words);
        ensure(said, || table.clone())?;
        for name in EXECUTED {
            let check = check(&result, name).ok_or(name)?;
            let evidence = check["evidence"].as_str().unwrap_or_default();
            let skipped = check["status"] == "skipped" && evidence.contains("no symbol `");
            ensure(skipped, || format!("{check}\n{table}"))?;
        }
    }
    Ok(())
}

/// Where IPIs did the work there is nothing for an entry to do.
pub(crate) fn nothing_deferred(result: &Value) -> Result<(), Failed> {
    for name in ["completed-on-entry", "danger-zone"] {
        let check = check(result, name).ok_or(name)?;
        let evidence = check["evidence"].as_str().unwrap_or_default();
        let skipped = check["status"] == "skipped" && evidence.contains("nothing was deferred");
        ensure(skipped, || check.to_string())?;
    }
    Ok(())
}

/// One bug for each kind of check: they are noticed, by it.
pub(crate) fn mutants() -> Result<(), Failed> {
    let names = ["never-skips", "entry-static-branch", "flag-after-cr3"];
    let output = ipirig(&[&["mutants", "--json", "-"], &names[..]].concat());
    let whole = || stderr(&output);
    ensure(output.status.code() == Some(0), whole)?;
    let rows: Value = serde_json::from_slice(&output.stdout)?;
    let fates: Vec<(&str, &str)> = rows
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| {
            (
                row["name"].as_str().unwrap_or_default(),
                row["fate"]["fate"].as_str().unwrap_or_default(),
            )
        })
        .collect();
    let expected = [
        ("reference", "held"),
        (names[0], "noticed"),
        (names[1], "noticed"),
        (names[2], "noticed"),
    ];
    ensure(fates == expected, || format!("{fates:?}\n{}", whole()))
}

pub(crate) fn unknown_mutant() -> Result<(), Failed> {
    let output = ipirig(&["mutants", "flag-after-cr"]);
    ensure(output.status.code() == Some(2), || stderr(&output))?;
    let help = "no mutant `flag-after-cr`: did you mean `flag-after-cr3`?";
    ensure(stderr(&output).contains(help), || stderr(&output))
}

pub(crate) fn reference_initramfs() -> String {
    let guest = ipirig(&["guest", "path"]);
    let paths = String::from_utf8_lossy(&guest.stdout);
    let path = paths
        .lines()
        .find_map(|line| line.strip_prefix("initramfs "));
    path.unwrap_or_default().trim().to_owned()
}
