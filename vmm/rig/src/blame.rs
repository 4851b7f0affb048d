//! Who interrupted whom, and why, as results have it.
//!
//! One [`Blame`] is all IPIs of the window that are alike: of one kind, sent by one vCPU, from one
//! call chain. It is what a person needs to go and change a kernel.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// IPIs of the window with one origin.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Blame {
    /// The named cause, such as `static key` or `vunmap`; `unknown` if no rule knows the chain.
    pub cause: String,
    /// Whether a CPU in user space could do without this IPI.
    pub deferrable: Deferrable,
    /// The vector or delivery mode, by its name.
    pub kind: String,
    /// The vCPU that sent.
    pub source: usize,
    /// The chain's number, as in [`crate::ledger::Write::chain`]; not in what is written.
    #[serde(skip)]
    pub number: Option<u32>,
    /// How many were sent to each vCPU.
    pub targets: BTreeMap<usize, u64>,
    /// What the targets were doing when they took it.
    pub taken: Taken,
    /// The sender's calls, innermost first.
    pub chain: Vec<Frame>,
    /// Why the chain ends where it does, if that is not its natural end.
    pub broken: Option<String>,
}

/// Whether the kernel could hold an IPI back from a CPU that is in user space.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Deferrable {
    /// Yes: what it asks for can be done at the next kernel entry.
    Yes,
    /// No: it must arrive.
    No,
    /// A CPU in user space need not do anything at all, then or later.
    Omit,
    /// The cause is not known.
    Unknown,
}

impl fmt::Display for Deferrable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Yes => "deferrable",
            Self::No => "not deferrable",
            Self::Omit => "could be omitted",
            Self::Unknown => "deferrable or not, unknown",
        })
    }
}

impl From<ipirig_blame::Deferrable> for Deferrable {
    fn from(deferrable: ipirig_blame::Deferrable) -> Self {
        match deferrable {
            ipirig_blame::Deferrable::Yes => Self::Yes,
            ipirig_blame::Deferrable::No => Self::No,
            ipirig_blame::Deferrable::Omit => Self::Omit,
            ipirig_blame::Deferrable::Unknown => Self::Unknown,
        }
    }
}

/// What the targets were doing when they took the IPIs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Taken {
    /// Running user space.
    pub user: u64,
    /// In the kernel, at work.
    pub kernel: u64,
    /// Halted.
    pub idle: u64,
}

/// One call of a chain.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Frame {
    /// Where in the kernel, as the guest runs it.
    pub address: u64,
    /// The function that the symbol table names for it; `name [module]` for a module's.
    pub function: Option<String>,
    /// Bytes from the function's begin.
    pub offset: u64,
    /// Functions that the compiler inlined there, innermost first, where debug information tells.
    pub inlined: Vec<String>,
}

impl Frame {
    /// The function's name without the module that it is in.
    #[must_use]
    pub fn symbol(&self) -> Option<&str> {
        let name = self.function.as_deref()?;
        Some(name.split_once(" [").map_or(name, |(symbol, _)| symbol))
    }
}
