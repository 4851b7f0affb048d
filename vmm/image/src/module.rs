//! A module's file: functions and ORC entries, to be placed where the kernel loaded its sections.

use std::collections::BTreeMap;
use std::ops::Range;

use object::read::elf::ElfFile64;
use object::{
    LittleEndian, Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionFlags, SymbolKind,
    elf,
};
use thiserror::Error;

use crate::orc::{self, OrcEntry, OrcError, OrcLayout, OrcTable};
use crate::symbols::{KERNEL_HALF, Symbols};

/// Most symbols or ORC entries that are taken from one module. The largest drivers stay below a
/// quarter of it.
const MAX_ENTRIES: usize = 1 << 18;
/// Longest name of a function that the kernel keeps (KSYM_NAME_LEN in include/linux/kallsyms.h).
const MAX_NAME: usize = 512;
/// Place of the name in the kernel's `struct module`: after `state` and `list`, MODULE_NAME_LEN bytes
/// (include/linux/module.h).
pub const STRUCT_MODULE_NAME: Range<usize> = 24..80;
/// Place of `list` in it.
pub const STRUCT_MODULE_LIST: u64 = 8;

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
    /// Sections of code that stay when the module has been initialised, in the file's order: name,
    /// alignment and size.
    code: Vec<(String, u64, u64)>,
    identity: Option<Identity>,
}

/// What of the kernel's `struct module` the file knows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    name: String,
    /// Offset of the pointer to the exit function in the structure.
    pointer: u64,
    /// Where that function is.
    exit: (String, u64),
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
        let file = ElfFile64::<LittleEndian>::parse(file).map_err(ModuleError::NotElf)?;
        let mut module = Self::default();
        for section in file.sections() {
            let Ok(name) = section.name() else {
                continue;
            };
            module.sizes.insert(name.to_owned(), section.size());
            let SectionFlags::Elf { sh_flags, .. } = section.flags() else {
                continue;
            };
            if sh_flags.contains(elf::SHF_ALLOC | elf::SHF_EXECINSTR) && !name.starts_with(".init")
            {
                module
                    .code
                    .push((name.to_owned(), section.align(), section.size()));
            }
        }
        let name_of = |index| {
            let section = file.section_by_index(index).ok()?;
            section.name().ok().map(str::to_owned)
        };
        for symbol in file.symbols().take(MAX_ENTRIES) {
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
        module.orc = orc_entries(&file, &name_of)?;
        module.identity = identity(&file, &name_of);
        Ok(module)
    }

    /// Its name, as the kernel has it in `struct module`.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        Some(&self.identity.as_ref()?.name)
    }

    /// Offset in the kernel's `struct module` of the pointer to the module's exit function; none if
    /// it has no such function.
    #[must_use]
    pub fn exit_pointer(&self) -> Option<u64> {
        Some(self.identity.as_ref()?.pointer)
    }

    /// Where the kernel has the sections of code, given where it has the exit function. They lie one
    /// after the other, aligned, from the begin of a page (`__layout_sections` and
    /// `module_get_offset_and_type` of kernel/module/main.c). None if that cannot be.
    #[must_use]
    pub fn code_at(&self, exit_function: u64) -> Option<SectionAddresses> {
        let (section, offset) = &self.identity.as_ref()?.exit;
        let mut next = 0_u64;
        let mut offsets = Vec::new();
        for (name, align, size) in &self.code {
            let start = next.checked_next_multiple_of((*align).max(1))?;
            offsets.push((name, start));
            next = start.checked_add(*size)?;
        }
        let (_, at) = offsets.iter().find(|(name, _)| *name == section)?;
        let begin = exit_function.checked_sub(at.checked_add(*offset)?)?;
        if begin < KERNEL_HALF || begin & 0xfff != 0 || begin.checked_add(next).is_none() {
            return None;
        }
        let addresses = offsets.into_iter();
        Some(
            addresses
                .map(|(name, at)| (name.clone(), begin + at))
                .collect(),
        )
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

/// What the file has of the kernel's `struct module`. Since 2.6 it has begun with `state`, `list` and
/// `name` (include/linux/module.h); where the exit function's pointer is, its relocation says.
fn identity(
    file: &ElfFile64<'_, LittleEndian>,
    name_of: &dyn Fn(object::SectionIndex) -> Option<String>,
) -> Option<Identity> {
    let this = file.section_by_name(".gnu.linkonce.this_module")?;
    let name = this.data().ok()?.get(STRUCT_MODULE_NAME)?;
    let name = name.split(|&byte| byte == 0).next()?;
    let name = str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
    for (pointer, relocation) in this.relocations() {
        let RelocationTarget::Symbol(symbol) = relocation.target() else {
            continue;
        };
        let symbol = file.symbol_by_index(symbol).ok()?;
        if symbol.name() != Ok("cleanup_module") {
            continue;
        }
        let section = name_of(symbol.section_index()?)?;
        return Some(Identity {
            name: name.to_owned(),
            pointer,
            exit: (section, symbol.address()),
        });
    }
    None
}

/// The entries of `.orc_unwind`, each at the place that the relocation of its `.orc_unwind_ip` names.
fn orc_entries(
    file: &ElfFile64<'_, LittleEndian>,
    name_of: &dyn Fn(object::SectionIndex) -> Option<String>,
) -> Result<Vec<Placed<OrcEntry>>, ModuleError> {
    let (Some(places), Some(entries)) = (
        file.section_by_name(".orc_unwind_ip"),
        file.section_by_name(".orc_unwind"),
    ) else {
        return Ok(Vec::new());
    };
    let damaged = ModuleError::Damaged;
    let bytes = entries.data().map_err(|_| damaged("its ORC entries"))?;
    let layout = match file.section_by_name(".orc_header") {
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
        let symbol = file.symbol_by_index(symbol);
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
