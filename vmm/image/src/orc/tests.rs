//! Tables as kernels have them, damaged and foreign ones.

use proptest::prelude::*;

use super::*;
use crate::testing::{DATA, TEXT, open, vmlinux};

/// Entries at [`TEXT`] and so on, in a kernel with this header and this version.
fn kernel(entries: &[(u64, [u8; ENTRY])], hash: Option<&[u8]>, banner: &str) -> Vec<u8> {
    let mut data = Vec::new();
    for (index, (address, _)) in entries.iter().enumerate() {
        let offset = address.wrapping_sub(DATA + index as u64 * 4) as u32;
        data.extend(offset.to_le_bytes());
    }
    let mut symbols = vec![("__start_orc_unwind_ip", DATA)];
    let mut mark = |name, data: &Vec<u8>| symbols.push((name, DATA + data.len() as u64));
    mark("__stop_orc_unwind_ip", &data);
    mark("__start_orc_unwind", &data);
    data.extend(entries.iter().flat_map(|(_, entry)| *entry));
    mark("__stop_orc_unwind", &data);
    if let Some(hash) = hash {
        mark("__start_orc_header", &data);
        data.extend(hash);
        mark("__stop_orc_header", &data);
    }
    mark("linux_banner", &data);
    data.extend(banner.bytes());
    data.resize(data.len() + BANNER as usize, 0);
    vmlinux(&[0x90; 64], &data, &symbols)
}

fn read(file: &[u8]) -> Result<Option<OrcTable>, OrcError> {
    OrcTable::read(&open(file).unwrap())
}

fn entry(sp: OrcBase, sp_offset: i16, kind: OrcKind, signal: bool) -> OrcEntry {
    OrcEntry {
        sp_offset,
        bp_offset: -16,
        sp,
        bp: OrcBase::PreviousSp,
        kind,
        signal,
    }
}

/// sp_offset 0x18 from RSP, bp_offset -16 from the caller's RSP.
const CALL: [u8; ENTRY] = [0x18, 0, 0xf0, 0xff, 0x15, 2];

#[test]
fn entries_of_today_are_found_by_the_address_they_begin_at() {
    let registers = [0, 0, 0xf0, 0xff, 0x15, 8 | 3];
    let gap = [0; ENTRY];
    let entries = [(TEXT + 8, registers), (TEXT, CALL), (TEXT + 16, gap)];
    let table = read(&kernel(&entries, Some(&HASH_6_4), "")).unwrap();
    let table = table.unwrap();
    let call = entry(OrcBase::Sp, 0x18, OrcKind::Call, false);
    let registers = entry(OrcBase::Sp, 0, OrcKind::Registers, true);
    assert_eq!(table.len(), 3);
    assert_eq!(table.find(TEXT - 1), None);
    assert_eq!(table.find(TEXT), Some(&call));
    assert_eq!(table.find(TEXT + 7), Some(&call));
    assert_eq!(table.find(TEXT + 8), Some(&registers));
    let kind = table.find(u64::MAX).map(|entry| entry.kind);
    assert_eq!(kind, Some(OrcKind::Undefined));
}

#[test]
fn registers_of_7_2_have_other_numbers() {
    // From RSP, as 3, and the caller's RSP, as 8.
    let call = [0x18, 0, 0xf0, 0xff, 0x83, 2];
    let by_ax = [0, 0, 0, 0, 0x01, 2];
    let entries = [(TEXT, call), (TEXT + 1, by_ax)];
    let table = read(&kernel(&entries, Some(&HASH_7_2), "")).unwrap();
    let table = table.unwrap();
    let call = entry(OrcBase::Sp, 0x18, OrcKind::Call, false);
    assert_eq!(table.find(TEXT), Some(&call));
    assert_eq!(
        table.find(TEXT + 1).map(|entry| entry.sp),
        Some(OrcBase::Ax)
    );
}

#[test]
fn entries_of_old_kernels_have_their_end_and_signal_by_other_bits() {
    let end = [0, 0, 0, 0, 0, 4];
    let call = [0x18, 0, 0xf0, 0xff, 0x15, 0];
    let partial = [0, 0, 0xf0, 0xff, 0x15, 2];
    let entries = [(TEXT, end), (TEXT + 1, call), (TEXT + 2, partial)];
    let table = read(&kernel(&entries, None, "Linux version 6.1.0-42-amd64 (x"));
    let table = table.unwrap().unwrap();
    let kind = table.find(TEXT).map(|entry| entry.kind);
    assert_eq!(kind, Some(OrcKind::EndOfStack));
    let call = entry(OrcBase::Sp, 0x18, OrcKind::Call, false);
    assert_eq!(table.find(TEXT + 1), Some(&call));
    let partial = entry(OrcBase::Sp, 0, OrcKind::InterruptFrame, true);
    assert_eq!(table.find(TEXT + 2), Some(&partial));
}

#[test]
fn a_layout_that_is_not_known_is_refused_with_what_the_kernel_says() {
    let entries = [(TEXT, CALL)];
    for (hash, banner, expected) in [
        (
            Some(&[0xab; 20][..]),
            "Linux version 6.12",
            "the kernel's ORC tables have a layout that is not known \
             (hash abababababababababababababababababababab)",
        ),
        (
            None,
            "Linux version 6.3.1",
            "the layout of the ORC tables of a Linux 6.3 is not known",
        ),
        (
            None,
            "BSD",
            "the layout of the ORC tables of a Linux whose version is not known is not known",
        ),
    ] {
        let error = read(&kernel(&entries, hash, banner)).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_kernel_with_frame_pointers_has_no_table() {
    let file = vmlinux(b"code", b"data", &[]);
    assert_eq!(read(&file).unwrap(), None);
    let empty = [
        ("__start_orc_unwind_ip", DATA),
        ("__stop_orc_unwind_ip", DATA),
        ("__start_orc_unwind", DATA),
        ("__stop_orc_unwind", DATA),
    ];
    assert_eq!(read(&vmlinux(b"code", b"data", &empty)).unwrap(), None);
}

#[test]
fn tables_that_do_not_fit_together_are_damaged() {
    let symbols = |places: u64, entries: u64| {
        [
            ("__start_orc_unwind_ip", DATA),
            ("__stop_orc_unwind_ip", DATA + places),
            ("__start_orc_unwind", DATA + 64),
            ("__stop_orc_unwind", DATA + 64 + entries),
            ("__start_orc_header", DATA + 128),
            ("__stop_orc_header", DATA + 148),
        ]
    };
    let mut data = vec![0; 128];
    data.extend(HASH_6_4);
    for (places, entries, what) in [
        (6, 6, "an address is cut off"),
        (4, 7, "an entry is cut off"),
        (8, 6, "addresses and entries differ in number"),
        (4, 1000, "there are no bytes where they should be"),
    ] {
        let error = read(&vmlinux(b"code", &data, &symbols(places, entries))).unwrap_err();
        let expected = format!("the kernel's ORC tables cannot be understood: {what}");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn where_a_gap_and_code_begin_at_one_address_the_code_counts() {
    let gap = OrcEntry::parse(OrcLayout::Since64, [0; ENTRY]);
    let call = OrcEntry::parse(OrcLayout::Since64, CALL);
    for order in [[(8, gap), (8, call)], [(8, call), (8, gap)]] {
        let table: OrcTable = order.into_iter().collect();
        assert_eq!(table.find(8), Some(&call));
    }
}

proptest! {
    #[test]
    fn lookup_agrees_with_a_search_from_the_start(
        entries in prop::collection::vec((0_u64..64, any::<[u8; ENTRY]>()), 0..32),
        address in 0_u64..80,
    ) {
        let parsed = entries
            .iter()
            .map(|(at, bytes)| (*at, OrcEntry::parse(OrcLayout::Since64, *bytes)));
        let table: OrcTable = parsed.clone().collect();
        let mut best: Option<(u64, OrcEntry)> = None;
        for (at, entry) in parsed.filter(|(at, _)| *at <= address) {
            let better = best.is_none_or(|(best_at, best)| {
                (at, !entry.is_gap()) >= (best_at, !best.is_gap())
            });
            if better {
                best = Some((at, entry));
            }
        }
        prop_assert_eq!(table.find(address).copied(), best.map(|(_, entry)| entry));
    }
}
