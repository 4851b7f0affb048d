//! The order of flag, catch-up and page tables.

use super::*;

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
        flag: known(Some(5), Some(14), Some(13)),
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
        flag: known(Some(4), Some(14), Some(13)),
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
        flag: known(None, None, Some(13)),
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
        flag: known(Some(3), Some(13), Some(14)),
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
        flag: known(Some(3), None, Some(13)),
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
        flag: known(Some(3), Some(8), None),
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
        flag: known(Some(7), None, None),
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
fn without_a_known_flag_the_first_that_clears_counts() {
    let map = MAP.replace("kernel_cr3", "other");
    let layout = try_layout(&map, &[], ENTRY).unwrap();
    let expected = Audit {
        flag: Flag::Unknown,
        ..good_audit()
    };
    assert_eq!(audit(&good(), &layout, &everything()), expected);
}
