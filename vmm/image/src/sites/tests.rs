//! Tables made by hand, damaged ones, and a search that is slow and sure.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::testing::{DATA, TEXT, open, vmlinux};

const KEYS: u64 = DATA;
const CALLS: u64 = DATA + 0x100;
const FTRACE: u64 = DATA + 0x200;
const ALTERNATIVES: u64 = DATA + 0x300;
/// Address of a static key, and of a static call's.
const KEY: u64 = DATA + 0x4000;

/// Text of 0x40 bytes with a site of each form.
fn text() -> Vec<u8> {
    let mut text = vec![0xcc; 0x40];
    text[0x00..0x05].copy_from_slice(&[0x0f, 0x1f, 0x44, 0x00, 0x00]);
    text[0x08..0x0a].copy_from_slice(&[0x66, 0x90]);
    text[0x10..0x12].copy_from_slice(&[0xeb, 0x04]);
    text[0x18..0x1d].copy_from_slice(&[0xe9, 0, 0, 0, 0]);
    text[0x20..0x25].copy_from_slice(&[0xe8, 0, 0, 0, 0]);
    text[0x28..0x2e].copy_from_slice(&[0x0f, 0x84, 0, 0, 0, 0]);
    // A short branch at the end of the section.
    text[0x3e..0x40].copy_from_slice(&[0xeb, 0xfe]);
    text
}

fn relative(to: u64, from: u64) -> [u8; 4] {
    (to.wrapping_sub(from) as u32).to_le_bytes()
}

fn static_key(at: u64, code: u64, flags: u64) -> Vec<u8> {
    let mut entry = relative(code, at).to_vec();
    entry.extend(relative(code + 0x20, at + 4));
    entry.extend((KEY | flags).wrapping_sub(at + 8).to_le_bytes());
    entry
}

fn static_call(at: u64, code: u64, flags: u64) -> Vec<u8> {
    let mut entry = relative(code, at).to_vec();
    entry.extend(relative(KEY | flags, at + 4));
    entry
}

fn alternative(at: u64, middle: &[u8], len: u8, new: u8) -> Vec<u8> {
    let mut entry = relative(TEXT + 0x30, at).to_vec();
    entry.extend(relative(TEXT + 0x38, at + 4));
    entry.extend(middle);
    entry.extend([len, new]);
    entry
}

/// A kernel whose tables hold `tables`: what, where, content.
fn kernel(tables: &[(Table, u64, Vec<u8>)]) -> Image {
    let mut data = vec![0; 0x400];
    let mut symbols = Vec::new();
    for (table, at, content) in tables {
        let (start, stop) = match table {
            Table::StaticKeys => ("__start___jump_table", "__stop___jump_table"),
            Table::StaticCalls => ("__start_static_call_sites", "__stop_static_call_sites"),
            Table::Ftrace => ("__start_mcount_loc", "__stop_mcount_loc"),
            Table::Alternatives => ("__alt_instructions", "__alt_instructions_end"),
        };
        symbols.extend([(start, *at), (stop, at + content.len() as u64)]);
        let offset = (at - DATA) as usize;
        data[offset..offset + content.len()].copy_from_slice(content);
    }
    open(&vmlinux(&text(), &data, &symbols)).unwrap()
}

fn good() -> Vec<(Table, u64, Vec<u8>)> {
    let sites = [(0x00, 1), (0x08, 0), (0x10, 3), (0x18, 2), (0x3e, 0)];
    let keys = (KEYS..).step_by(16).zip(sites);
    let calls = (CALLS..).step_by(8).zip([(0x20, 0), (0x28, 1)]);
    let ftrace = [TEXT, 0, TEXT + 0x18];
    let alternatives = (ALTERNATIVES..).step_by(14).zip([(8, 8), (3, 0), (5, 2)]);
    vec![
        (
            Table::StaticKeys,
            KEYS,
            keys.flat_map(|(at, (code, flags))| static_key(at, TEXT + code, flags))
                .collect(),
        ),
        (
            Table::StaticCalls,
            CALLS,
            calls
                .flat_map(|(at, (code, flags))| static_call(at, TEXT + code, flags))
                .collect(),
        ),
        (
            Table::Ftrace,
            FTRACE,
            ftrace
                .iter()
                .flat_map(|site: &u64| site.to_le_bytes())
                .collect(),
        ),
        (
            Table::Alternatives,
            ALTERNATIVES,
            alternatives
                .flat_map(|(at, (len, new))| alternative(at, &[9, 0, 0, 0], len, new))
                .collect(),
        ),
    ]
}

fn at(offset: u64, len: u8, kind: SiteKind) -> Site {
    Site {
        address: TEXT + offset,
        len,
        kind,
    }
}

#[test]
fn each_table_gives_its_sites() {
    let sites = Sites::read(&kernel(&good())).unwrap();
    let key = SiteKind::StaticKey { key: KEY };
    let call = SiteKind::StaticCall { key: KEY };
    let found: Vec<Site> = sites.at(TEXT..TEXT + 0x40).copied().collect();
    let expected = [
        at(0x00, 5, key),
        at(0x00, 5, SiteKind::Ftrace),
        at(0x08, 2, key),
        at(0x10, 2, key),
        at(0x18, 5, key),
        at(0x18, 5, SiteKind::Ftrace),
        at(0x20, 5, call),
        at(0x28, 6, call),
        at(0x30, 3, SiteKind::Alternative),
        at(0x30, 5, SiteKind::Alternative),
        at(0x30, 8, SiteKind::Alternative),
        at(0x3e, 2, key),
    ];
    assert_eq!(found, expected);
    let counts = Table::ALL.map(|table| sites.count(table));
    assert_eq!(counts, [Some(5), Some(2), Some(2), Some(3)]);
}

#[test]
fn a_site_is_found_by_any_of_its_bytes() {
    let sites = Sites::read(&kernel(&good()[..1])).unwrap();
    let found = |range: Range<u64>| {
        sites
            .at(TEXT + range.start..TEXT + range.end)
            .map(|site| site.address - TEXT)
            .collect::<Vec<_>>()
    };
    assert_eq!(found(0x04..0x05), [0x00]);
    assert_eq!(found(0x05..0x08), [0; 0]);
    assert_eq!(found(0x05..0x09), [0x08]);
    assert_eq!(found(0x04..0x11), [0x00, 0x08, 0x10]);
    assert_eq!(found(0x09..0x09), [0; 0]);
}

#[test]
fn a_table_that_is_not_there_is_absent_and_an_empty_one_is_empty() {
    let sites = Sites::read(&kernel(&[(Table::Ftrace, FTRACE, Vec::new())])).unwrap();
    let counts = Table::ALL.map(|table| sites.count(table));
    assert_eq!(counts, [None, None, Some(0), None]);
}

#[test]
fn the_shorter_alternatives_of_older_kernels_are_read() {
    let entries = (ALTERNATIVES..).step_by(12).zip([(8, 8), (3, 0)]);
    let content = entries
        .flat_map(|(at, (len, new))| alternative(at, &[9, 0], len, new))
        .collect();
    let sites = Sites::read(&kernel(&[(Table::Alternatives, ALTERNATIVES, content)])).unwrap();
    let found: Vec<u8> = sites.at(TEXT..TEXT + 0x40).map(|site| site.len).collect();
    assert_eq!(found, [3, 8]);
}

#[test]
fn alternatives_say_what_replaces_them_and_when() {
    let at = |offset: u64, middle: &[u8]| alternative(ALTERNATIVES + offset, middle, 8, 5);
    let alternative = |feature, inverted| Alternative {
        address: TEXT + 0x30,
        len: 8,
        replacement: TEXT + 0x38,
        replacement_len: 5,
        feature,
        inverted,
    };
    let read = |content| {
        let tables = [(Table::Alternatives, ALTERNATIVES, content)];
        Alternative::read_all(&kernel(&tables)).unwrap()
    };
    let expected = [alternative(0xeb, false), alternative(0xeb, true)];
    let newer = [at(0, &[0xeb, 0, 0, 0]), at(14, &[0xeb, 0, 1, 0])].concat();
    assert_eq!(read(newer), expected);
    let older = [at(0, &[0xeb, 0]), at(12, &[0xeb, 0x80])].concat();
    assert_eq!(read(older), expected);
    assert_eq!(Alternative::read_all(&kernel(&[])).unwrap(), []);
}

#[test]
fn branches_say_where_they_go() {
    let branch = |offset| Branch {
        address: TEXT + offset,
        target: TEXT + offset + 0x20,
        key: KEY,
    };
    let branches = Branch::read_all(&kernel(&good()[..1])).unwrap();
    assert_eq!(branches, [0x00, 0x08, 0x10, 0x18, 0x3e].map(branch));
    assert_eq!(Branch::read_all(&kernel(&[])).unwrap(), []);
}

#[test]
fn a_damaged_table_is_named() {
    let damaged: [(Table, u64, Vec<u8>, &str); 7] = [
        (
            Table::StaticKeys,
            KEYS,
            static_key(KEYS, TEXT + 0x20, 0),
            "a static key's branch is neither a JMP nor a NOP",
        ),
        (
            Table::StaticKeys,
            KEYS,
            vec![0; 17],
            "its size is no multiple of an entry's",
        ),
        (
            Table::StaticCalls,
            CALLS,
            static_call(CALLS, KEY, 0),
            "an entry points to a place that is no code",
        ),
        (
            Table::Ftrace,
            FTRACE,
            (TEXT + 0x3c).to_le_bytes().to_vec(),
            "an entry points to a place that is no code",
        ),
        (
            Table::Alternatives,
            ALTERNATIVES,
            alternative(ALTERNATIVES, &[0; 4], 2, 3),
            "a replacement is longer than what it replaces",
        ),
        (
            Table::Alternatives,
            ALTERNATIVES,
            alternative(ALTERNATIVES, &[0; 3], 2, 2),
            "its size is no multiple of an entry's",
        ),
        (
            Table::Ftrace,
            DATA + 0x400,
            vec![],
            "it ends before it starts",
        ),
    ];
    for (table, at, content, why) in damaged {
        let image = if why.contains("before") {
            let symbols = [("__start_mcount_loc", at), ("__stop_mcount_loc", at - 8)];
            open(&vmlinux(&text(), &[0; 0x400], &symbols)).unwrap()
        } else {
            kernel(&[(table, at, content)])
        };
        match Sites::read(&image).unwrap_err() {
            SitesError::Damaged { table: named, what } => assert_eq!((named, what), (table, why)),
            SitesError::Read { .. } => unreachable!("{table} can be read"),
        }
    }
}

#[test]
fn half_a_table_and_a_table_without_bytes_are_damaged() {
    let read = |symbols: &[(&str, u64)]| {
        Sites::read(&open(&vmlinux(&text(), &[0; 16], symbols)).unwrap())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        read(&[("__start___jump_table", DATA)]),
        "the table of static keys cannot be understood: it has a start or an end, but not both"
    );
    assert_eq!(
        read(&[
            ("__alt_instructions", DATA + 0x20),
            ("__alt_instructions_end", DATA + 0x2e),
        ]),
        "the table of alternatives cannot be understood: the file has no bytes for it"
    );
}

proptest! {
    #[test]
    fn lookups_agree_with_a_search_through_all_sites(
        list in vec((0..0x400_u64, any::<u8>()), 0..40),
        start in 0..0x500_u64,
        len in 0..0x20_u64,
    ) {
        let list: Vec<Site> = list
            .into_iter()
            .map(|(offset, len)| at(offset, len, SiteKind::Ftrace))
            .collect();
        let sites: Sites = list.iter().copied().collect();
        let range = TEXT + start..TEXT + start + len;
        let bytes = |site: &Site| site.address..site.address + u64::from(site.len);
        let mut expected: Vec<Site> = list
            .into_iter()
            .filter(|site| bytes(site).any(|byte| range.contains(&byte)))
            .collect();
        expected.sort_unstable();
        prop_assert_eq!(sites.at(range).copied().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn no_table_makes_reading_panic(
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut file = {
            let tables = good();
            let mut data = vec![0; 0x400];
            for (_, at, content) in &tables {
                let offset = (at - DATA) as usize;
                data[offset..offset + content.len()].copy_from_slice(content);
            }
            let symbols = [
                ("__start___jump_table", KEYS),
                ("__stop___jump_table", KEYS + 0x50),
                ("__start_static_call_sites", CALLS),
                ("__stop_static_call_sites", CALLS + 0x10),
                ("__start_mcount_loc", FTRACE),
                ("__stop_mcount_loc", FTRACE + 0x18),
                ("__alt_instructions", ALTERNATIVES),
                ("__alt_instructions_end", ALTERNATIVES + 42),
            ];
            vmlinux(&text(), &data, &symbols)
        };
        for (place, byte) in damage {
            let place = place.index(file.len());
            file[place] = byte;
        }
        if let Ok(image) = open(&file) && let Ok(sites) = Sites::read(&image) {
            for site in sites.at(0..u64::MAX) {
                let end = site.address + u64::from(site.len);
                prop_assert!(image.is_code(&(site.address..end)));
            }
        }
    }
}
