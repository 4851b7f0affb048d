//! The crates of this project: they use each other as the picture in `vmm/README.md` has it, in one direction,
//! and none is so large that nobody finds anything in it.

#![expect(
    clippy::unwrap_used,
    reason = "a fixture that fails should stop its test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use ipirig_house::{ROOT, files, metadata};
use serde_json::Value;

/// They stand below the picture, each floor on the one before it: archives and the terminal, the guest's side, the emulated hosts, and this.
const BELOW: [&[&str]; 5] = [
    &["guest/archive", "vmm/terminal"],
    &[
        "guest/abi",
        "guest/kconfig",
        "guest/store",
        "guest/system",
        "vmm/bench",
        "vmm/house",
        "vmm/lab",
    ],
    &["guest/build", "guest/embedded", "guest/storms"],
    &["guest/agent"],
    &["guest/hostile"],
];
/// Lines of Rust that a crate may have, tests and benches with them.
const LINES_MAX: usize = 6000;
/// Those that are larger, for which `vmm/README.md` says why, and how large they may be.
const LARGE: [(&str, usize); 2] = [("vmm/machine", 17_000), ("vmm/cli", 6500)];

/// The directories of the crates in the picture, the command line first. Those of one floor, which is
/// between two lines that have nothing but a stroke, are together.
fn floors() -> Vec<Vec<String>> {
    let text = fs::read_to_string(format!("{ROOT}/vmm/README.md")).unwrap();
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
    let metadata = metadata(&["--no-deps"]);
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
    drawn.extend(BELOW.concat().into_iter().map(str::to_owned));
    drawn.sort();
    let mut there: Vec<String> = crates().into_iter().map(|one| one.dir).collect();
    there.sort();
    assert_eq!(drawn, there, "vmm/README.md and Cargo.toml");
}

#[test]
fn crates_use_those_below_them_only() {
    let floors = floors();
    let height = |dir: &str| {
        let below = BELOW.iter().position(|floor| floor.contains(&dir));
        let in_picture = || {
            let above = floors
                .iter()
                .position(|floor| floor.iter().any(|other| other == dir));
            BELOW.len() + floors.len() - above.unwrap()
        };
        below.unwrap_or_else(in_picture)
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

#[test]
fn a_crate_has_6000_lines_at_most() {
    let mut large = Vec::new();
    for Crate { dir, .. } in crates() {
        let argued = LARGE.iter().find(|(large, _)| *large == dir);
        let most = argued.map_or(LINES_MAX, |(_, most)| *most);
        let lines = |path| fs::read_to_string(path).unwrap().lines().count();
        let lines: usize = files(&dir, &["rs"]).into_iter().map(lines).sum();
        if lines > most {
            large.push(format!("{dir}: {lines} lines, {most} at most"));
        }
    }
    assert_eq!(large, [""; 0]);
}

#[test]
fn what_is_written_is_a_type_of_its_own_of_which_nothing_is_skipped() {
    // In pieces so that this file does not have it.
    let skipped = ["#[serde(", "skip)]"].concat();
    let sources = ["vmm", "guest"].map(|place| files(place, &["rs"])).concat();
    let has = |path: &&PathBuf| fs::read_to_string(path).unwrap().contains(&skipped);
    let wrong: Vec<&PathBuf> = sources.iter().filter(has).collect();
    assert_eq!(wrong, [""; 0].map(PathBuf::from).each_ref());
}
