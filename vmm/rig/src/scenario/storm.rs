//! Storms: bursts of one kind of operation, run on the control vCPU.

use std::fmt;

use ipirig_abi::Command;

/// A burst of operations, each of which makes a stock kernel interrupt every CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storm {
    /// Flips of the module's private static key.
    StaticKeyFlip {
        /// How many; odd.
        flips: u64,
    },
    /// Rounds of vmalloc, touch, vfree and purge.
    Vunmap {
        /// How many.
        rounds: u64,
        /// Pages of each area.
        pages: u64,
    },
    /// Both, one after the other.
    TextAndTlb {
        /// As [`Storm::StaticKeyFlip`].
        flips: u64,
        /// As [`Storm::Vunmap`].
        rounds: u64,
        /// As [`Storm::Vunmap`].
        pages: u64,
    },
}

/// Which of the kernel's deferral counters a storm must move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deferred {
    /// Syncs after text patching.
    Text,
    /// Flushes of kernel translations.
    Tlb,
}

/// What an isolated vCPU's first entry must show, and where to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// It takes the branch that the last flip chose.
    Branch,
    /// It reads the page that the alias was moved to.
    Alias,
}

/// One command of a storm, and what must come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The command.
    pub command: Command,
    /// Its arguments.
    pub args: [u64; 4],
    /// Operations asked for; the guest must report as many done.
    pub operations: u64,
    /// The counter that must have moved on each isolated vCPU.
    pub deferred: Deferred,
    /// What the first entry must show.
    pub completion: Completion,
}

impl Storm {
    /// What it consists of, in order.
    #[must_use]
    pub fn parts(self) -> Vec<Part> {
        let flip = |flips| Part {
            command: Command::Flip,
            args: [flips, 0, 0, 0],
            operations: flips,
            deferred: Deferred::Text,
            completion: Completion::Branch,
        };
        let vunmap = |rounds, pages| Part {
            command: Command::Vunmap,
            args: [rounds, pages, 0, 0],
            operations: rounds,
            deferred: Deferred::Tlb,
            completion: Completion::Alias,
        };
        match self {
            Self::StaticKeyFlip { flips } => vec![flip(flips)],
            Self::Vunmap { rounds, pages } => vec![vunmap(rounds, pages)],
            Self::TextAndTlb {
                flips,
                rounds,
                pages,
            } => vec![flip(flips), vunmap(rounds, pages)],
        }
    }

    /// Operations asked for, of all parts together.
    #[must_use]
    pub fn operations(self) -> u64 {
        self.parts().iter().map(|part| part.operations).sum()
    }

    /// Whether it needs `ipirig.ko` in the guest.
    #[must_use]
    pub fn needs_module(self) -> bool {
        match self {
            Self::StaticKeyFlip { .. } | Self::Vunmap { .. } | Self::TextAndTlb { .. } => true,
        }
    }
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::StaticKeyFlip { flips } => write!(f, "{flips} static key flips"),
            Self::Vunmap { rounds, pages } => {
                write!(
                    f,
                    "{rounds} rounds of vmalloc and vfree, {pages} pages each"
                )
            }
            Self::TextAndTlb {
                flips,
                rounds,
                pages,
            } => {
                let (flip, vunmap) = (
                    Self::StaticKeyFlip { flips },
                    Self::Vunmap { rounds, pages },
                );
                write!(f, "{flip} and {vunmap}")
            }
        }
    }
}
