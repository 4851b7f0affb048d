//! Modules by hand, and files that are none.

use object::write::{Object as Writer, Relocation, SectionId, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind, SymbolFlags, SymbolScope,
    elf,
};
use proptest::prelude::*;

use super::*;
use crate::{OrcBase, OrcKind};

/// sp_offset 8 from RSP, a call.
const CALL: [u8; 6] = [8, 0, 0, 0, 0x05, 2];

fn section(file: &mut Writer<'_>, name: &str, kind: SectionKind, bytes: &[u8]) -> SectionId {
    let id = file.add_section(Vec::new(), name.into(), kind);
    file.append_section_data(id, bytes, 1);
    id
}

/// Two functions in `.text` and one in `.text.unlikely`, and an ORC entry for each.
fn module(header: Option<&[u8]>) -> Vec<u8> {
    let mut file = Writer::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let text = section(&mut file, ".text", SectionKind::Text, &[0x90; 64]);
    let cold = section(&mut file, ".text.unlikely", SectionKind::Text, &[0x90; 16]);
    if let Some(header) = header {
        section(&mut file, ".orc_header", SectionKind::ReadOnlyData, header);
    }
    let places = section(
        &mut file,
        ".orc_unwind_ip",
        SectionKind::ReadOnlyData,
        &[0; 12],
    );
    let entries = CALL.repeat(3);
    section(
        &mut file,
        ".orc_unwind",
        SectionKind::ReadOnlyData,
        &entries,
    );
    for (name, section, value) in [
        ("first", text, 0),
        ("second", text, 32),
        ("first.cold", cold, 0),
    ] {
        file.add_symbol(Symbol {
            name: name.into(),
            value,
            size: 16,
            kind: SymbolKind::Text,
            scope: SymbolScope::Compilation,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        });
    }
    for (at, section, addend) in [(0, text, 0), (4, text, 32), (8, cold, 0)] {
        let symbol = file.section_symbol(section);
        let flags = RelocationFlags::Elf {
            r_type: elf::R_X86_64_PC32,
        };
        let relocation = Relocation {
            offset: at,
            symbol,
            addend,
            flags,
        };
        file.add_relocation(places, relocation).unwrap();
    }
    file.write().unwrap()
}

const HASH: [u8; 20] = [
    0xfe, 0x5d, 0x32, 0xbf, 0x58, 0x1b, 0xd6, 0x3b, 0x2c, 0xa9, 0xa5, 0xc6, 0x5b, 0xa5, 0xa6, 0x25,
    0xea, 0xb3, 0xfe, 0x24,
];

#[test]
fn functions_and_entries_are_where_the_kernel_put_the_sections() {
    let text = 0xffff_ffff_c000_0000;
    let cold = 0xffff_ffff_c010_0000;
    let addresses = [(".text", text), (".text.unlikely", cold)]
        .map(|(name, address)| (name.to_owned(), address))
        .into();
    let loaded = ModuleFile::parse(&module(Some(&HASH)))
        .unwrap()
        .load(&addresses);
    let name = |address| {
        loaded
            .symbols
            .resolve(address)
            .map(|found| found.to_string())
    };
    assert_eq!(name(text + 4).as_deref(), Some("first+0x4/0x20"));
    assert_eq!(name(text + 40).as_deref(), Some("second+0x8/0x20"));
    assert_eq!(name(cold).as_deref(), Some("first.cold+0x0/0x10"));
    assert_eq!(name(text + 64), None);
    let call = OrcEntry {
        sp_offset: 8,
        bp_offset: 0,
        sp: OrcBase::Sp,
        bp: OrcBase::Undefined,
        kind: OrcKind::Call,
        signal: false,
    };
    let expected: OrcTable = [text, text + 32, cold]
        .map(|at| (at, call))
        .into_iter()
        .collect();
    assert_eq!(loaded.orc, expected);
}

#[test]
fn what_is_in_a_section_that_was_not_loaded_is_left_out() {
    let addresses = [(".text.unlikely".to_owned(), 0xffff_ffff_c000_0000)].into();
    let loaded = ModuleFile::parse(&module(Some(&HASH)))
        .unwrap()
        .load(&addresses);
    assert_eq!((loaded.symbols.len(), loaded.orc.len()), (1, 1));
}

#[test]
fn a_module_of_an_unknown_kernel_is_refused() {
    let error = ModuleFile::parse(&module(Some(&[1; 20]))).unwrap_err();
    assert!(
        matches!(error, ModuleError::Orc(OrcError::UnknownLayout { .. })),
        "{error}"
    );
    let error = ModuleFile::parse(b"\x7fELF nothing").unwrap_err();
    assert!(matches!(error, ModuleError::NotElf(_)), "{error}");
}

proptest! {
    #[test]
    fn a_damaged_module_is_refused_or_read_but_never_panics(
        at in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut file = module(Some(&HASH));
        for (index, byte) in at {
            let index = index.index(file.len());
            file[index] = byte;
        }
        if let Ok(module) = ModuleFile::parse(&file) {
            let _ = module.load(&[(".text".to_owned(), u64::MAX)].into());
        }
    }
}

/// A module with an exit function 8 bytes into `.exit.text`, after 100 bytes of `.text` and an
/// `.init.text` that the kernel puts elsewhere.
fn with_exit_function(pointer: u64) -> Vec<u8> {
    let mut file = Writer::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let code = |file: &mut Writer<'_>, name: &str, bytes: u64, align| {
        let id = file.add_section(Vec::new(), name.into(), SectionKind::Text);
        file.append_section_data(id, &vec![0x90; bytes as usize], align);
        id
    };
    code(&mut file, ".text", 100, 16);
    code(&mut file, ".init.text", 4096, 16);
    let exit = code(&mut file, ".exit.text", 16, 32);
    let mut this = vec![0; 256];
    this[24..30].copy_from_slice(b"ipirig");
    let this = section(
        &mut file,
        ".gnu.linkonce.this_module",
        SectionKind::Data,
        &this,
    );
    let symbol = file.add_symbol(Symbol {
        name: b"cleanup_module".to_vec(),
        value: 8,
        size: 8,
        kind: SymbolKind::Text,
        scope: SymbolScope::Linkage,
        weak: false,
        section: SymbolSection::Section(exit),
        flags: SymbolFlags::None,
    });
    let relocation = Relocation {
        offset: pointer,
        symbol,
        addend: 0,
        flags: RelocationFlags::Elf {
            r_type: elf::R_X86_64_64,
        },
    };
    file.add_relocation(this, relocation).unwrap();
    file.write().unwrap()
}

#[test]
fn a_module_is_found_by_its_name_and_its_code_by_its_exit_function() {
    let module = ModuleFile::parse(&with_exit_function(0x98)).unwrap();
    assert_eq!(
        (module.name(), module.exit_pointer()),
        (Some("ipirig"), Some(0x98))
    );
    let begin = 0xffff_ffff_c012_3000;
    let expected = [(".text", begin), (".exit.text", begin + 128)];
    let expected = expected.map(|(name, at)| (name.to_owned(), at));
    assert_eq!(module.code_at(begin + 128 + 8), Some(expected.into()));
    // Not from the begin of a page, not the kernel's, beyond the end.
    for wrong in [begin + 129, 0x40_0088, 8, u64::MAX] {
        assert_eq!(module.code_at(wrong), None, "{wrong:#x}");
    }
}

#[test]
fn a_module_without_an_exit_function_cannot_be_found() {
    let module = ModuleFile::parse(&module(None)).unwrap();
    assert_eq!(
        (module.name(), module.code_at(0xffff_ffff_c012_3088)),
        (None, None)
    );
}
