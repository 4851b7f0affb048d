//! The guest's own trace of its IPIs beside the ledger. Boots the kernel with tracing.

use libtest_mimic::Failed;
use serde_json::Value;

use crate::entries::reference_initramfs;
use crate::harness::{REFERENCE_MEMORY, ensure, reference_kernel, run};

/// Runs a scenario with `--cross-check`; the IPIs that both records have, by role of their target.
fn compared(
    scenario: &str,
    args: &[&str],
    code: i32,
    expected: &str,
) -> Result<(u64, u64), Failed> {
    let args = [&["--cross-check", "--timeout", "300"], args].concat();
    let (result, table) = run(scenario, &args, code)?;
    ensure(status(&result) == expected, || table.clone())?;
    let compared = &result["cross_check"];
    let list = |name: &str| compared[name].as_array().cloned().unwrap_or_default();
    let unexplained = list("differences").iter().any(|d| d["rule"].is_null());
    ensure(!unexplained, || table.clone())?;
    // Each IPI that both have came from where the kernel says.
    let callsites = ["compared", "on_stack"].map(|name| compared["callsites"][name].as_u64());
    let pairs: Vec<_> = list("cpus")
        .iter()
        .map(|cpu| cpu["pairs"].as_u64())
        .collect();
    let pairs: Option<u64> = pairs.into_iter().sum();
    ensure(callsites == [pairs; 2], || table.clone())?;
    let both = |role: &str| -> u64 {
        let cpus = list("cpus");
        let cpus = cpus.iter().filter(|cpu| cpu["role"] == role);
        cpus.filter_map(|cpu| cpu["pairs"].as_u64()).sum()
    };
    Ok((both("housekeeping"), both("isolated")))
}

fn status(result: &Value) -> &str {
    let checks = result["checks"].as_array().into_iter().flatten();
    let mut found = checks.filter(|check| check["name"] == "cross-check");
    found
        .next()
        .and_then(|check| check["status"].as_str())
        .unwrap_or_default()
}

pub(crate) fn with_deferral() -> Result<(), Failed> {
    for scenario in ["static-key-flip", "vunmap-storm"] {
        let (housekeeping, isolated) = compared(scenario, &[], 0, "held")?;
        ensure(housekeeping >= 100 && isolated == 0, || {
            format!("{scenario}: {housekeeping} and {isolated} IPIs in both records")
        })?;
    }
    Ok(())
}

pub(crate) fn without_deferral() -> Result<(), Failed> {
    for scenario in ["static-key-flip", "vunmap-storm"] {
        let off = ["--deferral", "off"];
        let (housekeeping, isolated) = compared(scenario, &off, 1, "held")?;
        ensure(housekeeping >= 100 && isolated >= 100, || {
            format!("{scenario}: {housekeeping} and {isolated} IPIs in both records")
        })?;
    }
    Ok(())
}

pub(crate) fn without_tracing() -> Result<(), Failed> {
    let (kernel, initramfs) = (reference_kernel(), reference_initramfs());
    let args = [
        "--cross-check",
        "--kernel",
        &kernel,
        "--initramfs",
        &initramfs,
        "--memory",
        REFERENCE_MEMORY,
    ];
    let (result, table) = run("static-key-flip", &args, 0)?;
    ensure(
        status(&result) == "skipped"
            && result["verdict"] == "held"
            && table.contains("no CONFIG_TRACING"),
        || table.clone(),
    )
}
