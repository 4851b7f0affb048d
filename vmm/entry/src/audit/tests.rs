//! A good way in and out, one for each defect, and records that make no sense.

use std::ops::Range;
use std::sync::LazyLock;

use ipirig_image::SiteKind;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::record::{Code, Registers, Step};
use crate::testing::*;

/// Nothing is known of what the window held.
fn everything() -> PendingInput {
    PendingInput {
        text: Pending::everything("the window is not known"),
        translations: Pending::everything("the window is not known"),
        alternatives_open: false,
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
        flag: flag(Some(3), Some(14), Some(13)),
        catch_up: Some(5),
        danger_zone: 4,
        first_instrumentable: Some(11),
        danger: vec![],
        order: vec![],
        stale_pcids: vec![],
    }
}

fn flag(set: Option<usize>, cleared: Option<usize>, user_table: Option<usize>) -> Flag {
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
        "danger": [], "order": [], "stale_pcids": [],
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

    // It is enough where only text was held back.
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
fn a_flag_set_after_the_cr3_write_leaves_a_window() {
    let way = entered()
        .step(&[0x0f, 0x20, 0xd8])
        .cr3(KERNEL_CR3)
        .flag(1)
        .stack()
        .work()
        .leave();
    let expected = Audit {
        text_cleared: Some(4),
        translations_cleared: Some(4),
        flag: flag(Some(5), Some(14), Some(13)),
        catch_up: None,
        danger_zone: 10,
        danger: vec![no_catch_up(11)],
        order: vec![finding(
            11,
            WORK,
            What::NoCatchUpAfterFlag,
            "ends the way in, with no catch-up after the flag was set by instruction 5",
        )],
        ..good_audit()
    };
    assert_eq!(judged(way, Ended::User), expected);
}

#[test]
fn a_second_cr3_write_after_the_flag_catches_up() {
    let way = entered()
        .cr3(KERNEL_CR3)
        .flag(1)
        .cr3(KERNEL_CR3)
        .stack()
        .work()
        .leave();
    let expected = Audit {
        text_cleared: Some(3),
        translations_cleared: Some(3),
        flag: flag(Some(4), Some(14), Some(13)),
        ..good_audit()
    };
    assert_eq!(judged(way, Ended::User), expected);
}

#[test]
fn a_flag_written_through_the_users_gs_is_not_the_flag() {
    let way = Way::syscall()
        .flag(1)
        .swapgs()
        .step(&[0x90])
        .step(&[0x0f, 0x20, 0xd8])
        .cr3(KERNEL_CR3)
        .stack()
        .work()
        .cr3(USER_CR3 | NOFLUSH)
        .step(&[0x90])
        .swapgs()
        .sysret();
    let words = "ends the way in with the flag not set";
    let expected = Audit {
        flag: flag(None, None, Some(13)),
        order: vec![finding(11, WORK, What::FlagNotSet, words)],
        ..good_audit()
    };
    assert_eq!(judged(way, Ended::User), expected);
}

#[test]
fn a_flag_cleared_before_the_user_page_table_is_early() {
    let way = entered()
        .flag(1)
        .step(&[0x0f, 0x20, 0xd8])
        .cr3(KERNEL_CR3)
        .stack()
        .work()
        .flag(0)
        .cr3(USER_CR3 | NOFLUSH)
        .swapgs()
        .sysret();
    let words = "clears the flag before the user page table is loaded";
    // After the RET in line.
    let address = ENTRY + 37 + 5;
    let expected = Audit {
        flag: flag(Some(3), Some(13), Some(14)),
        order: vec![finding(13, address, What::FlagClearedEarly, words)],
        ..good_audit()
    };
    assert_eq!(judged(way, Ended::User), expected);
}

#[test]
fn a_flag_that_stays_set_is_found_only_on_the_whole_way_out() {
    let way = entered()
        .flag(1)
        .step(&[0x0f, 0x20, 0xd8])
        .cr3(KERNEL_CR3)
        .stack()
        .work()
        .cr3(USER_CR3 | NOFLUSH)
        .step(&[0x90])
        .swapgs();
    let address = way.registers.rip;
    let words = "is the last in the kernel, with the flag still set";
    let expected = Audit {
        flag: flag(Some(3), None, Some(13)),
        order: vec![finding(16, address, What::FlagNotCleared, words)],
        ..good_audit()
    };
    assert_eq!(judged(way.clone().sysret(), Ended::User), expected);
    let expected = Audit {
        ended: Ended::Halted,
        order: vec![],
        ..expected
    };
    assert_eq!(judged(way.sysret(), Ended::Halted), expected);
}

#[test]
fn a_flag_clear_in_the_kernel_and_one_cleared_with_no_user_table_are_found() {
    let way = entered()
        .flag(1)
        .step(&[0x0f, 0x20, 0xd8])
        .cr3(KERNEL_CR3)
        .stack()
        .flag(0)
        .work();
    let expected = Audit {
        steps: 13,
        flag: flag(Some(3), Some(8), None),
        first_instrumentable: Some(12),
        order: vec![
            finding(
                8,
                ENTRY + 37,
                What::FlagClearedEarly,
                "clears the flag, but the CPU stays on a kernel page table",
            ),
            finding(
                12,
                WORK,
                What::FlagClearInKernel,
                "is in instrumentable code with the flag cleared by instruction 8",
            ),
        ],
        ..good_audit()
    };
    assert_eq!(judged(way, Ended::User), expected);
}

#[test]
fn a_flag_whose_new_value_is_computed_is_unclear() {
    // ORB $1, %gs:kernel_cr3
    let or = [0x65, 0x80, 0x0c, 0x25, 0x00, 0x50, 0x01, 0x00, 0x01];
    let way = entered().step(&or).cr3(KERNEL_CR3).stack().work();
    let order = judged(way, Ended::Limit).order;
    let kinds: Vec<_> = order.iter().map(|found| (found.step, found.what)).collect();
    assert_eq!(kinds, [(3, What::FlagUnclear), (10, What::FlagNotSet)]);
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

#[test]
fn memory_unmapped_in_the_window_is_danger_before_the_catch_up_only() {
    let unmapped = |range: Range<u64>| PendingInput {
        translations: range.into(),
        ..everything()
    };
    let saved = GS + 0x6014;
    let words = format!("writes unmapped memory at {saved:#x}, in entry_SYSCALL_64+0x3");
    let expected = Audit {
        danger: vec![finding(2, saved, What::Unmapped, &words)],
        ..good_audit()
    };
    // Only the last of its 8 bytes.
    let found = audit(&good(), &layout(), &unmapped(saved + 7..saved + 0x1000));
    assert_eq!(found, expected);
    let found = audit(&good(), &layout(), &unmapped(GS + 0x16000..GS + 0x17000));
    assert_eq!(found, good_audit());
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
        flag: flag(Some(4), Some(14), Some(13)),
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
        flag: flag(Some(3), None, None),
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
        flag: flag(Some(3), None, None),
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
fn a_flag_set_in_instrumentable_code_is_too_late() {
    let way = entered()
        .cr3(KERNEL_CR3)
        .stack()
        .call(WORK)
        .flag(1)
        .cr3(KERNEL_CR3);
    let words = "ends the way in with the flag not set";
    let expected = Audit {
        ended: Ended::Limit,
        steps: 8,
        text_cleared: Some(3),
        translations_cleared: Some(3),
        flag: flag(Some(7), None, None),
        catch_up: Some(8),
        danger_zone: 7,
        first_instrumentable: Some(7),
        danger: vec![no_catch_up(7)],
        order: vec![finding(7, WORK, What::FlagNotSet, words)],
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
        flag: flag(Some(3), Some(8), Some(7)),
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
        flag: flag(None, None, None),
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
fn without_a_known_flag_the_first_that_clears_counts() {
    let map = MAP.replace("kernel_cr3", "other");
    let layout = try_layout(&map, &[], ENTRY).unwrap();
    let expected = Audit {
        flag: Flag::Unknown,
        ..good_audit()
    };
    assert_eq!(audit(&good(), &layout, &everything()), expected);
}

#[test]
fn another_address_space_whose_pcid_is_stale_is_found() {
    let other = |flush: u64| {
        entered()
            .flag(1)
            .step(&[0x0f, 0x20, 0xd8])
            .cr3(KERNEL_CR3)
            .stack()
            .call(NOINSTR)
            .step(&[0x55])
            .call(WORK)
            .cr3(0x0200_0002 | flush)
            .cr3(KERNEL_CR3 | NOFLUSH)
    };
    let expected = Audit {
        ended: Ended::Limit,
        steps: 12,
        flag: flag(Some(3), None, None),
        ..good_audit()
    };
    assert_eq!(judged(other(0), Ended::Limit), expected);
    let words = "loads a kernel page table with stale PCID 2";
    let expected = Audit {
        stale_pcids: vec![finding(11, WORK, What::StalePcid, words)],
        ..expected
    };
    assert_eq!(judged(other(NOFLUSH), Ended::Limit), expected);
}

#[test]
fn an_empty_record_is_judged() {
    let audit = judged(Way::syscall(), Ended::User);
    let expected = Audit {
        steps: 0,
        text_cleared: None,
        translations_cleared: None,
        flag: flag(None, None, None),
        catch_up: None,
        danger_zone: 0,
        first_instrumentable: None,
        ..good_audit()
    };
    assert_eq!(audit, expected);
}

/// Addresses that mean something, and others.
fn addresses() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0..0x100_u64).prop_map(|offset| ENTRY + offset),
        (0..0x100_u64).prop_map(|offset| WORK + offset),
        (0..0x100_u64).prop_map(|offset| STACK - offset),
        Just(GS),
        Just(u64::MAX),
        Just(0),
    ]
}

prop_compose! {
    fn steps()(
        general in prop::array::uniform16(addresses()),
        (rip, fs_base, gs_base) in (addresses(), addresses(), addresses()),
        (cr3, cr4, rflags) in any::<(u64, u64, u64)>(),
        (prefix, code) in (
            prop_oneof![
                Just(&[][..]),
                Just(&[0xf3][..]),
                Just(&[0x0f, 0x22][..]),
                Just(&[0x0f, 0x01][..]),
                Just(&[0x65, 0x48][..]),
                Just(&[0x66, 0x0f, 0x38, 0x82][..]),
            ],
            vec(any::<u8>(), 0..16),
        ),
    ) -> Step {
        let code = Code::new(&[prefix, &code].concat());
        let registers =
            Registers { general, rip, rflags, cr3, cr4, fs_base, gs_base, cpl: 0 };
        Step { registers, code }
    }
}

fn pending() -> impl Strategy<Value = Pending> {
    prop_oneof![
        Just(Pending::everything("unknown")),
        vec((addresses(), addresses()), 0..8)
            .prop_map(|ranges| ranges.into_iter().map(|(start, end)| start..end).collect()),
    ]
}

static LAYOUTS: LazyLock<[KernelLayout; 2]> =
    LazyLock::new(|| [layout(), layout_with(ENTRY + 12, SiteKind::Ftrace)]);

proptest! {
    #[test]
    fn no_record_makes_judging_or_listing_panic(
        steps in vec(steps(), 0..20),
        (text, translations) in (pending(), pending()),
        ended in prop_oneof![Just(Ended::User), Just(Ended::Limit), Just(Ended::Halted)],
        vector in any::<Option<u8>>(),
        alternatives_open in any::<bool>(),
    ) {
        let began = vector.map_or(Began::Syscall, Began::Vector);
        let record = Record { cpu: 0, began, steps, ended };
        let input = PendingInput { text, translations, alternatives_open };
        for layout in LAYOUTS.iter() {
            let audit = audit(&record, layout, &input);
            let number = record.steps.len();
            prop_assert_eq!(audit.steps, number);
            prop_assert!(audit.danger_zone <= number);
            prop_assert!(audit.catch_up.is_none_or(|step| step <= number));
            let findings = audit.danger.iter().chain(&audit.order).chain(&audit.stale_pcids);
            for finding in findings {
                prop_assert!((1..=number).contains(&finding.step), "{}", finding);
            }
            for extent in [crate::Extent::Ends, crate::Extent::Whole] {
                let text = crate::listing(&record, layout, &audit, extent);
                prop_assert!(text.lines().count() >= 2);
            }
        }
    }
}
