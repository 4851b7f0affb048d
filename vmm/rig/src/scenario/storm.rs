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

impl Storm {
    /// The command that starts it, with its arguments.
    #[must_use]
    pub fn command(self) -> (Command, [u64; 4]) {
        match self {
            Self::StaticKeyFlip { flips } => (Command::Flip, [flips, 0, 0, 0]),
            Self::Vunmap { rounds, pages } => (Command::Vunmap, [rounds, pages, 0, 0]),
        }
    }

    /// Operations asked for; the guest must report as many done.
    #[must_use]
    pub fn operations(self) -> u64 {
        match self {
            Self::StaticKeyFlip { flips } => flips,
            Self::Vunmap { rounds, .. } => rounds,
        }
    }

    /// Whether it needs `ipirig.ko` in the guest.
    #[must_use]
    pub fn needs_module(self) -> bool {
        match self {
            Self::StaticKeyFlip { .. } | Self::Vunmap { .. } => true,
        }
    }

    /// The counter that must have moved on each isolated vCPU.
    #[must_use]
    pub fn deferred(self) -> Deferred {
        match self {
            Self::StaticKeyFlip { .. } => Deferred::Text,
            Self::Vunmap { .. } => Deferred::Tlb,
        }
    }

    /// What the first entry must show.
    #[must_use]
    pub fn completion(self) -> Completion {
        match self {
            Self::StaticKeyFlip { .. } => Completion::Branch,
            Self::Vunmap { .. } => Completion::Alias,
        }
    }
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StaticKeyFlip { flips } => write!(f, "{flips} static key flips"),
            Self::Vunmap { rounds, pages } => {
                write!(
                    f,
                    "{rounds} rounds of vmalloc and vfree, {pages} pages each"
                )
            }
        }
    }
}
