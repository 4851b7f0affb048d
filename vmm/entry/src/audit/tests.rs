//! A good way in and out, and one for each defect.

mod flag;
mod hostile;
mod spaces;

use std::ops::Range;

use ipirig_image::SiteKind;

use super::*;
use crate::testing::*;

/// Nothing is known of what the window held.
fn everything() -> PendingInput {
    PendingInput {
        text: Pending::everything("the window is not known"),
        translations: Pending::everything("the window is not known"),
        ..PendingInput::default()
    }
}

fn judged(way: Way, ended: Ended) -> Audit {
    audit(&way.end(ended), &layout(), &everything())
}

/// What follows from [`good`].
fn good_audit() -> Audit {
    Audit {
        cpu: 3,
        began: Began::Syscall,
        ended: Ended::User,
        steps: 16,
        text_cleared: Some(5),
        translations_cleared: Some(5),
        flag: known(Some(3), Some(14), Some(13)),
        catch_up: Some(5),
        danger_zone: 4,
        first_instrumentable: Some(11),
        danger: vec![],
        order: vec![],
        switches: vec![],
        stale_pcids: vec![],
    }
}

fn known(set: Option<usize>, cleared: Option<usize>, user_table: Option<usize>) -> Flag {
    Flag::Known {
        name: "kernel_cr3",
        set,
        cleared,
        user_table,
    }
}

fn finding(step: usize, address: u64, what: What, words: &str) -> Finding {
    Finding {
        step,
        address,
        what,
        words: words.into(),
    }
}

fn no_catch_up(step: usize) -> Finding {
    let words = "is in instrumentable code with no catch-up before it, at do_work";
    finding(step, WORK, What::NoCatchUp, words)
}

#[test]
fn a_good_way_in_and_out_has_no_findings() {
    assert_eq!(audit(&good(), &layout(), &everything()), good_audit());
}

#[test]
fn an_audit_is_plain_json() {
    let json = serde_json::to_value(audit(&good(), &layout(), &everything())).unwrap();
    let expected = serde_json::json!({
        "cpu": 3, "began": "syscall", "ended": "user", "steps": 16,
        "text_cleared": 5, "translations_cleared": 5,
        "flag": {
            "state": "known", "name": "kernel_cr3", "set": 3, "cleared": 14, "user_table": 13,
        },
        "catch_up": 5, "danger_zone": 4, "first_instrumentable": 11,
        "danger": [], "order": [], "switches": [], "stale_pcids": [],
    });
    assert_eq!(json, expected);
}

#[test]
fn with_nothing_pending_there_is_nothing_to_catch_up_with() {
    let expected = Audit {
        text_cleared: Some(0),
        translations_cleared: Some(0),
        catch_up: Some(3),
        danger_zone: 0,
        ..good_audit()
    };
    let nothing = PendingInput::default();
    assert_eq!(audit(&good(), &layout(), &nothing), expected);
}

#[test]
fn a_cr3_write_that_keeps_translations_catches_up_with_text_only() {
    let way = |cr4: u64| {
        entered()
            .with(|registers| registers.cr4 = cr4)
            .flag(1)
            .step(&[0x0f, 0x20, 0xd8])
            .cr3(KERNEL_CR3 | NOFLUSH)
            .stack()
            .work()
            .leave()
    };
    // Without PCIDs the bit means nothing; what it does then is not of interest here.
    assert_eq!(judged(way(1 << 7), Ended::User), good_audit());

    let expected = Audit {
        translations_cleared: None,
        catch_up: None,
        danger_zone: 10,
        danger: vec![no_catch_up(11)],
        order: vec![finding(
            11,
            WORK,
            What::NoCatchUpAfterFlag,
            "ends the way in, with no catch-up after the flag was set by instruction 3",
        )],
        ..good_audit()
    };
    assert_eq!(judged(way(CR4), Ended::User), expected);

    // It is enough where only text was deferred.
    let text = PendingInput {
        translations: Pending::default(),
        ..everything()
    };
    let expected = Audit {
        translations_cleared: Some(0),
        ..good_audit()
    };
    assert_eq!(
        audit(&way(CR4).end(Ended::User), &layout(), &text),
        expected
    );
}

#[test]
fn patchable_code_before_the_catch_up_is_danger() {
    let kinds = [
        (
            SiteKind::StaticKey { key: KEY },
            What::StaticKey,
            "executes static key housekeeping_overridden at entry_SYSCALL_64+0xc",
        ),
        (
            SiteKind::StaticCall { key: KEY + 8 },
            What::StaticCall,
            "executes static call housekeeping_overridden+0x8 at entry_SYSCALL_64+0xc",
        ),
        (
            SiteKind::Ftrace,
            What::Ftrace,
            "executes ftrace's function entry at entry_SYSCALL_64+0xc",
        ),
        (
            SiteKind::Alternative,
            What::Alternative,
            "executes alternative at entry_SYSCALL_64+0xc",
        ),
    ];
    let open = PendingInput {
        alternatives_open: true,
        ..everything()
    };
    for (kind, what, words) in kinds {
        let expected = Audit {
            danger: vec![finding(3, ENTRY + 12, what, words)],
            ..good_audit()
        };
        // At the flag, instruction 3.
        let layout = layout_with(ENTRY + 12, kind);
        assert_eq!(audit(&good(), &layout, &open), expected);
        if kind == SiteKind::Alternative {
            assert_eq!(audit(&good(), &layout, &everything()), good_audit());
        }
        // The instruction that catches up is 24 bytes in; the one after it is safe.
        let at = |offset| {
            audit(&good(), &layout_with(ENTRY + offset, kind), &open)
                .danger
                .len()
        };
        assert_eq!((at(24), at(27)), (1, 0), "{kind:?}");
    }
}

#[test]
fn text_patched_in_the_window_is_danger_before_the_catch_up_only() {
    let patched = |range: Range<u64>| PendingInput {
        text: range.into(),
        ..everything()
    };
    let words = "executes text that was patched at entry_SYSCALL_64+0x3";
    let expected = Audit {
        danger: vec![finding(2, ENTRY + 3, What::PatchedText, words)],
        ..good_audit()
    };
    let found = audit(&good(), &layout(), &patched(ENTRY + 11..ENTRY + 12));
    assert_eq!(found, expected);
    let found = audit(&good(), &layout(), &patched(WORK..WORK + 5));
    assert_eq!(found, good_audit());
}

/// Judges an entry that reads 8 bytes at `address` before it catches up, with `unmapped` pending.
fn reading(address: u64, unmapped: Range<u64>) -> Audit {
    // MOV (%rdi), %rcx
    let way = entered()
        .with(|registers| registers.general[7] = address)
        .step(&[0x48, 0x8b, 0x0f])
        .flag(1)
        .cr3(KERNEL_CR3)
        .stack()
        .work()
        .leave();
    let pending = PendingInput {
        translations: unmapped.into(),
        ..everything()
    };
    audit(&way.end(Ended::User), &layout(), &pending)
}

#[test]
fn memory_unmapped_in_the_window_is_danger_before_the_catch_up() {
    let module = 0xffff_ffff_a000_1000;
    let words = format!("reads unmapped memory at {module:#x}, in entry_SYSCALL_64+0xc");
    // Only the last of its 8 bytes.
    let found = reading(module, module + 7..module + 0x1000);
    let expected = [finding(3, module, What::Unmapped, &words)];
    assert_eq!(found.danger, expected);
    assert_eq!(reading(module, module + 8..module + 0x1000).danger, []);
    let vmalloc = STACK + 0x10_0000;
    let found = reading(vmalloc, vmalloc..vmalloc + 1);
    assert_eq!(found.danger[0].what, What::Unmapped);
}

// A purge of a vmalloc area and a module's at once flushes all between them.
#[test]
fn what_only_lies_in_the_hull_of_what_was_unmapped_is_no_danger() {
    let hull = STACK - 0x10_0000..0xffff_ffff_a000_1000;
    let pending = PendingInput {
        translations: hull.into(),
        ..everything()
    };
    assert_eq!(audit(&good(), &layout(), &pending), good_audit());
}

#[test]
fn vmalloc_memory_other_than_the_stack_is_danger_before_the_catch_up() {
    // MOV (%rdi), %rcx
    let way = |rdi: u64, rsp: u64| {
        let way = entered()
            .with(|registers| {
                registers.general[7] = rdi;
                registers.general[4] = rsp;
            })
            .step(&[0x48, 0x8b, 0x0f])
            .flag(1)
            .cr3(KERNEL_CR3)
            .stack()
            .work()
            .leave();
        judged(way, Ended::User)
    };
    let expected = Audit {
        flag: known(Some(4), Some(14), Some(13)),
        ..good_audit()
    };
    let other = STACK + 0x10_0000;
    let words = format!("reads vmalloc memory at {other:#x}, in entry_SYSCALL_64+0xc");
    let found = Audit {
        danger: vec![finding(3, other, What::Vmalloc, &words)],
        ..expected.clone()
    };
    assert_eq!(way(other, STACK), found);
    assert_eq!(way(STACK - 8, STACK), expected);
    assert_eq!(way(0xffff_8880_0000_0000, STACK), expected);
}

#[test]
fn with_nothing_that_serialises_the_way_in_never_ends_well() {
    let way = entered().flag(1).stack().work();
    let expected = Audit {
        ended: Ended::Limit,
        steps: 10,
        text_cleared: None,
        translations_cleared: None,
        flag: known(Some(3), None, None),
        catch_up: None,
        danger_zone: 8,
        first_instrumentable: Some(9),
        danger: vec![no_catch_up(9)],
        order: vec![finding(
            9,
            WORK,
            What::NoCatchUpAfterFlag,
            "ends the way in, with no catch-up after the flag was set by instruction 3",
        )],
        ..good_audit()
    };
    assert_eq!(judged(way, Ended::Limit), expected);
}

#[test]
fn a_catch_up_in_instrumentable_code_is_too_late() {
    let way = entered().flag(1).stack().call(WORK).cr3(KERNEL_CR3);
    let expected = Audit {
        ended: Ended::Limit,
        steps: 7,
        text_cleared: Some(7),
        translations_cleared: Some(7),
        flag: known(Some(3), None, None),
        catch_up: Some(7),
        danger_zone: 6,
        first_instrumentable: Some(7),
        danger: vec![no_catch_up(7)],
        order: vec![finding(
            7,
            WORK,
            What::NoCatchUpAfterFlag,
            "ends the way in, with no catch-up after the flag was set by instruction 3",
        )],
        ..good_audit()
    };
    assert_eq!(judged(way, Ended::Limit), expected);
}

#[test]
fn clearing_the_users_pcid_does_not_catch_up_with_the_kernels() {
    let way = entered()
        .flag(1)
        .cr3(USER_CR3)
        .cr3(KERNEL_CR3 | NOFLUSH)
        .stack()
        .work()
        .leave();
    let found = judged(way, Ended::User);
    assert_eq!(
        (
            found.text_cleared,
            found.translations_cleared,
            found.catch_up
        ),
        (Some(4), None, None)
    );
    assert_eq!(found.danger, [no_catch_up(11)]);
}

#[test]
fn a_way_in_and_out_without_instrumentable_code_has_to_catch_up_too() {
    let way = |cr3: u64| {
        let way = entered().flag(1).cr3(cr3).stack().leave();
        judged(way, Ended::User)
    };
    let expected = Audit {
        steps: 10,
        text_cleared: Some(4),
        translations_cleared: Some(4),
        flag: known(Some(3), Some(8), Some(7)),
        catch_up: Some(4),
        danger_zone: 3,
        first_instrumentable: None,
        ..good_audit()
    };
    assert_eq!(way(KERNEL_CR3), expected);
    let end = ENTRY + 49;
    let words = "ends the way in, with no catch-up after the flag was set by instruction 3";
    let expected = Audit {
        translations_cleared: None,
        catch_up: None,
        danger_zone: 10,
        order: vec![finding(10, end, What::NoCatchUpAfterFlag, words)],
        ..expected
    };
    assert_eq!(way(KERNEL_CR3 | NOFLUSH), expected);
}

#[test]
fn flushing_all_pcids_before_the_kernel_page_table_catches_up() {
    // INVPCID (%rdi), %rax with type 2, which serialises nothing.
    let way = entered()
        .flag(1)
        .with(|registers| registers.general[0] = 2)
        .step(&[0x66, 0x0f, 0x38, 0x82, 0x07])
        .cr3(KERNEL_CR3 | NOFLUSH)
        .stack()
        .work()
        .leave();
    let expected = Audit {
        translations_cleared: Some(4),
        ..good_audit()
    };
    assert_eq!(judged(way, Ended::User), expected);
}

#[test]
fn a_record_cut_off_on_the_way_in_blames_nobody() {
    let expected = Audit {
        ended: Ended::Limit,
        steps: 2,
        text_cleared: None,
        translations_cleared: None,
        flag: known(None, None, None),
        catch_up: None,
        danger_zone: 2,
        first_instrumentable: None,
        ..good_audit()
    };
    assert_eq!(judged(entered(), Ended::Limit), expected);
}

#[test]
fn a_module_and_an_unknown_instruction_before_the_catch_up_are_danger() {
    let module = 0xffff_ffff_c000_0000;
    let way = entered()
        .with(|registers| registers.rip = module)
        // PUSH in 64-bit mode has no segment form: 06 is no instruction.
        .step(&[0x06])
        .step(&[0x90])
        .flag(1)
        .cr3(KERNEL_CR3);
    let at = "module 0xffffffffc000000";
    let expected = [
        (3, What::Undecodable, format!("is not known at {at}0")),
        (
            3,
            What::NoCatchUp,
            format!("is in instrumentable code with no catch-up before it, at {at}0"),
        ),
        (
            4,
            What::ModuleText,
            format!("executes a module's text at {at}1"),
        ),
        (
            5,
            What::ModuleText,
            format!("executes a module's text at {at}2"),
        ),
        (
            6,
            What::ModuleText,
            format!("executes a module's text at {at}b"),
        ),
    ];
    let audit = judged(way, Ended::Limit);
    let found: Vec<_> = audit
        .danger
        .into_iter()
        .map(|found| (found.step, found.what, found.words))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn an_empty_record_is_judged() {
    let audit = judged(Way::syscall(), Ended::User);
    let expected = Audit {
        steps: 0,
        text_cleared: None,
        translations_cleared: None,
        flag: known(None, None, None),
        catch_up: None,
        danger_zone: 0,
        first_instrumentable: None,
        ..good_audit()
    };
    assert_eq!(audit, expected);
}

#[test]
fn of_very_many_findings_the_first_are_kept() {
    let way = (0..300).fold(entered(), |way, _| way.step(&[0x06]));
    assert_eq!(judged(way, Ended::Limit).danger.len(), FINDINGS_MAX);
}
