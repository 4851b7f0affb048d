//! Who interrupted whom, and why, as results have it.
//!
//! One [`Blame`] is all IPIs of the window that are alike: of one kind, sent by one vCPU, from one
//! call chain. It is what a person needs to go and change a kernel.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

/// IPIs of the window with one origin.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Blame {
    /// The named cause, such as `static key` or `vunmap`; `unknown` if no rule knows the chain.
    pub cause: String,
    /// Whether a CPU in user space could do without this IPI.
    pub deferrable: Deferrable,
    /// The vector or delivery mode, by its name.
    pub kind: String,
    /// The vCPU that sent.
    pub source: usize,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize)]
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

/// What the targets were doing when they took the IPIs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Taken {
    /// Running user space.
    pub user: u64,
    /// In the kernel, at work.
    pub kernel: u64,
    /// Halted.
    pub idle: u64,
}

/// One call of a chain.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Frame {
    /// Where in the kernel, as the guest runs it.
    pub address: u64,
    /// The function that the symbol table names for it.
    pub function: Option<String>,
    /// Bytes from the function's begin.
    pub offset: u64,
    /// Functions that the compiler inlined there, innermost first, where debug information tells.
    pub inlined: Vec<String>,
}
