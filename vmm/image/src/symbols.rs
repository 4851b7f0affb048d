//! Names for kernel addresses, from a vmlinux or a System.map.
//!
//! Reports name the instruction that sent an IPI. Nothing else needs symbols, so nothing loads them
//! until a report is written: opening a [`Symbols`] reads the ELF symbol table and its strings, never
//! the debug information beside them.
//!
//! What this module does not do: modules' symbols, lines of source, inlined functions.

mod function;
mod text;

use std::cmp::Reverse;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, SectionHeader64, Sym64};
use object::read::ReadCache;
use object::read::elf::{FileHeader, SectionHeader, SectionTable, Sym};
use thiserror::Error;

pub use function::{Function, NoFunction};
pub use text::TextFault;

/// Most bytes of a symbol table, of its strings, or of a System.map. The largest kernels stay below
/// a quarter of it.
const MAX_TABLE: u64 = 256 << 20;
/// Most sections. A kernel built with -ffunction-sections stays below it once linked.
const MAX_SECTIONS: usize = 1 << 16;
/// Where the kernel's half of the address space begins with five levels of page tables. With four it begins higher,
/// and what is between is no address (Documentation/arch/x86/x86_64/mm.rst). Below lie user space and, in a vmlinux,
/// the offsets of per-CPU variables, which are no addresses.
pub const KERNEL_HALF: u64 = 0xff00_0000_0000_0000;

/// Why symbols cannot be had.
#[derive(Debug, Error)]
pub enum SymbolsError {
    /// The file cannot be opened or read.
    #[error("cannot read symbols from {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory, a pipe or a device.
    #[error("cannot read symbols from {}: it is not a regular file", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// It is no 64-bit little-endian ELF file.
    #[error(
        "{} is not a 64-bit x86 ELF file and has no symbols; give the vmlinux or System.map",
        path.display()
    )]
    NotElf {
        /// The file.
        path: PathBuf,
    },
    /// The ELF file's tables are damaged.
    #[error("{} is damaged: {what}; build or copy it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which part.
        what: &'static str,
    },
    /// A table is larger than any kernel's.
    #[error("{} has {bytes} bytes of symbols; at most {MAX_TABLE} are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Size of the table.
        bytes: u64,
    },
    /// What should be a System.map, or what `/proc/kallsyms` gave, is neither.
    #[error("{}: {fault}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: TextFault,
    },
}

/// A kernel's symbols.
#[derive(Debug, Default)]
pub struct Symbols {
    /// Sorted by address; of several at one address the best name comes first.
    symbols: Vec<Symbol>,
    /// All names, one after the other.
    names: String,
    /// Indices into `symbols`, sorted by name. Made when the first name is looked up.
    by_name: OnceLock<Vec<u32>>,
    /// What KASLR adds to each kernel address, modulo 2^64.
    slide: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Symbol {
    address: u64,
    /// Where the next symbol or the end of the section comes.
    end: u64,
    /// In [`Symbols::names`].
    name: Range<u32>,
}

/// An address as the kernel prints it: `name+0xoffset/0xsize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved<'a> {
    /// The nearest symbol at or below the address.
    pub name: &'a str,
    /// Bytes from the symbol to the address.
    pub offset: u64,
    /// Bytes from the symbol to the next one, as kallsyms counts.
    pub size: u64,
}

impl fmt::Display for Resolved<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}/{:#x}", self.name, self.offset, self.size)
    }
}

impl Symbols {
    /// Reads the symbol table of the vmlinux at `path`. A stripped kernel gives an empty table.
    ///
    /// # Errors
    /// When the file cannot be read, is no ELF file for x86-64, or is damaged.
    pub fn from_vmlinux(path: &Path) -> Result<Self, SymbolsError> {
        let (file, _) = open(path)?;
        let cache = ReadCache::new(file);
        sections(&cache)
            .and_then(|sections| read_elf(&cache, &sections))
            .map_err(|fault| fault.at(path))
    }

    /// Functions known in another way than from a kernel's file: address, end of the section that
    /// holds it, and name.
    #[must_use]
    pub fn from_functions<'a>(functions: impl IntoIterator<Item = (u64, u64, &'a str)>) -> Self {
        let mut table = Table::default();
        for (address, end, name) in functions {
            let rank = Rank {
                in_section: end > address,
                typed: true,
                global: false,
            };
            table.push(name, address, end.max(address), rank);
        }
        table.finish()
    }

    /// The same symbols for a kernel that KASLR moved: each address grows by `slide`, modulo 2^64.
    #[must_use]
    pub fn with_slide(self, slide: u64) -> Self {
        Self { slide, ..self }
    }

    /// Number of symbols.
    #[must_use]
    pub fn len(&self) -> usize {
        self.symbols.len()
    }

    /// Whether there are none, as with a stripped kernel.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// The symbol that holds `address`, if it is one of the kernel's and has one.
    #[must_use]
    pub fn resolve(&self, address: u64) -> Option<Resolved<'_>> {
        let linked = address.wrapping_sub(self.slide);
        if address < KERNEL_HALF || linked < KERNEL_HALF {
            return None;
        }
        self.nearest(linked)
    }

    /// The per-CPU variable that is `offset` from the base of GS, if there is one. Since 6.15 such
    /// variables are linked at kernel addresses and the offset is such a one, modulo 2^64.
    #[must_use]
    pub fn resolve_per_cpu(&self, offset: u64) -> Option<Resolved<'_>> {
        if offset < KERNEL_HALF {
            self.nearest(offset)
        } else {
            self.resolve(offset)
        }
    }

    /// The symbol that holds `linked`, before KASLR.
    fn nearest(&self, linked: u64) -> Option<Resolved<'_>> {
        let above = self
            .symbols
            .partition_point(|symbol| symbol.address <= linked);
        let nearest = self.symbols[..above].last()?.address;
        let first = self.symbols[..above].partition_point(|symbol| symbol.address < nearest);
        let symbol = self.symbols.get(first)?;
        if linked >= symbol.end && linked != symbol.address {
            return None;
        }
        Some(Resolved {
            name: self.name(symbol),
            offset: linked - symbol.address,
            size: symbol.end - symbol.address,
        })
    }

    /// The symbols in `range`, by address, and those at one address with the best name first.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &str)> {
        self.symbols
            .iter()
            .map(|symbol| (self.moved(symbol), self.name(symbol)))
            .filter(move |(address, _)| range.contains(address))
    }

    /// The address of the symbol `name`; of several, the lowest. A function of the source may have another
    /// name: [`Symbols::function`]. Per-CPU variables give their offset
    /// in the per-CPU area.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<u64> {
        let (address, symbol) = self.beginning_with(name).next()?;
        (symbol == name).then_some(address)
    }

    /// The symbols whose names begin with `start`, by name, and those of one name by address.
    fn beginning_with(&self, start: &str) -> impl Iterator<Item = (u64, &str)> {
        let by_name = self.by_name.get_or_init(|| {
            let mut order: Vec<u32> = (0..).take(self.symbols.len()).collect();
            // Stable, so equal names stay sorted by address.
            order.sort_by_key(|&index| self.name(&self.symbols[index as usize]));
            order
        });
        let at = |index: u32| &self.symbols[index as usize];
        let first = by_name.partition_point(|&index| self.name(at(index)) < start);
        by_name
            .get(first..)
            .unwrap_or_default()
            .iter()
            .map(move |&index| (self.moved(at(index)), self.name(at(index))))
            .take_while(move |(_, name)| name.starts_with(start))
    }

    /// Where `symbol` is after KASLR. Offsets of per-CPU variables do not move.
    fn moved(&self, symbol: &Symbol) -> u64 {
        let slide = if symbol.address >= KERNEL_HALF {
            self.slide
        } else {
            0
        };
        symbol.address.wrapping_add(slide)
    }

    fn name(&self, symbol: &Symbol) -> &str {
        &self.names[symbol.name.start as usize..symbol.name.end as usize]
    }
}

/// Which of several names for one address is best; the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Its section goes on after it: it does not mark a section's end.
    in_section: bool,
    /// A function or an object, not a label.
    typed: bool,
    global: bool,
}

/// Symbols as they come, before they are sorted.
#[derive(Debug, Default)]
struct Table {
    symbols: Vec<(Symbol, Reverse<Rank>)>,
    names: String,
}

impl Table {
    /// `limit`: end of the symbol's section, at or above `address`.
    fn push(&mut self, name: &str, address: u64, limit: u64, rank: Rank) {
        // Both fit: the names come from a table of at most MAX_TABLE bytes.
        let start = self.names.len() as u32;
        self.names.push_str(name);
        let name = start..self.names.len() as u32;
        self.symbols.push((
            Symbol {
                address,
                end: limit,
                name,
            },
            Reverse(rank),
        ));
    }

    fn finish(mut self) -> Symbols {
        // Stable: of equals the first in the file wins.
        self.symbols
            .sort_by_key(|(symbol, rank)| (symbol.address, *rank));
        let mut symbols: Vec<Symbol> = self.symbols.into_iter().map(|(symbol, _)| symbol).collect();
        let (mut next, mut here) = (None, u64::MAX);
        for symbol in symbols.iter_mut().rev() {
            if symbol.address != here {
                // The kernel's half does not go on where per-CPU variables end.
                let apart = symbol.address < KERNEL_HALF && here >= KERNEL_HALF;
                next = (here != u64::MAX && !apart).then_some(here);
                here = symbol.address;
            }
            symbol.end = match next {
                Some(next) => symbol.end.min(next),
                // Nothing tells how long the last symbol is.
                None if symbol.end == u64::MAX => symbol.address,
                None => symbol.end,
            };
        }
        Symbols {
            symbols,
            names: self.names,
            ..Symbols::default()
        }
    }
}

pub(crate) fn open(path: &Path) -> Result<(File, u64), SymbolsError> {
    let read = |source| SymbolsError::Read {
        path: path.to_path_buf(),
        source,
    };
    // First: opening a pipe would wait for a writer.
    if !path.metadata().map_err(read)?.is_file() {
        return Err(SymbolsError::NotAFile {
            path: path.to_path_buf(),
        });
    }
    let file = File::open(path).map_err(read)?;
    let len = file.metadata().map_err(read)?.len();
    Ok((file, len))
}

pub(crate) enum ElfFault {
    NotElf,
    Damaged(&'static str),
    TooLarge(u64),
}

impl ElfFault {
    pub(crate) fn at(self, path: &Path) -> SymbolsError {
        let path = path.to_path_buf();
        match self {
            Self::NotElf => SymbolsError::NotElf { path },
            Self::Damaged(what) => SymbolsError::Damaged { path, what },
            Self::TooLarge(bytes) => SymbolsError::TooLarge { path, bytes },
        }
    }
}

/// The sections of a file read through a cache.
pub(crate) type Sections<'a> = SectionTable<'a, FileHeader64<LE>, &'a ReadCache<File>>;

fn damaged(what: &'static str) -> impl FnOnce(object::read::Error) -> ElfFault {
    move |_| ElfFault::Damaged(what)
}

/// The section headers of a vmlinux.
pub(crate) fn sections(file: &ReadCache<File>) -> Result<Sections<'_>, ElfFault> {
    let header = FileHeader64::<LE>::parse(file).map_err(|_| ElfFault::NotElf)?;
    if header.e_ident.data != elf::ELFDATA2LSB || header.e_machine.get(LE) != elf::EM_X86_64 {
        return Err(ElfFault::NotElf);
    }
    // The count first: with many sections it comes from a field as wide as a file is long.
    let count = header
        .shnum(LE, file)
        .map_err(damaged("its section count"))?;
    if count as usize > MAX_SECTIONS {
        return Err(ElfFault::Damaged("its section count"));
    }
    header
        .sections(LE, file)
        .map_err(damaged("its section headers"))
}

/// The symbol table that `sections` have, or an empty one.
pub(crate) fn read_elf<'a>(
    file: &'a ReadCache<File>,
    sections: &Sections<'a>,
) -> Result<Symbols, ElfFault> {
    let Some(symtab) = sections.iter().find(|s| s.sh_type(LE) == elf::SHT_SYMTAB) else {
        return Ok(Symbols::default());
    };
    let strtab = sections
        .section(symtab.link(LE))
        .map_err(damaged("its symbol table has no names"))?;
    for section in [symtab, strtab] {
        let bytes = section.sh_size(LE);
        if bytes > MAX_TABLE {
            return Err(ElfFault::TooLarge(bytes));
        }
    }
    let symbols: &[Sym64<LE>] = symtab
        .data_as_array(LE, file)
        .map_err(damaged("its symbol table"))?;
    let names = strtab
        .data(LE, file)
        .map_err(damaged("its symbols' names"))?;
    let mut table = Table::default();
    for symbol in symbols {
        push_elf_symbol(&mut table, sections, symbol, names);
    }
    Ok(table.finish())
}

/// Adds `symbol`, unless it names nothing that can be executed or touched.
fn push_elf_symbol(table: &mut Table, sections: &Sections<'_>, symbol: &Sym64<LE>, names: &[u8]) {
    let kind = symbol.st_type();
    if matches!(kind, elf::STT_SECTION | elf::STT_FILE) || symbol.is_undefined(LE) {
        return;
    }
    let Some(name) = names.get(symbol.st_name(LE) as usize..) else {
        return;
    };
    let Some(name) = name.split(|&byte| byte == 0).next() else {
        return;
    };
    let Ok(name) = str::from_utf8(name) else {
        return;
    };
    // The assembler's own labels.
    if name.is_empty() || name.starts_with(".L") {
        return;
    }
    let address = symbol.st_value(LE);
    let limit = section_end(sections, symbol).map_or(u64::MAX, |end| end.max(address));
    let rank = Rank {
        in_section: limit > address,
        typed: matches!(kind, elf::STT_FUNC | elf::STT_OBJECT),
        global: symbol.st_bind() == elf::STB_GLOBAL,
    };
    table.push(name, address, limit, rank);
}

/// End of the section that holds `symbol`; none if it is absolute.
fn section_end(sections: &Sections<'_>, symbol: &Sym64<LE>) -> Option<u64> {
    let index = symbol.st_shndx(LE);
    if index.0 >= elf::SHN_LORESERVE {
        return None;
    }
    let section: &SectionHeader64<LE> = sections
        .section(object::SectionIndex(index.0.into()))
        .ok()?;
    Some(section.sh_addr(LE).saturating_add(section.sh_size(LE)))
}

#[cfg(test)]
mod tests;
