//! How the crates of this project use each other: in one direction only.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a fixture that fails should stop its test"
)]

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// Where the crates stand, the command line on top. A crate uses those that stand below it and no
/// others, in its tests and benches too.
const FLOORS: [&[&str]; 10] = [
    &["ipirig"],
    &["ipirig-report"],
    &["ipirig-gate"],
    &["ipirig-verdict"],
    &["ipirig-rig"],
    &["ipirig-evidence"],
    &["ipirig-machine", "ipirig-scenario"],
    &["ipirig-audit"],
    &["ipirig-apic", "ipirig-blame", "ipirig-entry"],
    &["ipirig-image"],
];
/// They stand on the ground, beside each other: the guest's side, and the emulated hosts.
const GROUND: [&str; 4] = ["ipirig-abi", "ipirig-agent", "ipirig-guest", "ipirig-lab"];

fn floor(name: &str) -> usize {
    let found = FLOORS.iter().position(|floor| floor.contains(&name));
    match found {
        Some(at) => FLOORS.len() - at,
        None if name == "ipirig-agent" => 1,
        None if GROUND.contains(&name) => 0,
        None => unreachable!("{name} has no floor: say in vmm/cli/tests/house.rs where it stands"),
    }
}

/// Each crate of this project, with those that it names in its Cargo.toml.
fn uses() -> Vec<(String, BTreeSet<String>)> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeSet<String> = packages.iter().map(|p| text(&p["name"])).collect();
    let used = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap();
        let used = all.iter().map(|dependency| text(&dependency["name"]));
        used.filter(|name| names.contains(name)).collect()
    };
    packages
        .iter()
        .map(|package| (text(&package["name"]), used(package)))
        .collect()
}

#[test]
fn crates_use_those_below_them_only() {
    let mut wrong = Vec::new();
    for (name, used) in uses() {
        for other in used {
            if floor(&other) >= floor(&name) {
                wrong.push(format!("{name} uses {other}"));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}
