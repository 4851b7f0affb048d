//! All scenarios together, with and without deferral.

use std::path::Path;

use libtest_mimic::Failed;
use serde_json::Value;

use crate::harness::{ensure, ipirig, stderr};
use crate::machines;

/// A line for each check that is not held, of all runs of a suite.
fn others(suite: &[u8]) -> String {
    let suite: Value = match serde_json::from_slice(suite) {
        Ok(suite) => suite,
        Err(why) => return format!("no result: {why}"),
    };
    let runs = suite["runs"].as_array().into_iter().flatten();
    let checks = runs.flat_map(|run| {
        let checks = run["checks"].as_array().into_iter().flatten();
        checks.map(|check| (&run["scenario"]["name"], check))
    });
    checks
        .filter(|(_, check)| check["status"] != "held")
        .map(|(name, check)| format!("{name}: {check}\n"))
        .collect()
}

/// Name, verdict, group, and IPIs to isolated vCPUs of each run.
/// The results stay in Cargo's directory for tests as `file`, for the gate of .ci/run.
fn run_all(
    file: &str,
    args: &[&str],
    code: i32,
) -> Result<Vec<(String, String, String, u64)>, Failed> {
    let output = ipirig(&[&["run", "all", "--json", "-"], args].concat());
    // Which of them it was comes first: the whole of their progress is long.
    ensure(output.status.code() == Some(code), || {
        let status = output.status;
        let others = others(&output.stdout);
        format!(
            "{status:?} instead of exit code {code}\n{others}\n{}",
            stderr(&output)
        )
    })?;
    let suite: Value = serde_json::from_slice(&output.stdout)?;
    machines::fits_the_schema(&suite)?;
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
    std::fs::write(file, &output.stdout)?;
    let runs = suite["runs"].as_array().cloned().unwrap_or_default();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let isolated = |run: &Value| -> u64 {
        let vcpus = run["vcpus"].as_array().into_iter().flatten();
        vcpus
            .filter(|vcpu| vcpu["role"] == "isolated")
            .filter_map(|vcpu| vcpu["window"]["ipis_targeted"].as_u64())
            .sum()
    };
    Ok(runs
        .iter()
        .map(|run| {
            let scenario = &run["scenario"];
            (
                word(&scenario["name"]),
                word(&run["verdict"]),
                word(&scenario["group"]),
                isolated(run),
            )
        })
        .collect())
}

pub(crate) fn held() -> Result<(), Failed> {
    let runs = run_all("catalogue.json", &[], 0)?;
    ensure(runs.len() >= 19, || format!("{} runs", runs.len()))?;
    for (name, verdict, group, ipis) in &runs {
        let right = match (group.as_str(), name.as_str()) {
            ("must-deliver", _) => *ipis > 0,
            // One flush for each program may not be deferred.
            (_, "bpf-jit") => *ipis >= 3,
            _ => *ipis == 0,
        };
        ensure(verdict == "held" && right, || {
            format!("{name} is {verdict}, with {ipis} IPIs")
        })?;
    }
    Ok(())
}

pub(crate) fn without_deferral() -> Result<(), Failed> {
    for (name, verdict, group, ipis) in run_all("catalogue-off.json", &["--deferral", "off"], 1)? {
        let expected = if group == "must-deliver" {
            "held"
        } else {
            "violated"
        };
        ensure(verdict == expected && ipis > 0, || {
            format!("{name} is {verdict}, with {ipis} IPIs")
        })?;
    }
    Ok(())
}
