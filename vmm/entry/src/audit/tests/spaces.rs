//! Ways through several address spaces, and page tables that are not isolated.

use ipirig_instruction::control::{PCIDE, PGE};

use super::*;
use crate::paging::Paging;

/// PUSH, in ordinary kernel code after a catch-up in the kernel's PCID 1: 9 instructions in all.
fn in_kernel() -> Way {
    entered()
        .flag(1)
        .step(&[0x0f, 0x20, 0xd8])
        .cr3(KERNEL_CR3)
        .stack()
        .call(WORK)
        .step(&[0x50])
}

/// What a way that begins with [`in_kernel`] and has `steps` instructions comes to.
fn cut_off(steps: usize, switches: Vec<Switch>, stale_pcids: Vec<Finding>) -> Audit {
    Audit {
        ended: Ended::Limit,
        steps,
        flag: known(Some(3), None, None),
        first_instrumentable: Some(9),
        switches,
        stale_pcids,
        ..good_audit()
    }
}

fn switch(step: usize, page_table: u64, pcid: u16, flushed: bool) -> Switch {
    Switch {
        step,
        page_table,
        pcid,
        flushed,
    }
}

/// A PUSH as instruction `step` finds PCID `pcid` stale, which instruction `load` loaded.
fn stale(step: usize, pcid: u16, load: usize) -> Finding {
    let address = STACK - 24;
    let words = format!(
        "touches memory at {address:#x} under PCID {pcid}, loaded by instruction {load} and not \
         flushed since the window"
    );
    finding(step, address, What::StalePcid, &words)
}

/// [`in_kernel`], then a PUSH in each of these address spaces.
fn through(tables: &[u64]) -> Way {
    tables.iter().fold(in_kernel(), |way, &table| {
        way.cr3(table)
            .with(|registers| registers.general[4] = STACK - 16)
            .step(&[0x50])
    })
}

#[test]
fn memory_touched_under_a_stale_pcid_is_found_once_for_each_load() {
    let way = through(&[0x0200_0002 | NOFLUSH, 0x0300_0003, 0x0200_0002 | NOFLUSH]);
    let switches = vec![
        switch(10, 0x0200_0000, 2, false),
        switch(12, 0x0300_0000, 3, true),
        switch(14, 0x0200_0000, 2, false),
    ];
    let stale = vec![stale(11, 2, 10), stale(15, 2, 14)];
    assert_eq!(judged(way, Ended::Limit), cut_off(15, switches, stale));
}

#[test]
fn an_address_space_that_is_only_loaded_is_no_finding() {
    let way = in_kernel()
        .cr3(0x0200_0002 | NOFLUSH)
        .cr3(KERNEL_CR3 | NOFLUSH);
    let switches = vec![
        switch(10, 0x0200_0000, 2, false),
        switch(11, 0x0100_0000, 1, false),
    ];
    assert_eq!(judged(way, Ended::Limit), cut_off(11, switches, vec![]));
}

#[test]
fn an_invpcid_of_the_loaded_pcid_flushes_before_memory_is_touched() {
    let way = |kind, pcid| {
        in_kernel()
            .cr3(0x0200_0002 | NOFLUSH)
            .with(|registers| registers.general[4] = STACK - 16)
            .invpcid(kind, [pcid, 0])
            .step(&[0x50])
    };
    let switches = vec![switch(10, 0x0200_0000, 2, false)];
    let held = cut_off(12, switches.clone(), vec![]);
    for (kind, pcid) in [(1, 2), (2, 0), (3, 0)] {
        assert_eq!(judged(way(kind, pcid), Ended::Limit), held, "type {kind}");
    }
    // The descriptor itself is read under the stale PCID.
    let mut read = stale(11, 2, 10);
    read.address = STACK - 64;
    read.words = read
        .words
        .replace(&format!("{:#x}", STACK - 24), &format!("{:#x}", STACK - 64));
    let violated = cut_off(12, switches, vec![read]);
    for (kind, pcid) in [(1, 3), (0, 2)] {
        assert_eq!(
            judged(way(kind, pcid), Ended::Limit),
            violated,
            "type {kind}"
        );
    }
}

/// The task's address space, then six that the CPU has used before and one more, and the task's again:
/// PCIDs of the task and of five others may be cached.
fn relay(keeps: impl Fn(u64) -> bool) -> Vec<u64> {
    let noflush = |pcid| if keeps(pcid) { NOFLUSH } else { 0 };
    [2, 3, 4, 5, 6, 2, 3, 1]
        .into_iter()
        .zip(2..)
        .map(|(pcid, table)| table << 24 | pcid | noflush(pcid))
        .collect()
}

#[test]
fn a_kernel_that_flushes_each_pcid_before_its_use_passes_and_one_that_flushes_its_own_only_does_not()
 {
    let audit = judged(through(&relay(|_| false)), Ended::Limit);
    let seen: Vec<_> = audit.switches.iter().map(|s| (s.pcid, s.flushed)).collect();
    let all = [2, 3, 4, 5, 6, 2, 3, 1].map(|pcid| (pcid, true));
    assert_eq!((seen, audit.stale_pcids), (all.to_vec(), vec![]));

    // flushes-current-pcid-only: what the CPU has used of late keeps its PCID, and all in it.
    let audit = judged(through(&relay(|pcid| pcid != 1)), Ended::Limit);
    let found: Vec<_> = audit.stale_pcids.iter().map(|found| found.step).collect();
    assert_eq!(found, [11, 13, 15, 17, 19, 21, 23]);
    assert_eq!(audit.translations_cleared, Some(5));
}

#[test]
fn an_entry_that_keeps_its_translations_has_not_caught_up_whatever_later_loads_flush() {
    // entry-keeps-noflush: the switches flush, for the other PCIDs are marked.
    let mut way = entered()
        .flag(1)
        .step(&[0x0f, 0x20, 0xd8])
        .cr3(KERNEL_CR3 | NOFLUSH)
        .stack()
        .call(WORK)
        .step(&[0x50]);
    for table in relay(|_| false) {
        way = way.cr3(table).step(&[0x50]);
    }
    let audit = judged(way, Ended::Limit);
    assert_eq!(audit.first_instrumentable, Some(9));
    assert_eq!(audit.translations_cleared, Some(10));
    assert_eq!(audit.stale_pcids, []);
}

#[test]
fn global_translations_need_a_global_flush() {
    let input = PendingInput {
        paging: Paging {
            global: true,
            ..Paging::default()
        },
        ..everything()
    };
    let audit = |way: Way| super::audit(&way.end(Ended::User), &layout(), &input);
    let way = || entered().flag(1).step(&[0x0f, 0x20, 0xd8]).cr3(KERNEL_CR3);
    let seen = audit(way().stack().work().leave());
    assert_eq!(
        (seen.text_cleared, seen.translations_cleared),
        (Some(5), None)
    );
    // MOV from RAX to CR4, without PGE.
    let toggled = way()
        .with(|registers| registers.general[0] = PCIDE)
        .step(&[0x0f, 0x22, 0xe0]);
    let toggled = toggled.with(|registers| registers.cr4 = PCIDE);
    let seen = audit(toggled.stack().work().leave());
    assert_eq!(seen.translations_cleared, Some(6));
}

#[test]
fn without_isolation_a_page_table_with_the_users_bit_in_its_address_is_the_kernels() {
    let way = || {
        Way::syscall()
            .with(|registers| (registers.cr3, registers.cr4) = (0x0100_1000, PGE))
            .swapgs()
            .cr3(0x0200_3000)
            .stack()
            .work()
            .end(Ended::Limit)
    };
    let seen = |isolated| {
        let input = PendingInput {
            paging: Paging {
                isolated,
                ..Paging::default()
            },
            ..everything()
        };
        let audit = audit(&way(), &layout(), &input);
        (audit.translations_cleared, audit.switches)
    };
    assert_eq!(
        seen(false),
        (Some(2), vec![switch(2, 0x0200_3000, 0, true)])
    );
    // With it, the load of a user page table is no change of address space.
    assert_eq!(seen(true), (Some(2), vec![]));
}

#[test]
fn an_address_space_that_is_loaded_on_the_way_in_is_the_one_to_be_caught_up_in() {
    let other = 0x0200_0002 | NOFLUSH;
    let caught_up = || entered().flag(1).step(&[0x0f, 0x20, 0xd8]).cr3(KERNEL_CR3);
    let cleared = |way: Way| judged(way.step(&[0x50]), Ended::Limit).translations_cleared;
    assert_eq!(cleared(caught_up().stack().call(WORK)), Some(5));
    assert_eq!(cleared(caught_up().cr3(other).stack().call(WORK)), None);
    // The first instruction of ordinary code is no more on the way in.
    assert_eq!(cleared(caught_up().stack().call(WORK).cr3(other)), Some(5));
}

#[test]
fn no_more_switches_are_told_than_are_of_use() {
    let tables: Vec<u64> = (2..FINDINGS_MAX as u64 + 12)
        .map(|pcid| pcid << 24 | pcid)
        .collect();
    let audit = judged(through(&tables), Ended::Limit);
    assert_eq!(audit.switches.len(), FINDINGS_MAX);
    assert!(audit.switches.iter().all(|switch| switch.flushed));
}
