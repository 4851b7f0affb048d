//! Runs of the command line, and what is asked of each.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use libtest_mimic::Failed;
use serde_json::Value;

use crate::{entries, machines};

/// MiB that a run has by default. With `--kernel` it has more, which takes longer to initialise.
pub(crate) const REFERENCE_MEMORY: &str = "128";

pub(crate) fn ipirig(args: &[&str]) -> Output {
    // A test reports a lost guest itself; nothing here can fail to start but for a broken build.
    Command::new(env!("CARGO_BIN_EXE_ipirig"))
        .args(args)
        .output()
        .expect("ipirig starts")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(why().into()) }
}

/// Runs a scenario with `--json -`, checks the exit code and gives the result and the table.
pub(crate) fn run(scenario: &str, args: &[&str], code: i32) -> Result<(Value, String), Failed> {
    let output = ipirig(&[&["run", scenario, "--json", "-"], args].concat());
    let table = stderr(&output);
    ensure(output.status.code() == Some(code), || {
        format!("{:?} instead of exit code {code}\n{table}", output.status)
    })?;
    let json = serde_json::from_slice(&output.stdout)?;
    machines::fits_the_schema(&json)?;
    Ok((json, table))
}

pub(crate) fn vcpu<'a>(result: &'a Value, role: &str) -> Option<&'a Value> {
    result["vcpus"]
        .as_array()?
        .iter()
        .find(|vcpu| vcpu["role"] == role)
}

pub(crate) fn targeted(result: &Value, role: &str) -> Option<u64> {
    vcpu(result, role)?["window"]["ipis_targeted"].as_u64()
}

pub(crate) fn held(scenario: &str, args: &[&str]) -> Result<Value, Failed> {
    let (result, table) = run(scenario, args, 0)?;
    ensure(result["verdict"] == "held", || table.clone())?;
    let checks = result["checks"].as_array().cloned().unwrap_or_default();
    for check in &checks {
        ensure(check["status"] == "held", || format!("{check}\n{table}"))?;
    }
    ensure(checks.len() == 9, || format!("{} checks", checks.len()))?;
    let isolated = targeted(&result, "isolated");
    ensure(isolated == Some(0), || {
        format!("isolated: {isolated:?}\n{table}")
    })?;
    let two = args.contains(&"2");
    let housekeeping = targeted(&result, "housekeeping");
    ensure(
        if two {
            housekeeping.is_none()
        } else {
            housekeeping > Some(0)
        },
        || format!("housekeeping: {housekeeping:?}\n{table}"),
    )?;
    let apic = &result["machine"]["apic"];
    ensure(!args.contains(&"xapic") || apic == "xapic", || {
        format!("{apic}")
    })?;
    let deferred = vcpu(&result, "isolated").and_then(|vcpu| vcpu["deferred"].as_u64());
    ensure(deferred >= Some(100), || {
        format!("deferred: {deferred:?}\n{table}")
    })?;
    Ok(result)
}

pub(crate) fn violated(scenario: &str, per_operation: u64) -> Result<(), Failed> {
    let (result, table) = run(scenario, &["--deferral", "off"], 1)?;
    ensure(result["verdict"] == "violated", || table.clone())?;
    let operations = result["scenario"]["operations"]
        .as_u64()
        .unwrap_or(u64::MAX);
    let isolated = targeted(&result, "isolated").unwrap_or(0);
    ensure(isolated >= per_operation * operations, || {
        format!("{isolated} IPIs\n{table}")
    })?;
    let evidence = result["checks"][0]["evidence"].as_str().unwrap_or_default();
    ensure(evidence.contains(&format!("{isolated} IPIs (")), || {
        evidence.to_owned()
    })?;
    ensure(evidence.contains(" per operation"), || evidence.to_owned())?;
    entries::nothing_deferred(&result)
}

/// The check that stands for a run without evidence, and the report.
pub(crate) fn ended<'a>(result: &'a Value, status: &str) -> Result<(&'a str, &'a str), Failed> {
    let check = &result["checks"][0];
    ensure(check["name"] == "run" && check["status"] == status, || {
        result.to_string()
    })?;
    let report = result["report"].as_str().unwrap_or_default();
    Ok((check["evidence"].as_str().unwrap_or_default(), report))
}

/// Ends a run by Ctrl-C as soon as `phase` is announced; its last words.
pub(crate) fn interrupt(run: &mut Command, phase: &str) -> Result<Option<String>, Failed> {
    let mut child = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stderr.take().ok_or("no standard error")?).lines();
    // Standard error is no terminal, so each stage is a line.
    let stage = format!("ipirig: {phase}");
    let announced = lines.any(|line| line.is_ok_and(|line| line == stage));
    ensure(announced, || format!("{phase} was never announced"))?;
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()?;
    ensure(kill.success(), || "kill failed".to_owned())?;
    let status = child.wait()?;
    ensure(status.code() == Some(130), || format!("{status:?}"))?;
    Ok(lines.map_while(Result::ok).last())
}

/// The path of the kernel that a run boots by default.
pub(crate) fn reference_kernel() -> String {
    let guest = ipirig(&["guest", "path"]);
    let paths = String::from_utf8_lossy(&guest.stdout);
    let kernel = paths.lines().find_map(|line| line.strip_prefix("kernel "));
    kernel.unwrap_or_default().trim().to_owned()
}
