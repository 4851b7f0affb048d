//! KTAP, read by the kernel's own `kunit.py`.

use std::path::{Path, PathBuf};
use std::process::Command;

use ipirig_checks::check::Verdict;
use ipirig_guest::Places;
use ipirig_report::ktap::ktap;
use serde_json::Value;

use crate::{testing, works};
use libtest_mimic::Failed;

/// The kernel's reader, from a kept kernel tree.
pub(crate) fn find() -> Result<PathBuf, String> {
    if !works("python3") {
        return Err("no python3".to_owned());
    }
    let trees = Places::find().map_err(|error| error.to_string())?.cache;
    let trees = std::fs::read_dir(trees.join("tree"));
    let mut readers = trees
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|tree| tree.path().join("linux/tools/testing/kunit/kunit.py"));
    readers
        .find(|reader| reader.is_file())
        .ok_or_else(|| "no kept kernel tree: `ipirig mutants` makes one".to_owned())
}

/// Scenario, check and status, as `kunit.py parse --json` says them.
pub(crate) fn agrees(kunit: &Path) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let (file, json) = (
        dir.path().join("results.ktap"),
        dir.path().join("read.json"),
    );
    let mut runs = testing::runs();
    // A second run of the first scenario.
    let mut again = testing::runs().swap_remove(0);
    again.scenario.name += ":2";
    runs.push(again);
    std::fs::write(&file, ktap(&runs))?;
    let output = Command::new("python3")
        .args(["-B".as_ref(), kunit.as_os_str(), "parse".as_ref()])
        .arg(format!("--json={}", json.display()))
        .arg(&file)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // It complains of what is no KTAP on lines of their own, and goes on.
    if said.contains("[ERROR]") || said.contains("[CRASHED]") {
        return Err(said.into());
    }
    let read: Value = serde_json::from_str(&std::fs::read_to_string(json)?)?;
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let read: Vec<(String, String, String)> = list(&read["sub_groups"])
        .iter()
        .flat_map(|group| {
            let cases = list(&group["test_cases"]).into_iter();
            cases.map(|case| {
                (
                    word(&group["name"]),
                    word(&case["name"]),
                    word(&case["status"]),
                )
            })
        })
        .collect();
    let status = |status| match status {
        Verdict::Held => "PASS",
        Verdict::Violated | Verdict::Error => "FAIL",
        Verdict::Skipped => "SKIP",
    };
    let written: Vec<(String, String, String)> = runs
        .iter()
        .flat_map(|run| run.checks.iter().map(move |check| (run, check)))
        .map(|(run, check)| {
            let name = run.scenario.name.clone();
            (name, check.name.to_owned(), status(check.status).to_owned())
        })
        .collect();
    if read == written {
        Ok(())
    } else {
        Err(format!("{read:?}\n{written:?}\n{said}").into())
    }
}
