use std::fs;
use std::path::PathBuf;

use ipirig_checks as checks;
use ipirig_document::{RunDocument, SuiteDocument};
use ipirig_evidence::blame::{Attribution, Deferrable, Frame, Taken};
use ipirig_fake::{Script, evidence};
use ipirig_verdict::result::RunResult;

use super::*;

mod relations;

fn result(scenario: &str, script: Script) -> RunResult {
    let (plan, evidence) = evidence(scenario, None, script);
    let (checks, entries) = checks::judge(&plan, &evidence);
    let mut result = RunResult::new(&plan, checks).with_evidence(&plan, &evidence);
    result.entries = entries;
    result
}

fn good() -> Recorded {
    Recorded::of(&result("static-key-flip", Script::default())).unwrap()
}

/// A kernel that interrupts the isolated vCPU, and who did it.
fn bad() -> Recorded {
    let script = Script {
        ipis_per_operation: 2,
        ..Script::default()
    };
    let mut result = result("static-key-flip", script);
    let frame = |function: &str| Frame {
        address: 1,
        function: Some(function.to_owned()),
        offset: 0,
        inlined: Vec::new(),
    };
    let blame = |cause: &str, targets: [(usize, u64); 2], chain: &[&str]| Attribution {
        cause: cause.to_owned(),
        by: None,
        deferrable: Deferrable::Yes,
        kind: "call-function".to_owned(),
        source: 0,
        number: None,
        targets: targets.into(),
        taken: Taken::default(),
        chain: chain.iter().map(|function| frame(function)).collect(),
        broken: None,
    };
    result.blame = vec![
        blame("housekeeping only", [(0, 3), (1, 900)], &[]),
        blame("purge", [(1, 2), (2, 2)], &[]),
        blame(
            "text\x1b poke",
            [(1, 200), (2, 200)],
            &["a", "b", "c", "d", "e"],
        ),
    ];
    Recorded::of(&result).unwrap()
}

/// Each change, and below it why.
fn lines(compared: &Compared) -> Vec<String> {
    let changes = match &compared.outcome {
        Outcome::Same => &[][..],
        Outcome::Changed(changes) => changes,
        _ => panic!("{compared:?}"),
    };
    let mut lines = Vec::new();
    for Change { what, was, is, why } in changes {
        lines.push(format!("{what}: {was} -> {is}"));
        lines.extend(why.iter().map(|why| format!("  {why}")));
    }
    lines
}

fn only(compared: Compared) -> Vec<Compared> {
    vec![compared]
}

#[test]
fn a_run_like_its_baseline_is_the_same() {
    let compared = only(Compared::new(&Baseline::of(&good()), &good()));
    assert_eq!(
        (compared[0].outcome.clone(), code(&compared)),
        (Outcome::Same, Code::Ok)
    );
}

#[test]
fn a_baseline_has_what_is_compared_and_nothing_else() {
    assert_eq!(
        Baseline::of(&good()).to_json().unwrap(),
        r#"{
  "baseline_version": 2,
  "scenario": "static-key-flip",
  "deferral": true,
  "operations": 101,
  "vcpus": {
    "control": 1,
    "housekeeping": 1,
    "isolated": 1
  },
  "verdict": "held",
  "checks": {
    "completed-on-entry": "held",
    "danger-zone": "held",
    "flag-order": "held",
    "isolated-ipis": "held",
    "kernel-counters": "held",
    "no-way-round": "held",
    "nothing-lost": "held",
    "storm-ran": "held",
    "user-space-throughout": "held"
  },
  "isolated_ipis": {},
  "isolated_senders": [],
  "housekeeping_ipis": {
    "count": 101,
    "tolerance": 110
  },
  "deferred": {
    "count": 303,
    "tolerance": 4
  },
  "caught_up": {
    "count": 303,
    "tolerance": 4
  },
  "entries": {
    "syscall": {
      "catch_up": "before-instrumentable",
      "danger": [],
      "flag_set": "before-catch-up",
      "flag_cleared": "after-user-table"
    }
  }
}
"#
    );
}

#[test]
fn what_changed_is_said_with_who_did_it() {
    let compared = only(Compared::new(&Baseline::of(&good()), &bad()));
    assert_eq!(code(&compared), Code::Violated);
    let lines = lines(&compared[0]);
    for words in [
        &["verdict: held -> violated"][..],
        &[
            "check isolated-ipis: held -> violated",
            "  vCPU 2: 202 IPIs (call-function 202) from vCPU 0, 2.00 per operation",
        ],
        &[
            "IPIs to isolated vCPUs, call-function: 0 -> 202 (2.00 an operation)",
            "  200 text  poke, vCPU 0: a < b < c < d",
            "  2 purge, vCPU 0",
        ],
    ] {
        assert!(
            lines.windows(words.len()).any(|at| at == words),
            "{words:?}\n{lines:#?}"
        );
    }
    assert!(!lines.concat().contains("housekeeping only"), "{lines:#?}");
}

/// The changes after `edit` was made to a good run.
fn after(edit: impl Fn(&mut Recorded)) -> Vec<String> {
    let mut run = good();
    edit(&mut run);
    let changes = changes(&Baseline::of(&good()), &run);
    changes
        .into_iter()
        .map(|change| format!("{}: {} -> {}", change.what, change.was, change.is))
        .collect()
}

#[test]
fn every_field_can_change_and_tolerances_are_kept_to() {
    let isolated = |run: &mut Recorded, kind: &str, sent| {
        run.vcpus[2].window.by_vector.insert(kind.to_owned(), sent);
    };
    assert_eq!(
        after(|run| isolated(run, "call-function-single", 1)),
        ["IPIs to isolated vCPUs, call-function: 0 -> 1 (0.01 an operation)"]
    );
    assert_eq!(
        after(|run| isolated(run, "nmi", u64::MAX)),
        [
            "IPIs to isolated vCPUs, nmi: 0 -> 18446744073709551615 (182641030432767840.00 an operation)"
        ]
    );
    let housekeeping = |sent| {
        after(|run| {
            run.vcpus[1]
                .window
                .by_vector
                .insert("call-function".to_owned(), sent);
        })
    };
    assert_eq!(housekeeping(101 + 110), [""; 0]);
    assert_eq!(
        housekeeping(101 + 111),
        ["IPIs to housekeeping vCPUs: 101 ± 110 -> 212 (2.10 an operation)"]
    );
    let count = Count {
        count: 300,
        tolerance: 210,
    };
    assert_eq!(
        [89, 90, 510, 511].map(|other| count.allows(other)),
        [false, true, true, false]
    );
    assert_eq!(after(|run| run.vcpus[2].deferred = Some(307)), [""; 0]);
    assert_eq!(
        after(|run| run.vcpus[2].deferred = Some(308)),
        ["deferred: 303 ± 4 -> 308 (3.05 an operation)"]
    );
    assert_eq!(
        after(|run| run.vcpus[2].caught_up = None),
        ["caught up: 303 ± 4 -> not counted"]
    );
    assert_eq!(
        after(|run| run.scenario.operations = 100),
        ["operations: 101 -> 100"]
    );
    assert_eq!(
        after(|run| run.vcpus[0].role = "isolated".to_owned())[..2],
        ["vCPUs, control: 1 -> 0", "vCPUs, isolated: 1 -> 2"]
    );
    assert_eq!(
        after(|run| drop(run.checks.remove(5))),
        ["check flag-order: held -> absent"]
    );
}

#[test]
fn who_sends_ipis_to_isolated_vcpus_is_compared_by_role() {
    let sent_by = |sources: &[(usize, u64)]| {
        let mut run = good();
        run.vcpus[2].window.by_source = sources.iter().copied().collect();
        Baseline::of(&run).isolated_senders
    };
    assert_eq!(sent_by(&[(0, 3), (1, 0)]), ["control".to_owned()].into());
    assert_eq!(
        after(|run| run.vcpus[2].window.by_source = [(1, 1)].into()),
        ["senders of IPIs to isolated vCPUs: none -> housekeeping"]
    );
}

#[test]
fn a_call_to_one_cpu_is_a_call_like_that_to_several() {
    let run = |vectors: &[(&str, u64)]| {
        let mut run = good();
        let vectors = vectors
            .iter()
            .map(|(name, sent)| ((*name).to_owned(), *sent));
        run.vcpus[2].window.by_vector = vectors.collect();
        run
    };
    let was = Baseline::of(&run(&[("call-function", 301), ("call-function-single", 2)]));
    assert_eq!(changes(&was, &run(&[("call-function", 303)])), []);
    assert_eq!(changes(&was, &run(&[("call-function", 301)])), []);
    assert_eq!(changes(&was, &run(&[("call-function", 300)])).len(), 1);
}

#[test]
fn a_run_that_says_nothing_is_no_change_and_no_pass() {
    let mut run = good();
    run.verdict = Verdict::Error;
    run.checks[7].status = Verdict::Error;
    run.checks[7].evidence = "an event was\nlost".to_owned();
    let compared = only(Compared::new(&Baseline::of(&good()), &run));
    assert_eq!(code(&compared), Code::Error);
    let why = "nothing-lost: an event was lost".to_owned();
    let verdict = Verdict::Error;
    assert_eq!(compared[0].outcome, Outcome::CannotTell { verdict, why });
    run.verdict = Verdict::Skipped;
    let skipped = Compared::new(&Baseline::of(&good()), &run);
    assert_eq!(code(std::slice::from_ref(&skipped)), Code::Skipped);
    assert_eq!(code(&[skipped, compared[0].clone()]), Code::Error);
    assert_eq!(code(&[]), Code::Error);
}

#[test]
fn two_files_are_compared_by_scenario_and_deferral() {
    let mut off = good();
    off.scenario.deferral = false;
    let outcomes: Vec<(bool, Outcome)> = side_by_side(&[good(), off.clone()], &[good()])
        .into_iter()
        .map(|one| (one.deferral, one.outcome))
        .collect();
    let alone = |only| Outcome::Alone { only };
    assert_eq!(outcomes, [(true, Outcome::Same), (false, alone("first"))]);
    let compared = side_by_side(&[good()], &[bad(), off]);
    assert!(matches!(compared[0].outcome, Outcome::Changed(_)));
    assert_eq!(compared[1].outcome, alone("second"));
}

#[test]
fn a_new_baseline_keeps_the_tolerances_that_someone_chose() {
    let dir = tempfile::tempdir().unwrap();
    // Of a version before, which cannot be compared with any more.
    let old = r#"{"baseline_version": 1, "catch_up_by": {},
        "isolated_ipis": {"call-function": {"count": 5, "tolerance": 1}, "nmi": {"count": 1, "tolerance": 9}},
        "housekeeping_ipis": {"count": 1, "tolerance": 7}}"#;
    file(&dir, "static-key-flip.json", old);
    let old = Baseline::tolerances(dir.path(), "static-key-flip", true);
    let new = Baseline::of(&bad()).in_place_of(&old);
    let expected = Count {
        count: 202,
        tolerance: 1,
    };
    assert_eq!(new.isolated_ipis["call-function"], expected);
    assert_eq!(
        (new.housekeeping_ipis.tolerance, new.deferred),
        (7, Baseline::of(&bad()).deferred)
    );
    for text in ["{}", "x"] {
        file(&dir, "static-key-flip.json", text);
        let old = Baseline::tolerances(dir.path(), "static-key-flip", true);
        assert_eq!(old, Tolerances::default());
    }
}

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

/// An error with its causes.
fn words(error: &ReadError) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        words = format!("{words}: {error}");
        source = error.source();
    }
    words
}

#[test]
fn results_of_one_run_and_of_several_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let run = || result("static-key-flip", Script::default());
    let one = file(
        &dir,
        "one.json",
        &RunDocument::from(&run()).to_json().unwrap(),
    );
    let suite = ipirig_document::suite::Suite::new(vec![run(), run()]);
    let two = file(
        &dir,
        "two.json",
        &SuiteDocument::from(&suite).to_json().unwrap(),
    );
    assert_eq!(Recorded::read(&one).unwrap(), [good()]);
    assert_eq!(Recorded::read(&two).unwrap(), [good(), good()]);
}

#[test]
fn a_second_run_of_a_scenario_has_the_same_baseline() {
    let dir = tempfile::tempdir().unwrap();
    let mut again = result("static-key-flip", Script::default());
    again.scenario.name += ":2";
    let path = file(
        &dir,
        "again.json",
        &RunDocument::from(&again).to_json().unwrap(),
    );
    let read = Recorded::read(&path).unwrap();
    assert_eq!(read[0].scenario.name, "static-key-flip:2");
    assert_eq!(Baseline::of(&read[0]), Baseline::of(&good()));
}

#[test]
fn files_that_are_no_results_are_refused_by_name_and_version() {
    let dir = tempfile::tempdir().unwrap();
    let run = result("static-key-flip", Script::default());
    let json = RunDocument::from(&run).to_json().unwrap();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let cases = [
        (
            "",
            "x.json is no result: EOF while parsing a value at line 1 column 0",
        ),
        ("{}", "x.json is no result: it has no `schema_version`"),
        ("[]", "x.json is no result: it has no `schema_version`"),
        (&deep, "x.json is no result: recursion limit exceeded"),
        (
            "{\"schema_version\": 3}",
            "x.json is no result: missing field `verdict`",
        ),
        (
            "{\"schema_version\": 3, \"runs\": []}",
            "x.json is no result: it has no runs",
        ),
        (
            "{\"schema_version\": 2, \"verdict\": \"held\"}",
            "x.json is a result of version 2, and this ipirig reads version 3: make it anew",
        ),
        (
            &json.replace("\"static-key-flip\"", "\"../../etc/passwd\""),
            "x.json is no result: \"../../etc/passwd\" is no scenario's name",
        ),
        (
            &json.replace("\"held\"", "\"fine\""),
            "x.json is no result: unknown variant `fine`",
        ),
        (
            &json
                .replace("\"ipis_targeted\": 0,", "")
                .replace("\"by_vector\": {}", "\"by_vector\": {\"a\": -1}"),
            "x.json is no result: invalid value: integer `-1`, expected u64",
        ),
    ];
    for (text, expected) in cases {
        let path = file(&dir, "x.json", text);
        let error = words(&Recorded::read(&path).unwrap_err());
        assert!(error.contains(expected), "{expected}\n{error}");
        assert!(error.contains(&*dir.path().to_string_lossy()), "{error}");
    }
    let error = words(&Recorded::read(&dir.path().join("none.json")).unwrap_err());
    assert!(error.contains("none.json: No such file"), "{error}");
}

#[test]
fn baselines_are_found_by_scenario_and_deferral_and_checked_to_be_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let read = |deferral| Baseline::read(dir.path(), "static-key-flip", deferral);
    assert_eq!(read(true).unwrap(), None);
    let baseline = Baseline::of(&good());
    let json = baseline.to_json().unwrap();
    file(&dir, "static-key-flip.json", &json);
    assert_eq!(read(true).unwrap(), Some(baseline));
    file(&dir, "static-key-flip.off.json", &json);
    let error = words(&read(false).unwrap_err());
    assert!(
        error.ends_with(
            "static-key-flip.off.json is no baseline: it is of \"static-key-flip\", deferral on"
        ),
        "{error}"
    );
    file(
        &dir,
        "static-key-flip.json",
        &json.replace("\"baseline_version\": 2", "\"baseline_version\": 9"),
    );
    let error = words(&read(true).unwrap_err());
    assert!(
        error.ends_with(
            "is a baseline of version 9, and this ipirig reads version 2: make it anew with \
             `ipirig gate static-key-flip --accept`"
        ),
        "{error}"
    );
    file(
        &dir,
        "static-key-flip.json",
        &json.replace("\"deferred\"", "\"defered\""),
    );
    let error = words(&read(true).unwrap_err());
    assert!(error.contains("unknown field `defered`"), "{error}");
}
