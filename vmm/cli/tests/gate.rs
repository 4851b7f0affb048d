//! `ipirig gate` and `ipirig compare` on results that are there. `data` has two that were made on KVM:
//! `held.json` by `run static-key-flip`, `never-skips.json` by the same on the kernel of `guest path
//! --patch guest/kernel/mutants/never-skips.patch`. Gates that run guests are in `kvm`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ipirig_gate::Baseline;
use ipirig_gate::sweeps::SweepBaseline;
use ipirig_sweep::result::SCHEMA_VERSION;

const HELD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/held.json");
const MUTANT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/never-skips.json");

fn ipirig(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ipirig"))
        .args(args)
        .output()
        .expect("ipirig starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("ipirig prints UTF-8")
}

/// A directory for baselines and results.
struct Workspace(tempfile::TempDir);

impl Workspace {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Gates with baselines in this workspace; exit code, standard output, standard error.
    fn gate(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let dir = self.path("baselines");
        let workspace = ["gate", "--baseline", dir.to_str().expect("text")];
        let output = ipirig(&[&workspace, args].concat());
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    }

    /// A result in which `from` is `to`.
    fn edited(&self, from: &str, to: &str) -> String {
        let held = fs::read_to_string(HELD).expect("a file");
        assert!(held.contains(from), "{from}");
        let path = self.path("edited.json");
        fs::write(&path, held.replace(from, to)).expect("written");
        path.to_str().expect("text").to_owned()
    }

    fn files(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path("baselines")) else {
            return Vec::new();
        };
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names
            .map(|name| name.into_string().expect("text"))
            .collect()
    }
}

#[test]
fn without_a_baseline_the_gate_says_how_to_make_one_and_then_holds() {
    let workspace = Workspace::new();
    let (code, stdout, stderr) = workspace.gate(&["--from", HELD]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(
        stderr.contains(
            "baselines/static-key-flip.json: make it with `ipirig gate static-key-flip --accept`"
        ),
        "{stderr}"
    );
    assert_eq!(workspace.gate(&["--accept", "--from", HELD]).0, Some(0));
    assert_eq!(workspace.files(), ["static-key-flip.json"]);
    let (code, stdout, _) = workspace.gate(&["static-key-flip", "--from", HELD]);
    let expected = "same        static-key-flip\n\n1 same, 0 changed, 0 not known\n";
    assert_eq!((code, stdout.as_str()), (Some(0), expected));
}

#[test]
fn a_run_needs_its_baseline_before_it_begins() {
    let (code, stdout, stderr) = Workspace::new().gate(&["vmap-stack", "--deferral", "off"]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("vmap-stack.off.json"), "{stderr}");
    assert!(
        stderr.contains("`ipirig gate vmap-stack --deferral off --accept`"),
        "{stderr}"
    );
}

#[test]
fn a_mutant_kernel_makes_the_gate_fail_and_is_accepted_if_it_must() {
    let workspace = Workspace::new();
    workspace.gate(&["--accept", "--from", HELD]);
    let (code, stdout, stderr) = workspace.gate(&["--from", MUTANT]);
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    for words in [
        "changed     static-key-flip\n            verdict: held -> violated\n",
        "            check isolated-ipis: held -> violated\n              vCPU 2: 303 IPIs (",
        "            IPIs to isolated vCPUs, call-function: 0 -> 303 (3.00 an operation)\n",
        "            deferred: 303 ± 4 -> 0 (0.00 an operation)\n",
        "0 same, 1 changed, 0 not known\n",
    ] {
        assert!(stdout.contains(words), "{words}\n{stdout}");
    }
    assert!(stderr.contains("`ipirig gate --accept`"), "{stderr}");
    assert_eq!(workspace.gate(&["--accept", "--from", MUTANT]).0, Some(0));
    assert_eq!(workspace.gate(&["--from", MUTANT]).0, Some(0));
    assert_eq!(workspace.gate(&["--from", HELD]).0, Some(1));
}

/// A result in which each of `edits` is made.
fn changed_by(workspace: &Workspace, edits: &[(&str, &str)]) -> String {
    let mut text = fs::read_to_string(HELD).expect("a file");
    for (from, to) in edits {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let path = workspace.path("changed.json");
    fs::write(&path, text).expect("written");
    path.to_str().expect("text").to_owned()
}

#[test]
fn the_gate_compares_relations_and_not_instruction_numbers() {
    let workspace = Workspace::new();
    workspace.gate(&["--accept", "--from", HELD]);
    // As on another host: one instruction more on the way in.
    let elsewhere = changed_by(
        &workspace,
        &[
            ("\"set\": 3", "\"set\": 4"),
            ("\"text_cleared\": 7", "\"text_cleared\": 8"),
            ("\"catch_up\": 7", "\"catch_up\": 8"),
            (
                "\"first_instrumentable\": 124",
                "\"first_instrumentable\": 125",
            ),
        ],
    );
    let (code, stdout, _) = workspace.gate(&["--from", &elsewhere]);
    assert_eq!(code, Some(0), "{stdout}");
    for (edits, words) in [
        (
            &[(
                "\"first_instrumentable\": 124",
                "\"first_instrumentable\": 7",
            )][..],
            "entry by syscall, catch-up: before the first patchable instruction -> after the first",
        ),
        (
            &[
                ("\"set\": 3", "\"set\": 9"),
                ("\"catch_up\": 7", "\"catch_up\": null"),
            ],
            "entry by syscall, flag set: before the catch-up -> after the catch-up",
        ),
        (
            &[("\"cleared\": 793", "\"cleared\": 791")],
            "entry by syscall, flag cleared: after the user page table is loaded -> before",
        ),
        (
            &[("\"by_source\": {}", "\"by_source\": {\"1\": 1}")],
            "senders of IPIs to isolated vCPUs: none -> housekeeping",
        ),
    ] {
        let other = changed_by(&workspace, edits);
        let (code, stdout, _) = workspace.gate(&["--from", &other]);
        assert_eq!(code, Some(1), "{edits:?}: {stdout}");
        assert!(stdout.contains(words), "{words}\n{stdout}");
    }
}

#[test]
fn a_baseline_of_an_older_version_is_refused_with_the_next_step_which_keeps_its_tolerances() {
    let workspace = Workspace::new();
    workspace.gate(&["--accept", "--from", HELD]);
    let path = workspace.path("baselines/static-key-flip.json");
    let text = fs::read_to_string(&path).expect("a baseline");
    let old = text
        .replace("\"baseline_version\": 2", "\"baseline_version\": 1")
        .replace("\"tolerance\": 4", "\"tolerance\": 77");
    fs::write(&path, old).expect("written");
    let (code, stdout, stderr) = workspace.gate(&["--from", HELD]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    let words = "static-key-flip.json is a baseline of version 1, and this ipirig reads version 2: \
                 make it anew with `ipirig gate static-key-flip --accept`";
    assert!(stderr.contains(words), "{stderr}");
    assert_eq!(workspace.gate(&["--accept", "--from", HELD]).0, Some(0));
    let new = text.replace("\"tolerance\": 4", "\"tolerance\": 77");
    assert_eq!(fs::read_to_string(&path).expect("a baseline"), new);
}

#[test]
fn a_run_that_says_nothing_is_neither_compared_nor_accepted() {
    let workspace = Workspace::new();
    let broken = workspace.edited("\"verdict\": \"held\"", "\"verdict\": \"error\"");
    let (code, _, stderr) = workspace.gate(&["--accept", "--from", &broken]);
    assert_eq!((code, workspace.files().len()), (Some(3), 0));
    assert!(stderr.contains("no baseline was written"), "{stderr}");
    workspace.gate(&["--accept", "--from", HELD]);
    let (code, stdout, _) = workspace.gate(&["--from", &broken]);
    assert_eq!(code, Some(3), "{stdout}");
    assert!(
        stdout.contains("0 same, 0 changed, 1 not known"),
        "{stdout}"
    );
    let skipped = workspace.edited("\"verdict\": \"held\"", "\"verdict\": \"skipped\"");
    assert_eq!(workspace.gate(&["--from", &skipped]).0, Some(4));
}

#[test]
fn results_that_are_not_there_or_not_ours_are_usage_errors() {
    let workspace = Workspace::new();
    workspace.gate(&["--accept", "--from", HELD]);
    let old = workspace.edited("\"schema_version\": 3", "\"schema_version\": 2");
    for (args, words) in [
        (
            &["--from", "/no/such.json"][..],
            "cannot read /no/such.json: No such file",
        ),
        (
            &["--from", &old],
            "edited.json is a result of version 2, and this ipirig reads version 3",
        ),
        (&["--from", "/dev/null"], "/dev/null is no result: EOF"),
        (
            &["--from", HELD, HELD],
            "--from: static-key-flip is there twice",
        ),
        (
            &["vmap-stack", "--from", HELD],
            "--from: no result of vmap-stack",
        ),
        (&["no-such", "--from", HELD], "no scenario `no-such`"),
        (
            &["--from", HELD, "--vcpus", "3"],
            "cannot be used with '--vcpus <N>'",
        ),
        (&[], "<SCENARIOS>"),
    ] {
        let (code, stdout, stderr) = workspace.gate(args);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{words}\n{stderr}");
    }
}

#[test]
fn every_committed_baseline_is_of_a_scenario_and_every_scenario_has_one() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let names = |dir: &str, end: &str| -> Vec<String> {
        let entries = fs::read_dir(Path::new(root).join(dir)).unwrap();
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        let mut names: Vec<String> = entries
            .filter_map(|entry| Some(name(entry.unwrap()).strip_suffix(end)?.to_owned()))
            .collect();
        names.sort();
        names
    };
    let scenarios = names("scenarios", ".toml");
    let (off, on): (Vec<String>, Vec<String>) = names("results/baseline", ".json")
        .into_iter()
        .filter(|name| name != "sweep")
        .partition(|name| name.ends_with(".off"));
    assert_eq!(
        on, scenarios,
        "make them: cargo run --release -- gate all --accept"
    );
    let stray = off
        .iter()
        .find(|name| !on.contains(&name.replace(".off", "")));
    assert_eq!(stray, None);
    let dir = Path::new(root).join("results/baseline");
    for (names, deferral) in [(&on, true), (&off, false)] {
        for name in names {
            let scenario = name.strip_suffix(".off").unwrap_or(name);
            let read = Baseline::read(&dir, scenario, deferral);
            assert!(matches!(read, Ok(Some(_))), "{read:?}");
        }
    }
    let sweep = SweepBaseline::read(&dir).unwrap().unwrap();
    let violated = sweep
        .violated
        .iter()
        .find(|(_, violated)| !violated.is_empty());
    assert_eq!(violated, None, "of the reference kernel");
}

#[test]
fn a_sweep_is_compared_with_its_baseline_and_a_new_violation_fails_the_gate() {
    let workspace = Workspace::new();
    let sweep = |status: &str, violations: &str| {
        let path = workspace.path("sweep-result");
        let text = format!(
            r#"{{"schema_version":{SCHEMA_VERSION},"verdict":"{status}","why":null,"shard":"1/1","complete":true,"kernel":null,
            "paths":[{{"path":"syscall","instructions":[{{"address":"entry+0x0","text":"nop"}}],"why":null}}],
            "points":[{{"point":"nmi@syscall+0","status":"{status}","violations":[{violations}]}}],
            "timing":{{"sweep_s":1,"points_per_s":1,"total_s":1}}}}"#
        );
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let held = sweep("held", "");
    let (code, _, err) = workspace.gate(&["--sweep", &held]);
    assert_eq!(code, Some(2));
    assert!(err.contains("--accept"), "{err}");
    assert_eq!(workspace.gate(&["--sweep", &held, "--accept"]).0, Some(0));
    assert_eq!(workspace.gate(&["--sweep", &held]).0, Some(0));
    let violation = r#"{"invariant":"flag-set","at":"handler","words":"runs too early"}"#;
    let violated = sweep("violated", violation);
    let (code, out, _) = workspace.gate(&["--sweep", &violated]);
    assert_eq!(code, Some(1));
    assert!(
        out.contains("flag-set: held -> violated at entry+0x0") && out.contains("runs too early"),
        "{out}"
    );
}

#[test]
fn comparing_two_files_says_what_differs() {
    let same = ipirig(&["compare", HELD, HELD]);
    assert_eq!(same.status.code(), Some(0));
    let other = ipirig(&["compare", HELD, MUTANT]);
    let stdout = text(&other.stdout);
    assert_eq!(other.status.code(), Some(1), "{stdout}");
    for words in [
        "A  static-key-flip  held             0",
        "B  static-key-flip  violated       303",
        "changed     static-key-flip\n            verdict: held -> violated\n",
    ] {
        assert!(stdout.contains(words), "{words}\n{stdout}");
    }
    let workspace = Workspace::new();
    let alone = workspace.edited("\"name\": \"static-key-flip\"", "\"name\": \"another\"");
    let alone = ipirig(&["compare", HELD, &alone]);
    let stdout = text(&alone.stdout);
    assert_eq!(alone.status.code(), Some(1));
    assert!(
        stdout.contains("another\n            only in the second file"),
        "{stdout}"
    );
    let none = ipirig(&["compare", HELD, "/no/such.json"]);
    assert_eq!(
        (none.status.code(), text(&none.stdout).as_str()),
        (Some(2), "")
    );
}
