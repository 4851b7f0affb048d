//! How the crates of this project use each other: as the picture in `vmm/README.md` has it, in one direction.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a fixture that fails should stop its test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::Value;

/// The picture of the crates.
const MAP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
/// They stand on the ground, beside each other: the guest's side, and the emulated hosts.
const GROUND: [&str; 3] = ["guest/abi", "guest/build", "vmm/lab"];

/// The directories of the crates in the picture, the command line first. Those of one floor, which is
/// between two lines that have nothing but a stroke, are together.
fn floors() -> Vec<Vec<String>> {
    let text = fs::read_to_string(MAP).unwrap();
    let drawn = text.lines().skip_while(|line| !line.starts_with("    "));
    let drawn = drawn.take_while(|line| line.starts_with("    "));
    let mut floors = vec![Vec::new()];
    for line in drawn {
        let mut words = line.split_whitespace();
        match words.find(|word| word.starts_with("vmm/")) {
            Some(dir) => floors.last_mut().unwrap().push(dir.to_owned()),
            None => floors.push(Vec::new()),
        }
    }
    floors
        .into_iter()
        .filter(|floor| !floor.is_empty())
        .collect()
}

/// A crate, by its directory, and the directories of those that it names in its Cargo.toml.
struct Crate {
    dir: String,
    uses: BTreeSet<String>,
}

fn crates() -> Vec<Crate> {
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
    let root = text(&metadata["workspace_root"]);
    let packages = metadata["packages"].as_array().unwrap();
    let dir = |package: &Value| {
        let manifest = text(&package["manifest_path"]);
        let dir = manifest.strip_suffix("/Cargo.toml").unwrap();
        dir.strip_prefix(&format!("{root}/")).unwrap().to_owned()
    };
    let dirs: BTreeMap<String, String> = packages
        .iter()
        .map(|p| (text(&p["name"]), dir(p)))
        .collect();
    let uses = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap();
        let names = all.iter().map(|dependency| text(&dependency["name"]));
        names.filter_map(|name| dirs.get(&name).cloned()).collect()
    };
    let one = |package| Crate {
        dir: dir(package),
        uses: uses(package),
    };
    packages.iter().map(one).collect()
}

#[test]
fn each_crate_has_one_place_in_the_picture() {
    let mut drawn: Vec<String> = floors().concat();
    drawn.extend(GROUND.map(str::to_owned));
    drawn.push("guest/agent".to_owned());
    drawn.sort();
    let mut there: Vec<String> = crates().into_iter().map(|one| one.dir).collect();
    there.sort();
    assert_eq!(drawn, there, "vmm/README.md and Cargo.toml");
}

#[test]
fn crates_use_those_below_them_only() {
    let floors = floors();
    let height = |dir: &str| {
        let above = floors
            .iter()
            .position(|floor| floor.iter().any(|other| other == dir));
        match above {
            Some(above) => 1 + floors.len() - above,
            None => usize::from(dir == "guest/agent"),
        }
    };
    let mut wrong = Vec::new();
    for Crate { dir, uses } in crates() {
        for other in uses {
            if height(&other) >= height(&dir) {
                wrong.push(format!("{dir} uses {other}"));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}
