//! The places in kernel text that the kernel patches while it runs.

mod read;

use std::fmt;
use std::ops::Range;

use thiserror::Error;

use crate::image::{Image, ImageError};

/// Longest site, in bytes: the length of an alternative is one byte.
const LONGEST: u64 = u8::MAX as u64;

/// Why the table of a kind of sites cannot be had.
#[derive(Debug, Error)]
pub enum SitesError {
    /// Its entries make no sense. The kernel may be newer than what is known of its layout.
    #[error("the table of {table} cannot be understood: {what}")]
    Damaged {
        /// The table.
        table: Table,
        /// What is wrong.
        what: &'static str,
    },
    /// The file cannot be read there.
    #[error("cannot read the table of {table}")]
    Read {
        /// The table.
        table: Table,
        /// Why.
        #[source]
        source: ImageError,
    },
}

/// A table of patched places in a vmlinux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Static keys, `__start___jump_table` (include/linux/jump_label.h).
    StaticKeys,
    /// Static calls, `__start_static_call_sites` (include/linux/static_call_types.h).
    StaticCalls,
    /// Function entries for ftrace, `__start_mcount_loc` (kernel/trace/ftrace.c).
    Ftrace,
    /// Alternatives, `__alt_instructions` (arch/x86/include/asm/alternative.h).
    Alternatives,
}

impl Table {
    /// All, in the order of their declaration.
    pub const ALL: [Self; 4] = [
        Self::StaticKeys,
        Self::StaticCalls,
        Self::Ftrace,
        Self::Alternatives,
    ];
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StaticKeys => "static keys",
            Self::StaticCalls => "static calls",
            Self::Ftrace => "ftrace's function entries",
            Self::Alternatives => "alternatives",
        })
    }
}

/// What makes the kernel patch a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SiteKind {
    /// A branch of a static key, patched when the key changes.
    StaticKey {
        /// Link address of the key.
        key: u64,
    },
    /// A call through a static call, patched when its target changes.
    StaticCall {
        /// Link address of the static call's key, or of its trampoline in a module.
        key: u64,
    },
    /// The entry of a function that ftrace can trace.
    Ftrace,
    /// Instructions with an alternative, patched once while the kernel boots.
    Alternative,
}

impl SiteKind {
    /// The table that has it.
    #[must_use]
    pub fn table(self) -> Table {
        match self {
            Self::StaticKey { .. } => Table::StaticKeys,
            Self::StaticCall { .. } => Table::StaticCalls,
            Self::Ftrace => Table::Ftrace,
            Self::Alternative => Table::Alternatives,
        }
    }
}

/// Code that the kernel may patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// Link address.
    pub address: u64,
    /// Bytes.
    pub len: u8,
    /// Why it is patched.
    pub kind: SiteKind,
}

impl Site {
    fn end(&self) -> u64 {
        self.address.saturating_add(self.len.into())
    }
}

/// A branch of a static key, with where it goes when it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Branch {
    /// Link address of the branch: a JMP or a NOP.
    pub address: u64,
    /// Link address of where the JMP goes.
    pub target: u64,
    /// Link address of the key.
    pub key: u64,
}

impl Branch {
    /// The branches of `image`, in the order of its table. None: the kernel is built without static
    /// keys, or stripped.
    ///
    /// # Errors
    /// When the table is there but cannot be read or understood.
    pub fn read_all(image: &Image) -> Result<Vec<Self>, SitesError> {
        Ok(read::branches(image)?.unwrap_or_default())
    }
}

/// Instructions with an alternative: `struct alt_instr` (arch/x86/include/asm/alternative.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alternative {
    /// Link address of what is replaced.
    pub address: u64,
    /// Its bytes.
    pub len: u8,
    /// Link address of what replaces it; the rest is filled with NOPs. Offsets in it are relative to
    /// where it is linked.
    pub replacement: u64,
    /// Its bytes, at most `len`.
    pub replacement_len: u8,
    /// The CPU feature that decides, `X86_FEATURE_*` (arch/x86/include/asm/cpufeatures.h).
    pub feature: u16,
    /// Whether it is applied where the feature is missing, not where it is there.
    pub inverted: bool,
}

impl Alternative {
    /// The alternatives of `image`, in the order in which the kernel applies them: of several at one
    /// place the last counts. None: the kernel is stripped.
    ///
    /// # Errors
    /// When the table is there but cannot be read or understood.
    pub fn read_all(image: &Image) -> Result<Vec<Self>, SitesError> {
        Ok(read::alternatives(image)?.unwrap_or_default())
    }

    fn site(&self) -> Site {
        Site {
            address: self.address,
            len: self.len,
            kind: SiteKind::Alternative,
        }
    }
}

/// The places in kernel text that the kernel patches while it runs. Modules have their own, which
/// are not here; nor are kprobes, which can be nearly anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sites {
    /// Sorted.
    sites: Vec<Site>,
    /// How many of each table; none where the kernel has no such table.
    counts: [Option<usize>; 4],
}

impl Sites {
    /// Reads the tables of `image`. A table whose symbols are missing is absent: the kernel is built
    /// without it, or stripped.
    ///
    /// # Errors
    /// When a table is there but cannot be read or understood.
    pub fn read(image: &Image) -> Result<Self, SitesError> {
        let mut all = Self::default();
        for (table, count) in Table::ALL.into_iter().zip(&mut all.counts) {
            if let Some(sites) = read::table(image, table)? {
                *count = Some(sites.len());
                all.sites.extend(sites);
            }
        }
        all.sites.sort_unstable();
        Ok(all)
    }

    /// Number of sites in `table`, or none if the kernel has no such table.
    #[must_use]
    pub fn count(&self, table: Table) -> Option<usize> {
        self.counts.get(table as usize).copied().flatten()
    }

    /// The sites that overlap `range`, link addresses, by address.
    pub fn at(&self, range: Range<u64>) -> impl Iterator<Item = &Site> {
        let first = self
            .sites
            .partition_point(|site| site.address.saturating_add(LONGEST) < range.start);
        self.sites
            .get(first..)
            .unwrap_or_default()
            .iter()
            .take_while(move |site| site.address < range.end)
            .filter(move |site| range.start.max(site.address) < range.end.min(site.end()))
    }
}

/// Sites known in another way than from a vmlinux's tables.
impl FromIterator<Site> for Sites {
    fn from_iter<I: IntoIterator<Item = Site>>(sites: I) -> Self {
        let mut all = Self::default();
        all.sites.extend(sites);
        all.sites.sort_unstable();
        for site in &all.sites {
            if let Some(count) = all.counts.get_mut(site.kind.table() as usize) {
                *count = Some(count.unwrap_or(0) + 1);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests;
