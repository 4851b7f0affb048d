//! Symbols as text: a System.map, or `/proc/kallsyms`.

use std::io::Read;
use std::path::Path;

use thiserror::Error;

use super::{ElfFault, KERNEL_HALF, MAX_TABLE, Rank, Symbols, SymbolsError, Table, open};

/// Where the kernel image is mapped, and so the lowest address that it may be linked for (`__START_KERNEL_map` of
/// arch/x86/include/asm/page_64_types.h).
const IMAGE: u64 = 0xffff_ffff_8000_0000;
/// The image lies at multiples of this (a page of a page middle directory).
const IMAGE_ALIGN: u64 = 2 << 20;
/// What Debian ships as System.map says this in place of symbols.
const PLACEHOLDER: &str = "The real System.map is in ";

/// What is wrong with a text of symbols.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TextFault {
    /// A line of another form.
    #[error("line {0}: expected `address type name`; give the System.map of this kernel")]
    Line(usize),
    /// The kernel shows addresses to nobody, or not to who read it.
    #[error(
        "its addresses are all zero: read /proc/kallsyms as root, with 0 in \
         /proc/sys/kernel/kptr_restrict"
    )]
    Hidden,
    /// A distribution's file that only says where the real one is.
    #[error("it has no symbols; it says: {PLACEHOLDER}{0}")]
    Placeholder(String),
}

impl Symbols {
    /// Reads a text of symbols: a System.map, or what `/proc/kallsyms` gave. Modules' symbols are left out.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_text(text: &str) -> Result<Self, TextFault> {
        let mut table = Table::default();
        let mut shown = false;
        for (index, line) in text.lines().enumerate() {
            if let Some((_, place)) = line.split_once(PLACEHOLDER) {
                return Err(TextFault::Placeholder(place.trim().to_owned()));
            }
            let (address, kind, name) = symbol(line).ok_or(TextFault::Line(index + 1))?;
            let Some(name) = name else {
                continue;
            };
            shown |= address != 0;
            let rank = Rank {
                in_section: true,
                typed: !kind.eq_ignore_ascii_case(&'a'),
                global: kind.is_ascii_uppercase(),
            };
            table.push(name, address, u64::MAX, rank);
        }
        if !shown && !text.is_empty() {
            return Err(TextFault::Hidden);
        }
        Ok(table.finish())
    }

    /// Reads the System.map at `path`, or a copy of `/proc/kallsyms`.
    ///
    /// # Errors
    /// When the file cannot be read, is implausibly large, or has a line of another form.
    pub fn from_system_map(path: &Path) -> Result<Self, SymbolsError> {
        let (file, bytes) = open(path)?;
        if bytes > MAX_TABLE {
            return Err(ElfFault::TooLarge(bytes).at(path));
        }
        let mut text = String::new();
        file.take(MAX_TABLE)
            .read_to_string(&mut text)
            .map_err(|source| SymbolsError::Read {
                path: path.to_path_buf(),
                source,
            })?;
        Self::from_text(&text).map_err(|fault| SymbolsError::Text {
            path: path.to_path_buf(),
            fault,
        })
    }

    /// The same symbols as if the kernel were linked for the lowest address that it may be: what KASLR
    /// added to them when `/proc/kallsyms` was read is not known, and where the kernel is now is not below
    /// that.
    #[must_use]
    pub fn lowest(mut self) -> Self {
        let Some(start) = self.address("_text").filter(|&start| start >= IMAGE) else {
            return self;
        };
        let by = (start - IMAGE) / IMAGE_ALIGN * IMAGE_ALIGN;
        for symbol in &mut self.symbols {
            // Offsets of per-CPU variables did not move.
            if symbol.address >= KERNEL_HALF {
                symbol.address = symbol.address.saturating_sub(by).max(KERNEL_HALF);
                symbol.end = symbol.end.saturating_sub(by).max(symbol.address);
            }
        }
        self.symbols.sort_by_key(|symbol| symbol.address);
        self
    }
}

/// One line: address, type, and name unless it is a module's.
fn symbol(line: &str) -> Option<(u64, char, Option<&str>)> {
    let mut words = line.split_ascii_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    let mut kind = words.next()?.chars();
    let name = words.next()?;
    let (kind, None) = (kind.next()?, kind.next()) else {
        return None;
    };
    match (words.next(), words.next()) {
        (None, _) => Some((address, kind, Some(name))),
        (Some(module), None) if module.starts_with('[') && module.ends_with(']') => {
            Some((address, kind, None))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "ffffffff9b400000 T _text\nffffffff9b400040 t exc_nmi\n\
                       ffffffff9c000000 D jiffies\n0000000000000040 A pcpu_hot\n\
                       ffffffffc0200000 t flip\t[ipirig]\n";

    #[test]
    fn what_kallsyms_gives_has_the_kernel_s_names_and_no_module_s() {
        let symbols = Symbols::from_text(MAP).unwrap();
        assert_eq!(symbols.len(), 4);
        assert_eq!(symbols.address("exc_nmi"), Some(0xffff_ffff_9b40_0040));
        assert_eq!(symbols.address("flip"), None);
    }

    #[test]
    fn where_kaslr_put_the_kernel_is_taken_off() {
        let symbols = Symbols::from_text(MAP).unwrap().lowest();
        let expected = [
            ("_text", IMAGE),
            ("exc_nmi", IMAGE + 0x40),
            ("jiffies", IMAGE + 0xc0_0000),
            ("pcpu_hot", 0x40),
        ];
        for (name, address) in expected {
            assert_eq!(symbols.address(name), Some(address), "{name}");
        }
        let nmi = symbols.resolve(IMAGE + 0x41).map(|found| found.to_string());
        assert_eq!(nmi.as_deref(), Some("exc_nmi+0x1/0xbfffc0"));
    }

    #[test]
    fn a_text_that_names_nothing_says_why() {
        let fault = |text: &str| Symbols::from_text(text).unwrap_err();
        assert_eq!(
            fault("0000000000000000 T _text\n0000000000000000 t x\n"),
            TextFault::Hidden
        );
        let placeholder =
            "ffffffffffffffff B The real System.map is in the linux-image-x-dbg package\n";
        assert_eq!(
            fault(placeholder),
            TextFault::Placeholder("the linux-image-x-dbg package".into())
        );
        for line in [
            "",
            "x T _text",
            "0 TT _text",
            "0 T a b",
            "0 T a [m] c",
            "0 T",
        ] {
            let text = format!("0000000000000040 T first\n{line}\n");
            assert_eq!(fault(&text), TextFault::Line(2), "{line}");
        }
    }
}
