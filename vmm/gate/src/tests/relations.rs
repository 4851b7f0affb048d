//! What is compared of kernel entries.

use ipirig_fake::kernel::Path;

use super::*;

/// The lines that a gate prints of a kernel whose entry goes `path`, beside a right one's baseline.
fn gated(path: Path) -> Vec<String> {
    let script = Script {
        path,
        ..Script::default()
    };
    let run = Recorded::of(&result("static-key-flip", script)).unwrap();
    let compared = only(Compared::new(&Baseline::of(&good()), &run));
    let lines = lines(&compared[0]).into_iter();
    let lines = lines.map(|line| line.trim_start().to_owned());
    lines
        .filter(|line| line.starts_with("entry by") || line.starts_with("by instruction"))
        .collect()
}

#[test]
fn another_hosts_instruction_numbers_are_no_change() {
    let script = Script {
        path: Path::Longer,
        ..Script::default()
    };
    let run = Recorded::of(&result("static-key-flip", script)).unwrap();
    let catch_up = |run: &Recorded| run.entries[0].audit.as_ref().unwrap().catch_up;
    assert_eq!([catch_up(&good()), catch_up(&run)], [Some(3), Some(6)]);
    assert_eq!(changes(&Baseline::of(&good()), &run), []);
}

#[test]
fn an_entry_kind_that_not_every_cpu_has_is_compared_only_where_both_have_it() {
    let mut run = good();
    let mut baseline = Baseline::of(&run);
    run.entries[0].kind = "sysenter".to_owned();
    let relations = baseline.entries.remove("syscall").unwrap();
    baseline
        .entries
        .insert("compat-syscall".to_owned(), relations.clone());
    assert_eq!(changes(&baseline, &run), []);
    // Any other that is gone is a change.
    baseline.entries.insert("syscall".to_owned(), relations);
    assert_ne!(changes(&baseline, &run), []);
}

#[test]
fn an_entry_in_another_order_is_a_change() {
    assert_eq!(
        gated(Path::NoCatchUp),
        [
            "entry by syscall, catch-up: before the first patchable instruction -> \
             after the first patchable instruction",
            "by instruction: flag set 2, caught up 6, first patchable 4",
            "entry by syscall, before the catch-up: none -> ftrace, no-catch-up",
        ]
    );
    assert_eq!(
        gated(Path::FlagLate),
        [
            "entry by syscall, before the catch-up: none -> ftrace, no-catch-up",
            "by instruction: flag set 3, caught up 2, first patchable 5",
            "entry by syscall, flag set: before the catch-up -> after the catch-up",
        ]
    );
    assert_eq!(
        gated(Path::FlagClearedEarly),
        [
            "entry by syscall, flag cleared: after the user page table is loaded -> \
             before the user page table is loaded",
            "by instruction: flag set 2, caught up 3, first patchable 5",
        ]
    );
    assert_eq!(
        gated(Path::StaticKey),
        [
            "entry by syscall, before the catch-up: none -> static-key",
            "by instruction: flag set 5, caught up 6, first patchable 8",
        ]
    );
    assert_eq!(gated(Path::Right), [""; 0]);
}

#[test]
fn an_entry_that_is_not_recorded_any_more_is_a_change_with_its_reason() {
    let mut run = good();
    run.entries[0].audit = None;
    run.entries[0].why = Some("this host\ncannot".to_owned());
    assert_eq!(
        changes(&Baseline::of(&good()), &run),
        [Change {
            what: "entry by syscall".to_owned(),
            was: "recorded".to_owned(),
            is: "not recorded".to_owned(),
            why: vec!["this host cannot".to_owned()],
        }]
    );
}

/// `edit` made to the audit of a good run.
fn audit(edit: impl Fn(&mut read::RecordedAudit)) -> EntryRelations {
    let mut run = good();
    edit(run.entries[0].audit.as_mut().unwrap());
    Baseline::of(&run).entries.remove("syscall").unwrap()
}

#[test]
fn relations_follow_from_the_order_of_instructions() {
    let right = EntryRelations {
        catch_up: CatchUp::BeforeInstrumentable,
        danger: [].into(),
        flag_set: FlagSet::BeforeCatchUp,
        flag_cleared: Some(FlagCleared::AfterUserTable),
    };
    let flag = |set, cleared, user_table| read::RecordedFlag::Known {
        set,
        cleared,
        user_table,
    };
    type Edit<'a> = &'a dyn Fn(&mut read::RecordedAudit);
    let cases: [(&str, Edit<'_>, EntryRelations); 7] = [
        ("as it is", &|_| {}, right.clone()),
        (
            "at the first instrumentable instruction",
            &|audit| audit.first_instrumentable = audit.catch_up,
            EntryRelations {
                catch_up: CatchUp::AfterInstrumentable,
                ..right.clone()
            },
        ),
        (
            "translations never",
            &|audit| (audit.translations_cleared, audit.catch_up) = (None, None),
            EntryRelations {
                catch_up: CatchUp::Never,
                ..right.clone()
            },
        ),
        (
            "nothing pending",
            &|audit| {
                (audit.text_cleared, audit.translations_cleared) = (Some(0), Some(0));
                audit.catch_up = Some(2);
            },
            right.clone(),
        ),
        (
            "no flag",
            &|audit| audit.flag = read::RecordedFlag::Unknown,
            EntryRelations {
                flag_set: FlagSet::NoFlag,
                flag_cleared: None,
                ..right.clone()
            },
        ),
        (
            "the flag is not touched",
            &|audit| audit.flag = flag(None, None, Some(7)),
            EntryRelations {
                flag_set: FlagSet::Never,
                flag_cleared: Some(FlagCleared::Never),
                ..right.clone()
            },
        ),
        (
            "the way out is not in the record",
            &|audit| {
                audit.ended = "limit".to_owned();
                audit.flag = flag(Some(2), None, None);
            },
            EntryRelations {
                flag_cleared: None,
                ..right.clone()
            },
        ),
    ];
    for (what, edit, relations) in cases {
        assert_eq!(audit(edit), relations, "{what}");
    }
}

#[test]
fn of_several_isolated_vcpus_the_worst_counts() {
    let mut run = good();
    let mut late = run.entries[0].clone();
    late.audit.as_mut().unwrap().first_instrumentable = Some(1);
    run.entries.insert(0, late);
    assert_eq!(
        Baseline::of(&run).entries["syscall"].catch_up,
        CatchUp::AfterInstrumentable
    );
}
