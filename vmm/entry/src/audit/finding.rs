//! Something that a kernel entry should not do.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// Something that an instruction should not do where it is.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Finding {
    /// The instruction's number, from 1; the last one's if something never happened.
    pub step: usize,
    /// The address that it is about: of memory that is accessed, else of the instruction.
    pub address: u64,
    /// Which kind.
    pub what: What,
    /// The same for a person, without the instruction's number.
    pub words: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instruction {} {}", self.step, self.words)
    }
}

/// The kinds of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Danger: executes text that was patched in the window.
    PatchedText,
    /// Danger: executes a branch of a static key, which may be patched at any time.
    StaticKey,
    /// Danger: executes a static call's site.
    StaticCall,
    /// Danger: executes ftrace's function entry.
    Ftrace,
    /// Danger: executes an alternative while they may be applied.
    Alternative,
    /// Danger: executes text of a module or a BPF program.
    ModuleText,
    /// Danger: touches memory that was unmapped in the window.
    Unmapped,
    /// Danger: touches vmalloc memory other than the task's stack.
    Vmalloc,
    /// Danger: leaves entry and noinstr text before catching up.
    NoCatchUp,
    /// Danger: its bytes are no known instruction, so nothing is known of what it touches.
    Undecodable,
    /// Order: the flag is not set on the way in.
    FlagNotSet,
    /// Order: nothing catches up after the flag is set and before instrumentable code.
    NoCatchUpAfterFlag,
    /// Order: writes the flag, but what is not known.
    FlagUnclear,
    /// Order: the flag is clear while instrumentable code runs.
    FlagClearInKernel,
    /// Order: the flag is cleared before the user page table is loaded.
    FlagClearedEarly,
    /// Order: the flag is still set when the CPU returns to user space.
    FlagNotCleared,
    /// Touches memory under a PCID that has stale translations.
    StalePcid,
}
