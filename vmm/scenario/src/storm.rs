//! Storms: bursts of one kind of operation, run on the control vCPU. The table of kinds is `guest/abi`'s.

use std::fmt;
use std::ops::RangeInclusive;
use std::slice;

use ipirig_abi::{Changes, Completion, Needs, StormKind, StormProperties};

/// A burst of operations, each of which makes a stock kernel interrupt every CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storm {
    /// Which.
    pub kind: Kind,
    /// How many operations.
    pub operations: u64,
    /// Of which size, where the kind has one; else 0.
    pub size: u64,
}

/// What a scenario file names as a kind of storm: a row of the table, or several, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name in scenario files.
    pub name: &'static str,
    /// The rows that it consists of, in order.
    parts: &'static [StormKind],
}

/// Rows that have a name together, which stands after the last of them in lists.
const TOGETHER: &[Kind] = &[Kind {
    name: "text-and-tlb",
    parts: &[StormKind::StaticKeyFlip, StormKind::Vunmap],
}];

/// One part of a storm, and what must come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its row of the table.
    pub kind: StormKind,
    /// Operations asked for; the guest must report as many done.
    pub operations: u64,
    /// Of which size; 0 where the row has none.
    pub size: u64,
    /// What it changes.
    pub changes: Changes,
    /// How often each operation calls the functions that make such changes, at least. 0: that varies.
    pub calls_each: u64,
    /// What the first entry must show, if anything.
    pub completion: Option<Completion>,
}

impl Kind {
    /// Every kind.
    pub fn all() -> impl Iterator<Item = Self> {
        StormKind::ALL.iter().flat_map(|row| {
            let alone = Self {
                name: row.properties().name,
                parts: slice::from_ref(row),
            };
            let together = TOGETHER.iter().copied();
            let ends_here = move |kind: &Self| kind.parts.last() == Some(row);
            std::iter::once(alone).chain(together.filter(ends_here))
        })
    }

    /// The kind of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::all().find(|kind| kind.name == name)
    }

    /// The sizes that it takes; `None`: it has none.
    #[must_use]
    pub fn sizes(self) -> Option<RangeInclusive<u64>> {
        self.rows().find_map(|row| row.sizes.clone())
    }

    /// Whether the number of operations must be odd, or what they change ends as it began.
    #[must_use]
    pub fn odd(self) -> bool {
        self.rows().any(|row| row.odd)
    }

    fn rows(self) -> impl Iterator<Item = &'static StormProperties> {
        self.parts.iter().map(|kind| kind.properties())
    }
}

impl Storm {
    /// What it consists of, in order.
    #[must_use]
    pub fn parts(self) -> Vec<Part> {
        let part = |&kind: &StormKind| {
            let row = kind.properties();
            Part {
                kind,
                operations: self.operations,
                size: row.sizes.as_ref().map_or(0, |_| self.size),
                changes: row.changes,
                calls_each: row.calls_each,
                completion: row.completion,
            }
        };
        self.kind.parts.iter().map(part).collect()
    }

    /// Operations asked for, of all parts together.
    #[must_use]
    pub fn operations(self) -> u64 {
        self.operations * self.kind.parts.len() as u64
    }

    /// Whether it needs `ipirig.ko` in the guest.
    #[must_use]
    pub fn needs_module(self) -> bool {
        self.kind.rows().any(|row| row.needs != Needs::Kernel)
    }
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (operations, size) = (self.operations.to_string(), self.size.to_string());
        for (number, row) in self.kind.rows().enumerate() {
            let and = if number == 0 { "" } else { " and " };
            let words = row.words.replace("{n}", &operations);
            write!(f, "{and}{}", words.replace("{size}", &size))?;
        }
        Ok(())
    }
}
