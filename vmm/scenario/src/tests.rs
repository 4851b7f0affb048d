use ipirig_abi::{Flavour, Order, Role};
use std::collections::BTreeMap;

use super::*;

fn storm(kind: &str, operations: u64, size: u64) -> Storm {
    let kind = Kind::find(kind).unwrap();
    Storm {
        kind,
        operations,
        size,
    }
}

const GOOD: &str = "\
name = \"mine\"
group = \"text\"
summary = \"A line\"
[storm]
kind = \"static-key-flip\"
operations = 101
";

fn error(text: &str) -> String {
    Scenario::parse("x.toml", text).unwrap_err().to_string()
}

#[test]
fn a_scenario_needs_the_module_for_its_storm_or_for_tasks_that_stay_in_the_kernel() {
    let needs = |name: &str| Scenario::find(name).unwrap().needs_module();
    let needed = [
        "static-key-flip",
        "image-key-in-kernel",
        "enters-in-mid-batch",
        "image-key-flip",
        "ftrace-toggle",
    ]
    .map(needs);
    assert_eq!(needed, [true, true, true, false, false]);
    let mut idle = Scenario::find("image-key-flip").unwrap();
    idle.vcpus.isolated_in = Mode::Idle;
    assert!(idle.needs_module());
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
fn built_in_scenarios_either_allow_no_ipi_or_need_as_many_as_operations() {
    for scenario in Scenario::all().unwrap() {
        let operations = scenario.storm.operations();
        match scenario.expect.isolated {
            // Two flushes of each program may be deferred; these may not.
            IsolatedIpis::AtMost(most) if scenario.name == "bpf-jit" => {
                assert_eq!(most, 2 * operations);
            }
            IsolatedIpis::AtMost(most) => assert_eq!(most, 0, "{}", scenario.name),
            IsolatedIpis::AtLeast(least) => assert!(least >= operations, "{}", scenario.name),
        }
    }
}

#[test]
fn every_file_in_scenarios_is_built_in() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios");
    let mut files: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".toml"))
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
            kernel: Flavour::Fast,
            vcpus: Vcpus {
                housekeeping: 1,
                isolated: 1,
                further: Role::Housekeeping,
                isolated_in: Mode::User,
                isolated_by: Partition::CommandLine,
                housekeeping_in_user: false,
                address_spaces: 0,
            },
            storm: storm("static-key-flip", 101, 0),
            entries: vec![EntryKind::Syscall],
            enter_before: vec![],
            expect: Expectations {
                isolated: IsolatedIpis::AtMost(0),
                housekeeping_ipis_min: 1,
                by_cause: BTreeMap::new(),
                handlers: false,
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
                further: Role::Housekeeping,
                isolated_in: Mode::User,
                isolated_by: Partition::CommandLine,
                housekeeping_in_user: false,
                address_spaces: 0,
            },
            Expectations {
                isolated: IsolatedIpis::AtMost(0),
                housekeeping_ipis_min: 1,
                by_cause: BTreeMap::new(),
                handlers: false,
            }
        )
    );
}

#[test]
fn address_spaces_are_gone_through_in_a_system_call_that_comes_from_user_space() {
    let scenario = Scenario::find("address-space-switch").unwrap();
    assert_eq!(scenario.vcpus.address_spaces, 7);
    let trigger = |module| scenario.trigger(EntryKind::Syscall, module);
    assert_eq!(trigger(true), Trigger::Order(Order::Relay));
    assert_eq!(trigger(false), Trigger::Order(Order::Enter));
    let one = Scenario::find("vunmap-storm").unwrap();
    let trigger = one.trigger(EntryKind::Syscall, true);
    assert_eq!(trigger, Trigger::Order(Order::Probe));

    let text = include_str!("../../../scenarios/address-space-switch.toml");
    for (from, to, message) in [
        (
            "spaces = 7",
            "spaces = 17",
            "address_spaces = 17 is out of range",
        ),
        (
            "spaces = 7",
            "spaces = 0",
            "address_spaces = 0 is out of range",
        ),
        (
            "[vcpus]",
            "entries = [\"nmi\"]\n[vcpus]",
            "address spaces are gone through in a system call",
        ),
        (
            "spaces = 7",
            "spaces = 7\nisolated_in = \"kernel\"",
            "a vCPU that stays in the kernel has no entry",
        ),
        (
            "kind = \"vunmap\"\noperations = 100\n# As in vunmap-storm.\nsize = 8",
            "kind = \"kprobe\"\noperations = 100",
            "address spaces need the module, and the storm does not",
        ),
    ] {
        let changed = text.replace(from, to);
        assert_ne!(changed, text);
        let error = Scenario::parse("x.toml", &changed).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn an_unknown_name_gets_a_suggestion_or_the_list() {
    assert_eq!(
        Scenario::find("static-key-filp").unwrap_err().to_string(),
        "no scenario `static-key-filp`: did you mean `static-key-flip`?"
    );
    let names = builtin::FILES.map(|(stem, _)| stem).join(", ");
    assert_eq!(
        Scenario::find("nothing").unwrap_err().to_string(),
        format!("no scenario `nothing`: there are {names} (or give the path of a .toml file)")
    );
}

#[test]
fn an_unknown_key_is_underlined_with_what_is_allowed() {
    assert_eq!(
        error(&GOOD.replace("operations", "operatons")),
        "x.toml:6:1: unknown key `operatons`\n  |\n6 | operatons = 101\n  | ^^^^^^^^^\n  = did you \
         mean `operations`? allowed here: kind, operations, size"
    );
}

#[test]
fn an_even_number_of_flips_is_refused_with_the_reason() {
    assert_eq!(
        error(&GOOD.replace("101", "100")),
        "x.toml:6:14: operations = 100 is even\n  |\n6 | operations = 100\n  |              ^^^\n  \
         = an odd number of flips: after an even one the branch is where it was, and whether an \
         isolated vCPU caught up could not be seen"
    );
}

#[test]
fn each_mistake_is_found_at_its_place() {
    let vcpus = |line: &str| format!("{GOOD}[vcpus]\n{line}\n");
    let expect = |line: &str| format!("{GOOD}[expect]\n{line}\n");
    let cases = [
        (
            GOOD.replace("101", "0"),
            "x.toml:6:14: operations = 0 is out of range",
        ),
        (
            GOOD.replace("101", "1000001"),
            "x.toml:6:14: operations = 1000001 is out of range",
        ),
        (
            GOOD.replace("101", "-1"),
            "x.toml:6:14: invalid value: integer `-1`, expected u64",
        ),
        (
            GOOD.replace("101", "\"many\""),
            "x.toml:6:14: invalid type: string \"many\", expected u64",
        ),
        (
            GOOD.replace("operations = 101\n", ""),
            "x.toml:4:1: missing field `operations`",
        ),
        (
            format!("{GOOD}size = 3\n"),
            "x.toml:7:8: `size` means nothing to kind",
        ),
        (
            GOOD.replace("static-key-flip", "vunmap"),
            "x.toml:5:8: a storm of kind `vunmap` needs `size`",
        ),
        (
            format!("{}size = 4097\n", GOOD.replace("static-key-flip", "vunmap")),
            "x.toml:7:8: size = 4097 is out of range",
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
            GOOD.replace("operations = 101", "operations = 101\noperations = 3"),
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
            expect("isolated_ipis_min = 3\nisolated_ipis_max = 0"),
            "x.toml:8:21: isolated_ipis_max and isolated_ipis_min exclude",
        ),
        (
            expect("isolated_ipis_min = 0"),
            "x.toml:8:21: isolated_ipis_min = 0 is out of range",
        ),
        (vcpus("isolated_in = \"usr\""), "x.toml:8:15: no mode `usr`"),
        (
            GOOD.replace("[storm]", "kernel = \"fasst\"\n[storm]"),
            "x.toml:4:10: no kernel `fasst`",
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
fn a_storm_becomes_rows_of_the_table() {
    use ipirig_abi::StormKind;
    let both = storm("text-and-tlb", 7, 8);
    let parts: Vec<_> = both
        .parts()
        .iter()
        .map(|part| (part.kind, part.operations, part.size))
        .collect();
    assert_eq!(
        parts,
        [(StormKind::StaticKeyFlip, 7, 0), (StormKind::Vunmap, 7, 8)]
    );
    assert_eq!(both.operations(), 14);
    assert_eq!(
        both.to_string(),
        "7 static key flips and 7 rounds of vmalloc and vfree, 8 pages each"
    );
    let one = storm("static-call", 5, 0).parts();
    assert_eq!(
        (one[0].kind, one[0].operations, one[0].size),
        (StormKind::StaticCall, 5, 0)
    );
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
        ("[]", "no entry kind"),
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

#[test]
fn what_each_cause_must_send_is_read_and_an_unknown_cause_is_refused() {
    let scenario = Scenario::find("target-in-kernel").unwrap();
    let expected = BTreeMap::from([("static key".to_owned(), 99), ("vunmap".to_owned(), 33)]);
    assert_eq!(scenario.expect.by_cause, expected);

    let text = include_str!("../../../scenarios/target-in-kernel.toml");
    for (from, to, message) in [
        ("\"vunmap\"", "\"vunmaps\"", "no cause `vunmaps`"),
        (
            "\"vunmap\" = 33",
            "\"vunmap\" = 0",
            "by_cause = 0 is out of range",
        ),
    ] {
        let error = Scenario::parse("x.toml", &text.replace(from, to)).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn who_enters_in_mid_operation_comes_from_user_space_and_stays_by_the_module() {
    let scenario = Scenario::find("enters-in-mid-batch").unwrap();
    assert_eq!(scenario.enter_before, [1, 2, 3, 4, 5]);

    let text = include_str!("../../../scenarios/enters-in-mid-batch.toml");
    for (from, to, message) in [
        ("[1, 2", "[0, 2", "enter_before = 0 is out of range"),
        (
            "isolated = 1",
            "isolated = 1\nisolated_in = \"kernel\"",
            "a vCPU enters the kernel from user space",
        ),
        (
            "enter_before",
            "entries = [\"nmi\"]\nenter_before",
            "a vCPU that is in the kernel has no entry afterwards",
        ),
        (
            "kind = \"text-and-tlb\"\noperations = 1\nsize = 8",
            "kind = \"bpf-jit\"\noperations = 1",
            "to stay in the kernel needs the module, and the storm does not",
        ),
    ] {
        let error = Scenario::parse("x.toml", &text.replacen(from, to, 1)).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn a_housekeeping_vcpu_idles_unless_the_file_says_otherwise() {
    let of = |name| Scenario::find(name).unwrap().vcpus.housekeeping_in_user;
    assert_eq!(
        [of("housekeeping-in-user"), of("vunmap-storm")],
        [true, false]
    );
}
