//! A module's file: functions and ORC entries, to be placed where the kernel loaded its sections.

use std::collections::BTreeMap;

use object::read::elf::ElfFile64;
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, RelocationTarget, SymbolKind};
use thiserror::Error;

use crate::orc::{self, OrcEntry, OrcError, OrcLayout, OrcTable};
use crate::symbols::Symbols;

/// Most symbols or ORC entries that are taken from one module. The largest drivers stay below a
/// quarter of it.
const MAX_ENTRIES: usize = 1 << 18;
/// Longest name of a function that the kernel keeps (KSYM_NAME_LEN in include/linux/kallsyms.h).
const MAX_NAME: usize = 512;

/// Why a module's file cannot be used.
#[derive(Debug, Error)]
pub enum ModuleError {
    /// It is no ELF file for x86-64.
    #[error("the module is not a 64-bit x86 ELF file")]
    NotElf(#[source] object::read::Error),
    /// Its tables are damaged.
    #[error("the module is damaged: {0}")]
    Damaged(&'static str),
    /// Its ORC tables cannot be understood.
    #[error(transparent)]
    Orc(#[from] OrcError),
}

/// Where the kernel has the sections of a module, by their names.
pub type SectionAddresses = BTreeMap<String, u64>;

/// What a module's file says of its code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleFile {
    functions: Vec<Placed<String>>,
    orc: Vec<Placed<OrcEntry>>,
    /// Bytes of each section, by its name.
    sizes: BTreeMap<String, u64>,
}

/// Something at an offset of a section.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Placed<T> {
    section: String,
    offset: u64,
    what: T,
}

/// A module's code where the kernel has it.
#[derive(Debug, Default)]
pub struct LoadedModule {
    /// Its functions.
    pub symbols: Symbols,
    /// How its frames are laid out; empty in a kernel with frame pointers.
    pub orc: OrcTable,
}

impl ModuleFile {
    /// Reads a module of a kernel that was built with ORC tables or without.
    ///
    /// # Errors
    /// When it is no module for x86-64, or is damaged.
    pub fn parse(file: &[u8]) -> Result<Self, ModuleError> {
        let elf = ElfFile64::<LittleEndian>::parse(file).map_err(ModuleError::NotElf)?;
        let mut module = Self::default();
        for section in elf.sections() {
            if let Ok(name) = section.name() {
                module.sizes.insert(name.to_owned(), section.size());
            }
        }
        let name_of = |index| {
            let section = elf.section_by_index(index).ok()?;
            section.name().ok().map(str::to_owned)
        };
        for symbol in elf.symbols().take(MAX_ENTRIES) {
            let section = symbol.section_index().and_then(name_of);
            let (SymbolKind::Text, Ok(name), Some(section)) =
                (symbol.kind(), symbol.name(), section)
            else {
                continue;
            };
            if name.len() > MAX_NAME {
                continue;
            }
            module.functions.push(Placed {
                section,
                offset: symbol.address(),
                what: name.to_owned(),
            });
        }
        module.orc = orc_entries(&elf, &name_of)?;
        Ok(module)
    }

    /// The same with its sections where `addresses` say. What is in no such section is left out.
    #[must_use]
    pub fn load(&self, addresses: &SectionAddresses) -> LoadedModule {
        let end = |section: &str| -> Option<u64> {
            addresses
                .get(section)?
                .checked_add(*self.sizes.get(section)?)
        };
        let functions = self.functions.iter().filter_map(|function| {
            let start = addresses.get(&function.section)?;
            let address = start.checked_add(function.offset)?;
            Some((address, end(&function.section)?, function.what.as_str()))
        });
        let orc = self.orc.iter().filter_map(|entry| {
            let start = addresses.get(&entry.section)?;
            Some((start.checked_add(entry.offset)?, entry.what))
        });
        LoadedModule {
            symbols: Symbols::from_functions(functions),
            orc: orc.collect(),
        }
    }
}

/// The entries of `.orc_unwind`, each at the place that the relocation of its `.orc_unwind_ip` names.
fn orc_entries(
    elf: &ElfFile64<'_, LittleEndian>,
    name_of: &dyn Fn(object::SectionIndex) -> Option<String>,
) -> Result<Vec<Placed<OrcEntry>>, ModuleError> {
    let (Some(places), Some(entries)) = (
        elf.section_by_name(".orc_unwind_ip"),
        elf.section_by_name(".orc_unwind"),
    ) else {
        return Ok(Vec::new());
    };
    let damaged = ModuleError::Damaged;
    let bytes = entries.data().map_err(|_| damaged("its ORC entries"))?;
    let layout = match elf.section_by_name(".orc_header") {
        Some(header) => orc::by_hash(header.data().map_err(|_| damaged("its ORC header"))?)?,
        // Modules are built for the kernel that loads them: before 6.3 neither has a header.
        None => OrcLayout::Before63,
    };
    let entries = orc::parse_entries(layout, bytes)?;
    if entries.len() > MAX_ENTRIES {
        return Err(damaged("it has too many ORC entries"));
    }
    let mut placed = Vec::with_capacity(entries.len());
    for (at, relocation) in places.relocations() {
        let index = usize::try_from(at / 4).unwrap_or(usize::MAX);
        let (Some(entry), RelocationTarget::Symbol(symbol)) =
            (entries.get(index), relocation.target())
        else {
            return Err(damaged("an ORC address refers to nothing"));
        };
        let symbol = elf.symbol_by_index(symbol);
        let symbol = symbol.map_err(|_| damaged("an ORC address has no symbol"))?;
        let Some(section) = symbol.section_index().and_then(name_of) else {
            continue;
        };
        placed.push(Placed {
            section,
            // S + A - P where P is the place itself (psABI, R_X86_64_PC32).
            offset: symbol.address().wrapping_add_signed(relocation.addend()),
            what: *entry,
        });
    }
    Ok(placed)
}

#[cfg(test)]
mod tests;
