use ipirig_abi::Role;

use super::*;

const GOOD: &str = "\
name = \"mine\"
group = \"text\"
summary = \"A line\"
[storm]
kind = \"static-key-flip\"
flips = 101
";

fn error(text: &str) -> String {
    Scenario::parse("x.toml", text).unwrap_err().to_string()
}

#[test]
fn built_in_scenarios_are_valid_under_their_file_names() {
    let names: Vec<String> = Scenario::all()
        .unwrap()
        .into_iter()
        .map(|s| s.name)
        .collect();
    assert_eq!(names, builtin::FILES.map(|(stem, _)| stem));
}

#[test]
fn built_in_storms_have_at_least_a_hundred_operations_and_allow_no_ipi() {
    for scenario in Scenario::all().unwrap() {
        // Of the matrix the entries are the point, not the storm.
        let least = if scenario.entries.len() > 1 { 5 } else { 100 };
        assert!(scenario.storm.operations() >= least, "{}", scenario.name);
        assert_eq!(scenario.expect.isolated_ipis_max, 0, "{}", scenario.name);
    }
}

#[test]
fn every_file_in_scenarios_is_built_in() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios");
    let mut files: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let mut built_in = builtin::FILES.map(|(stem, _)| format!("{stem}.toml"));
    built_in.sort();
    assert_eq!(files, built_in);
}

#[test]
fn static_key_flip_reads_as_written() {
    assert_eq!(
        Scenario::find("static-key-flip").unwrap(),
        Scenario {
            name: "static-key-flip".into(),
            group: "text".into(),
            summary: "Flip a static key: each flip syncs every CPU's instruction stream three \
                      times"
                .into(),
            vcpus: Vcpus {
                housekeeping: 1,
                isolated: 1,
                further: Role::Housekeeping
            },
            storm: Storm::StaticKeyFlip { flips: 101 },
            entries: vec![EntryKind::Syscall],
            expect: Expectations {
                isolated_ipis_max: 0,
                housekeeping_ipis_min: 1
            },
        }
    );
}

#[test]
fn what_a_file_leaves_out_has_a_default() {
    let scenario = Scenario::parse("x.toml", GOOD).unwrap();
    assert_eq!(
        (scenario.vcpus, scenario.expect),
        (
            Vcpus {
                housekeeping: 1,
                isolated: 1,
                further: Role::Housekeeping
            },
            Expectations {
                isolated_ipis_max: 0,
                housekeeping_ipis_min: 1
            }
        )
    );
}

#[test]
fn an_unknown_name_gets_a_suggestion_or_the_list() {
    assert_eq!(
        Scenario::find("static-key-filp").unwrap_err().to_string(),
        "no scenario `static-key-filp`: did you mean `static-key-flip`?"
    );
    assert_eq!(
        Scenario::find("nothing").unwrap_err().to_string(),
        "no scenario `nothing`: there are entry-matrix, static-key-flip, vunmap-storm (or give \
         the path of a .toml file)"
    );
}

#[test]
fn an_unknown_key_is_underlined_with_what_is_allowed() {
    assert_eq!(
        error(&GOOD.replace("flips", "flps")),
        "x.toml:6:1: unknown key `flps`\n  |\n6 | flps = 101\n  | ^^^^\n  = did you mean `flips`? \
         allowed here: kind, flips, rounds, pages"
    );
}

#[test]
fn an_even_number_of_flips_is_refused_with_the_reason() {
    assert_eq!(
        error(&GOOD.replace("101", "100")),
        "x.toml:6:9: flips = 100 is even\n  |\n6 | flips = 100\n  |         ^^^\n  = an odd \
         number: after an even one the branch is where it was, and whether an isolated vCPU \
         caught up could not be seen"
    );
}

#[test]
fn each_mistake_is_found_at_its_place() {
    let vcpus = |line: &str| format!("{GOOD}[vcpus]\n{line}\n");
    let expect = |line: &str| format!("{GOOD}[expect]\n{line}\n");
    let cases = [
        (
            GOOD.replace("101", "0"),
            "x.toml:6:9: flips = 0 is out of range",
        ),
        (
            GOOD.replace("101", "1000001"),
            "x.toml:6:9: flips = 1000001 is out of range",
        ),
        (
            GOOD.replace("101", "-1"),
            "x.toml:6:9: invalid value: integer `-1`, expected u64",
        ),
        (
            GOOD.replace("101", "\"many\""),
            "x.toml:6:9: invalid type: string \"many\", expected u64",
        ),
        (
            GOOD.replace("flips = 101\n", ""),
            "x.toml:5:8: a storm of kind `static-key-flip` needs",
        ),
        (
            format!("{GOOD}pages = 3\n"),
            "x.toml:7:9: `pages` means nothing to kind",
        ),
        (
            GOOD.replace("-flip\"", "-flop\""),
            "x.toml:5:8: no kind of storm `static-key-flop`",
        ),
        (GOOD.replace("mine", "My Name"), "x.toml:1:8: not a name"),
        (GOOD.replace("mine", ""), "x.toml:1:8: not a name"),
        (
            GOOD.replace("A line", "two\\nlines"),
            "x.toml:3:11: not a summary",
        ),
        (GOOD.replace("name = ", "name ="), ""),
        (
            GOOD.replace("[storm]", "[strom]"),
            "x.toml:4:2: unknown key `strom`",
        ),
        (
            GOOD.replace("flips = 101", "flips = 101\nflips = 3"),
            "x.toml:7:1: duplicate key",
        ),
        (
            GOOD.replace("name = \"mine\"", "name = mine"),
            "x.toml:1:8: ",
        ),
        (
            vcpus("isolated = 0"),
            "x.toml:8:12: isolated = 0 is out of range",
        ),
        (
            vcpus("isolated = 64"),
            "x.toml:8:12: isolated = 64 is out of range",
        ),
        (
            vcpus("housekeeping = 40\nisolated = 40"),
            "x.toml:9:12: 81 vCPUs are too many",
        ),
        (
            vcpus("further = \"isolate\""),
            "x.toml:8:11: no role `isolate`",
        ),
        (vcpus("control = 2"), "x.toml:8:1: unknown key `control`"),
        (
            expect("housekeeping_ipis_min = 0"),
            "x.toml:8:25: housekeeping_ipis_min = 0 is out of",
        ),
        (
            expect("isolated_ipis = 0"),
            "x.toml:8:1: unknown key `isolated_ipis`",
        ),
    ];
    for (text, message) in cases {
        if message.is_empty() {
            assert!(Scenario::parse("x.toml", &text).is_ok(), "{text}");
        } else {
            let error = error(&text);
            assert!(
                error.starts_with(message),
                "{error}\nfor\n{text}\nwanted {message}"
            );
            assert!(error.contains('^'), "{error}");
        }
    }
}

#[test]
fn missing_keys_are_named() {
    for (key, line) in [
        ("name", "name = \"mine\"\n"),
        ("group", "group = \"text\"\n"),
    ] {
        let error = error(&GOOD.replace(line, ""));
        assert!(error.contains(&format!("missing field `{key}`")), "{error}");
    }
}

#[test]
fn files_that_are_no_scenario_are_refused_without_reading_them_whole() {
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("binary.toml");
    std::fs::write(&binary, [0xff, 0xfe, 0x00]).unwrap();
    let cases = [
        (
            binary.display().to_string(),
            format!(
                "{} is not a scenario: it is not UTF-8 text",
                binary.display()
            ),
        ),
        (
            "/dev/zero".to_owned(),
            "/dev/zero is not a scenario: it is longer than 1 MiB".to_owned(),
        ),
        (
            "no/such.toml".to_owned(),
            "cannot read the scenario no/such.toml".to_owned(),
        ),
    ];
    for (argument, message) in cases {
        assert_eq!(Scenario::find(&argument).unwrap_err().to_string(), message);
    }
}

#[test]
fn a_file_may_stand_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.toml");
    std::fs::write(&path, GOOD).unwrap();
    assert_eq!(Scenario::find(path.to_str().unwrap()).unwrap().name, "mine");
}

#[test]
fn a_storm_becomes_the_agents_commands() {
    use ipirig_abi::Command;
    let both = Storm::TextAndTlb {
        flips: 7,
        rounds: 100,
        pages: 8,
    };
    let commands: Vec<_> = both
        .parts()
        .iter()
        .map(|part| (part.command, part.args, part.operations))
        .collect();
    assert_eq!(
        commands,
        [
            (Command::Flip, [7, 0, 0, 0], 7),
            (Command::Vunmap, [100, 8, 0, 0], 100)
        ]
    );
    assert_eq!(both.operations(), 107);
    let one = Storm::StaticKeyFlip { flips: 7 };
    assert_eq!(one.parts(), both.parts()[..1]);
}

#[test]
fn ways_into_the_kernel_are_read_in_order_and_each_mistake_is_pointed_at() {
    let with = |entries: &str| GOOD.replace("[storm]", &format!("entries = {entries}\n[storm]"));
    let parsed = Scenario::parse("x.toml", &with("[\"nmi\", \"timer\"]")).unwrap();
    assert_eq!(parsed.entries, [EntryKind::Nmi, EntryKind::Timer]);
    assert_eq!(
        Scenario::parse("x.toml", GOOD).unwrap().entries,
        [EntryKind::Syscall]
    );
    for (entries, words) in [
        ("[]", "no way into the kernel"),
        ("[\"nmi\", \"nmi\"]", "`nmi` is listed twice"),
        ("[\"nmj\"]", "did you mean `nmi`?"),
    ] {
        let text = error(&with(entries));
        assert!(text.contains(words) && text.contains("x.toml:4"), "{text}");
    }
}

#[test]
fn the_entry_matrix_has_every_way_there_is() {
    let matrix = Scenario::find("entry-matrix").unwrap();
    assert_eq!(matrix.entries, EntryKind::ALL);
}
