//! What is wrong, and what cannot be told.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// The kinds of offences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Loads the kernel's page table, and code outside of entry text follows with the flag not set.
    FlagNotSet,
    /// Sets the flag, but does not load the kernel's page table after that.
    NoCatchUpAfterFlag,
    /// Goes on to code outside of entry text with the flag clear.
    FlagClearInKernel,
    /// Clears the flag before the user's page table is loaded.
    FlagClearedEarly,
    /// Loads the user's page table and returns with the flag set, which was found clear.
    FlagNotCleared,
    /// Clears the flag and returns, though it was found set.
    FlagNotRestored,
    /// Writes the flag, but what is not known.
    FlagUnclear,
    /// Writes the flag relative to GS while that may have the user's base.
    FlagOnUserGs,
    /// Goes on to code outside of entry text on the user's page table.
    NoKernelTable,
    /// A branch in entry text of a static key that can change at run time.
    StaticKey,
    /// A static call in entry text whose target can change at run time.
    StaticCall,
    /// An entry of a function in entry text that ftrace can patch.
    Ftrace,
    /// Entry text accesses a fixed address in vmalloc memory.
    Vmalloc,
    /// Entry text accesses a fixed address where modules are.
    ModuleMemory,
}

/// An offence.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Finding {
    /// Which kind.
    pub what: What,
    /// Link address of the instruction.
    pub address: u64,
    /// The same as `symbol+0xoffset`.
    pub place: String,
    /// The instruction, in the assembler's AT&T syntax.
    pub instruction: String,
    /// What is wrong with it, for a person.
    pub words: String,
    /// The entry points from which it is come by, if it depends on the way.
    pub entries: Vec<String>,
    /// The CPU features with which it is found, if it depends on the way: those of the first
    /// combination that was tried.
    pub features: Vec<String>,
}

/// Why something cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unknown {
    /// Memory is accessed before the catch-up through a pointer from a per-CPU variable, which may
    /// lead to vmalloc memory.
    PerCpuPointer,
    /// Which page table is loaded is not known.
    PageTable,
    /// Calls are nested too deep, or there are too many ways, to follow.
    TooMuch,
    /// No known entry point leads to a write to CR3.
    Unreached,
    /// No function `paranoid_entry` is called: entries that interrupt the entry code were not followed.
    NoParanoidEntry,
}

/// Something that cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Open {
    /// Why.
    pub why: Unknown,
    /// Link address of the instruction.
    pub address: u64,
    /// The same as `symbol+0xoffset`.
    pub place: String,
    /// The instruction, in the assembler's AT&T syntax.
    pub instruction: String,
    /// The entry points from which it is come by.
    pub entries: Vec<String>,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PerCpuPointer => {
                "memory is accessed before the catch-up through a pointer from a per-CPU variable"
            }
            Self::PageTable => "which page table is loaded depends on what is not known",
            Self::TooMuch => "there are too many ways from here to follow",
            Self::Unreached => "no known entry point leads to this write to CR3",
            Self::NoParanoidEntry => {
                "no entry calls `paranoid_entry`: interrupting the entry code was not followed"
            }
        })
    }
}
