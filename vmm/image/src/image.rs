//! A vmlinux: its symbols, and the bytes that it has for a link address.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use object::LittleEndian as LE;
use object::elf;
use object::read::ReadCache;
use object::read::elf::SectionHeader;
use thiserror::Error;

use crate::symbols::{self, Symbols, SymbolsError};

/// Most bytes that [`Image::bytes`] gives at once. The largest table of patched places, that of
/// ftrace in a kernel with everything built in, stays below a tenth of it.
const MAX_BYTES: u64 = 16 << 20;

/// Why a vmlinux cannot be used.
#[derive(Debug, Error)]
pub enum ImageError {
    /// It is no vmlinux, or its tables are damaged.
    #[error(transparent)]
    Symbols(#[from] SymbolsError),
    /// The bytes of a section cannot be read: the file is shorter than its headers say, or a disk
    /// fails.
    #[error("cannot read {} bytes at {:#x} of {}", range.end - range.start, range.start, path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Link addresses.
        range: Range<u64>,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// More bytes than any table has.
    #[error("{} bytes at {:#x} are asked for; at most {MAX_BYTES} are read", range.end - range.start, range.start)]
    TooLarge {
        /// Link addresses.
        range: Range<u64>,
    },
}

/// A vmlinux. All addresses are link addresses: where the kernel is without KASLR.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    file: File,
    symbols: Symbols,
    /// Those that are loaded.
    sections: Vec<Section>,
}

/// A section that the file has bytes for.
#[derive(Clone, Debug)]
struct Section {
    address: Range<u64>,
    /// In the file.
    offset: u64,
    executable: bool,
    notes: bool,
}

impl Image {
    /// Opens the vmlinux at `path` and reads its symbols. A stripped one has none.
    ///
    /// # Errors
    /// When the file cannot be read, is no ELF file for x86-64, or is damaged.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let (file, _) = symbols::open(path)?;
        let cache = ReadCache::new(file);
        let headers = symbols::sections(&cache).map_err(|fault| fault.at(path))?;
        let symbols = symbols::read_elf(&cache, &headers).map_err(|fault| fault.at(path))?;
        let flag = |section: &elf::SectionHeader64<LE>, flag| section.sh_flags(LE).contains(flag);
        let sections = headers
            .iter()
            // Notes are loaded as well: the build id is one.
            .filter(|section| matches!(section.sh_type(LE), elf::SHT_PROGBITS | elf::SHT_NOTE))
            .filter(|section| flag(section, elf::SHF_ALLOC))
            .filter_map(|section| {
                let start = section.sh_addr(LE);
                let end = start.checked_add(section.sh_size(LE))?;
                Some(Section {
                    address: start..end,
                    offset: section.sh_offset(LE),
                    executable: flag(section, elf::SHF_EXECINSTR),
                    notes: section.sh_type(LE) == elf::SHT_NOTE,
                })
            })
            .collect();
        Ok(Self {
            path: path.to_path_buf(),
            file: cache.into_inner(),
            symbols,
            sections,
        })
    }

    /// The symbols.
    #[must_use]
    pub fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// The symbols, without the rest.
    #[must_use]
    pub fn into_symbols(self) -> Symbols {
        self.symbols
    }

    /// The bytes at `range`, or none if no section of the file holds all of it, as with `.bss`.
    ///
    /// # Errors
    /// When the file cannot be read there, or `range` is longer than any table of a kernel.
    pub fn bytes(&self, range: Range<u64>) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(len) = range.end.checked_sub(range.start) else {
            return Ok(None);
        };
        let Some(section) = self.section(&range) else {
            return Ok(None);
        };
        if len > MAX_BYTES {
            return Err(ImageError::TooLarge { range });
        }
        let mut bytes = vec![0; len as usize];
        section
            .offset
            .checked_add(range.start - section.address.start)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            .and_then(|offset| self.file.read_exact_at(&mut bytes, offset))
            .map_err(|source| ImageError::Read {
                path: self.path.clone(),
                range,
                source,
            })?;
        Ok(Some(bytes))
    }

    /// The bytes from `address` on to the end of its section, but no more than `most`; none if no section of the
    /// file holds it.
    ///
    /// # Errors
    /// As of [`Image::bytes`].
    pub fn bytes_from(&self, address: u64, most: u64) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(section) = self.section(&(address..address)) else {
            return Ok(None);
        };
        self.bytes(address..section.address.end.min(address.saturating_add(most)))
    }

    /// Where ELF notes are, section by section.
    pub fn notes(&self) -> impl Iterator<Item = Range<u64>> {
        let notes = self.sections.iter().filter(|section| section.notes);
        notes.map(|section| section.address.clone())
    }

    /// Whether all of `range` is in a section with code.
    #[must_use]
    pub fn is_code(&self, range: &Range<u64>) -> bool {
        self.section(range)
            .is_some_and(|section| section.executable)
    }

    /// The section that holds all of `range`.
    fn section(&self, range: &Range<u64>) -> Option<&Section> {
        self.sections.iter().find(|section| {
            section.address.start <= range.start
                && range.start <= range.end
                && range.end <= section.address.end
        })
    }
}

#[cfg(test)]
mod tests;
