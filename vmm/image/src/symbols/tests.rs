//! Small kernels made by hand, damaged ones, and a search that is slow and sure.

use std::fs;

use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const TEXT: u64 = 0xffff_ffff_8100_0000;

fn load(
    file: impl AsRef<[u8]>,
    read: fn(&Path) -> Result<Symbols, SymbolsError>,
) -> Result<Symbols, SymbolsError> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("kernel");
    fs::write(&path, file).unwrap();
    read(&path)
}

/// A symbol of [`vmlinux`]: name, type and binding, section, address.
type ElfSymbol<'a> = (&'a str, u8, u16, u64);

const LOCAL_LABEL: u8 = 0x00;
const FILE: u8 = 0x04;
const LOCAL_FUNC: u8 = 0x02;
const GLOBAL_LABEL: u8 = 0x10;
const GLOBAL_FUNC: u8 = 0x12;
const GLOBAL_OBJECT: u8 = 0x11;
/// Sections of [`vmlinux`].
const IN_TEXT: u16 = 1;
const IN_DATA: u16 = 2;
const IN_PERCPU: u16 = 3;
const ABSOLUTE: u16 = 0xfff1;

/// An ELF file with 0x1000 bytes of text at [`TEXT`], 0x100 of data at `TEXT + 0x2000`, a per-CPU
/// section at 0, and `symbols`.
fn vmlinux(symbols: &[ElfSymbol<'_>]) -> Vec<u8> {
    let mut names = vec![0];
    let mut symtab = vec![0; 24];
    for &(name, info, section, address) in symbols {
        symtab.extend((names.len() as u32).to_le_bytes());
        symtab.extend([info, 0]);
        symtab.extend(section.to_le_bytes());
        symtab.extend(address.to_le_bytes());
        symtab.extend(0_u64.to_le_bytes());
        names.extend(name.bytes());
        names.push(0);
    }
    let tables = 64 + symtab.len() as u64;
    let (symtab_size, names_size) = (symtab.len() as u64, names.len() as u64);
    // type, address, offset, size, link, entry size
    let sections: [(u32, u64, u64, u64, u32, u64); 6] = [
        (0, 0, 0, 0, 0, 0),
        (8, TEXT, 0, 0x1000, 0, 0),
        (8, TEXT + 0x2000, 0, 0x100, 0, 0),
        (8, 0, 0, 0x100, 0, 0),
        (2, 0, 64, symtab_size, 5, 24),
        (3, 0, tables, names_size, 0, 0),
    ];
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend([0; 16]); // entry, program headers
    file.extend((tables + names_size).to_le_bytes());
    file.extend([0; 4]);
    file.extend([64, 0, 0, 0, 0, 0, 64, 0, 6, 0, 5, 0]);
    file.extend(symtab);
    file.extend(names);
    for (kind, address, offset, size, link, entry_size) in sections {
        file.extend([0; 4]);
        file.extend(kind.to_le_bytes());
        for field in [0, address, offset, size] {
            file.extend(field.to_le_bytes());
        }
        file.extend(link.to_le_bytes());
        file.extend([0; 12]);
        file.extend(entry_size.to_le_bytes());
    }
    file
}

fn kernel() -> Symbols {
    let symbols = [
        ("main.c", FILE, ABSOLUTE, 0),
        ("exc_nmi", GLOBAL_FUNC, IN_TEXT, TEXT + 0x200),
        ("_stext", GLOBAL_LABEL, IN_TEXT, TEXT),
        ("startup_64", LOCAL_FUNC, IN_TEXT, TEXT),
        (".Lretry", LOCAL_LABEL, IN_TEXT, TEXT + 0x80),
        ("inner", LOCAL_LABEL, IN_TEXT, TEXT + 0x100),
        ("_etext", GLOBAL_LABEL, IN_TEXT, TEXT + 0x1000),
        ("jiffies", GLOBAL_OBJECT, IN_DATA, TEXT + 0x2000),
        ("cpu_number", GLOBAL_OBJECT, IN_PERCPU, 0x40),
        ("missing", GLOBAL_FUNC, 0, 0),
        ("twice", LOCAL_FUNC, IN_TEXT, TEXT + 0x400),
        ("twice", LOCAL_FUNC, IN_TEXT, TEXT + 0x300),
    ];
    load(vmlinux(&symbols), Symbols::from_vmlinux).unwrap()
}

fn text(symbols: &Symbols, address: u64) -> Option<String> {
    symbols
        .resolve(address)
        .map(|resolved| resolved.to_string())
}

#[test]
fn an_address_resolves_to_the_nearest_symbol_below() {
    let symbols = kernel();
    let expected = [
        (TEXT - 1, None),
        (TEXT, Some("startup_64+0x0/0x100")),
        (TEXT + 0xff, Some("startup_64+0xff/0x100")),
        (TEXT + 0x100, Some("inner+0x0/0x100")),
        (TEXT + 0x2ff, Some("exc_nmi+0xff/0x100")),
        (TEXT + 0xfff, Some("twice+0xbff/0xc00")),
        (TEXT + 0x1000, Some("_etext+0x0/0x0")),
        (TEXT + 0x1001, None),
        (TEXT + 0x20ff, Some("jiffies+0xff/0x100")),
        (TEXT + 0x2100, None),
        (u64::MAX, None),
    ];
    for (address, name) in expected {
        assert_eq!(text(&symbols, address).as_deref(), name, "{address:#x}");
    }
}

#[test]
fn user_space_and_per_cpu_offsets_have_no_name() {
    assert_eq!(text(&kernel(), 0x40), None);
    assert_eq!(text(&kernel(), 0x40_1000), None);
}

#[test]
fn per_cpu_offsets_resolve_where_they_are_asked_for() {
    let symbols = kernel().with_slide(0x20_0000);
    let name = |offset| symbols.resolve_per_cpu(offset).map(|r| r.to_string());
    assert_eq!(name(0x3f), None);
    assert_eq!(name(0x41).as_deref(), Some("cpu_number+0x1/0xc0"));
    assert_eq!(name(0x100), None);
    assert_eq!(name(TEXT + 0x20_2001).as_deref(), Some("jiffies+0x1/0x100"));
}

#[test]
fn names_lead_to_addresses() {
    let symbols = kernel();
    let expected = [
        ("exc_nmi", Some(TEXT + 0x200)),
        ("_stext", Some(TEXT)),
        ("cpu_number", Some(0x40)),
        ("twice", Some(TEXT + 0x300)),
        ("missing", None),
        ("main.c", None),
        (".Lretry", None),
        ("", None),
        ("zzz", None),
    ];
    for (name, address) in expected {
        assert_eq!(symbols.address(name), address, "{name}");
    }
}

#[test]
fn a_slide_moves_kernel_addresses_and_nothing_else() {
    let symbols = kernel().with_slide(0x1e00_0000);
    assert_eq!(
        text(&symbols, TEXT + 0x1e00_0201).as_deref(),
        Some("exc_nmi+0x1/0x100")
    );
    assert_eq!(text(&symbols, TEXT + 0x201), None);
    assert_eq!(symbols.address("exc_nmi"), Some(TEXT + 0x1e00_0200));
    assert_eq!(symbols.address("cpu_number"), Some(0x40));
}

#[test]
fn a_stripped_kernel_has_no_symbols() {
    let mut file = vmlinux(&[("exc_nmi", GLOBAL_FUNC, IN_TEXT, TEXT)]);
    // The symbol table's section header becomes SHT_NULL.
    let headers = file.len() - 6 * 64;
    file[headers + 4 * 64 + 4] = 0;
    let symbols = load(file, Symbols::from_vmlinux).unwrap();
    assert_eq!(
        (
            symbols.is_empty(),
            symbols.resolve(TEXT),
            symbols.address("x")
        ),
        (true, None, None)
    );
}

#[test]
fn a_system_map_gives_the_same_names() {
    let map = "0000000000000040 D cpu_number\n\
               ffffffff81000000 T _stext\n\
               ffffffff81000000 t startup_64\n\
               ffffffff81000200 T exc_nmi\n\
               ffffffff81001000 A _etext\n\
               ffffffff81001000 T next\n";
    let symbols = load(map, Symbols::from_system_map).unwrap();
    assert_eq!(symbols.len(), 6);
    assert_eq!(
        text(&symbols, TEXT + 1).as_deref(),
        Some("_stext+0x1/0x200")
    );
    assert_eq!(
        text(&symbols, TEXT + 0xfff).as_deref(),
        Some("exc_nmi+0xdff/0xe00")
    );
    assert_eq!(
        text(&symbols, TEXT + 0x1000).as_deref(),
        Some("next+0x0/0x0")
    );
    assert_eq!(text(&symbols, TEXT + 0x1001), None);
    assert_eq!(text(&symbols, 0x41), None);
    assert_eq!(text(&symbols, KERNEL_HALF + 1), None);
    let per_cpu = |offset| symbols.resolve_per_cpu(offset).map(|r| r.to_string());
    assert_eq!(per_cpu(0x40).as_deref(), Some("cpu_number+0x0/0x0"));
    assert_eq!(per_cpu(0x41), None);
    assert_eq!(symbols.address("startup_64"), Some(TEXT));
}

#[test]
fn files_without_symbols_are_told_apart() {
    let message = |file: &[u8], read| load(file, read).unwrap_err();
    let elf = |file: &[u8]| message(file, Symbols::from_vmlinux);
    assert!(matches!(elf(b""), SymbolsError::NotElf { .. }));
    assert!(matches!(
        elf(b"ffffffff81000000 T _text\n"),
        SymbolsError::NotElf { .. }
    ));
    let file = vmlinux(&[("exc_nmi", GLOBAL_FUNC, IN_TEXT, TEXT)]);
    let cut = elf(&file[..file.len() - 1]);
    assert!(
        matches!(
            cut,
            SymbolsError::Damaged {
                what: "its section headers",
                ..
            }
        ),
        "{cut:?}"
    );
    let mut long = file.clone();
    let size = file.len() - 2 * 64 + 32;
    long[size + 3] = 0x20;
    let long = elf(&long);
    assert!(
        matches!(
            long,
            SymbolsError::TooLarge {
                bytes: 0x2000_0030,
                ..
            }
        ),
        "{long:?}"
    );

    let map = |file: &[u8]| message(file, Symbols::from_system_map);
    for bad in ["zz T _text", "10 T", "10 TT _text", "10 T _text x", ""] {
        let error = map(format!("10 T first\n{bad}\n").as_bytes());
        assert!(
            matches!(
                error,
                SymbolsError::Text {
                    fault: TextFault::Line(2),
                    ..
                }
            ),
            "{bad:?}: {error:?}"
        );
    }
    assert!(matches!(
        Symbols::from_vmlinux(Path::new("/")),
        Err(SymbolsError::NotAFile { .. })
    ));
    assert!(matches!(
        Symbols::from_vmlinux(Path::new("/nonexistent")),
        Err(SymbolsError::Read { .. })
    ));
}

proptest! {
    #[test]
    fn lookups_agree_with_a_search_through_all_symbols(
        offsets in vec(0..0x1000_u64, 1..40),
        probe in 0..0x1100_u64,
    ) {
        let names: Vec<String> = (0..offsets.len()).map(|i| format!("f{i}")).collect();
        let list: Vec<ElfSymbol<'_>> = names
            .iter()
            .zip(&offsets)
            .map(|(name, offset)| (name.as_str(), LOCAL_FUNC, IN_TEXT, TEXT + offset))
            .collect();
        let symbols = load(vmlinux(&list), Symbols::from_vmlinux).unwrap();
        let end = offsets.iter().copied().filter(|&o| o > probe).min().unwrap_or(0x1000);
        let nearest = offsets.iter().copied().filter(|&o| o <= probe).max();
        let expected = nearest.filter(|_| probe < 0x1000).map(|offset| {
            let first = offsets.iter().position(|&o| o == offset).unwrap();
            format!("f{first}+{:#x}/{:#x}", probe - offset, end - offset)
        });
        prop_assert_eq!(text(&symbols, TEXT + probe), expected);
        for (name, offset) in names.iter().zip(&offsets) {
            prop_assert_eq!(symbols.address(name), Some(TEXT + offset));
        }
    }

    #[test]
    fn no_file_makes_reading_or_looking_up_panic(
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        noise in vec(any::<u8>(), 0..512),
        probe in any::<u64>(),
    ) {
        let mut file = vmlinux(&[
            ("exc_nmi", GLOBAL_FUNC, IN_TEXT, TEXT),
            ("jiffies", GLOBAL_OBJECT, IN_DATA, TEXT + 0x2000),
        ]);
        for (place, byte) in damage {
            let place = place.index(file.len());
            file[place] = byte;
        }
        for file in [file, noise] {
            for read in [Symbols::from_vmlinux, Symbols::from_system_map] {
                if let Ok(symbols) = load(&file, read) {
                    prop_assert!(symbols.len() <= file.len());
                    for address in [probe, TEXT, TEXT + 0x2001, u64::MAX, 0] {
                        if let Some(resolved) = symbols.resolve(address) {
                            prop_assert!(resolved.offset <= resolved.size);
                            prop_assert!(symbols.address(resolved.name).is_some());
                        }
                    }
                }
            }
        }
    }
}
