//! A kernel's entry code judged from its vmlinux, without running it: what objtool could warn of
//! when the kernel is built, told of any image.
//!
//! [`audit()`] looks at three things.
//!
//! - The switches of page tables in `.entry.text`, and the flag by which senders of IPIs decide. All
//!   ways from each entry point are followed, from user mode and from kernel mode, with the text as it is
//!   patched on a CPU with page table isolation (alternatives in place), with and without PCID, and
//!   with each other feature that changes entry text. The flag must be set before the kernel's page
//!   table is loaded and cleared only after the user's is; what interrupts the entry code itself must
//!   leave the flag as it was found.
//! - Places in `.entry.text` and `.noinstr.text` that can be patched at run time: static keys, static
//!   calls, functions that ftrace traces. One in entry text is an offence; one in noinstr text needs
//!   its IPI.
//! - Memory that is accessed there at fixed addresses: none may be vmalloc memory or a module's.
//!
//! What this crate does not do: print, know a machine, or judge what runs outside of these two parts.
//! It cannot know where pointers lead, or whether loading a page table flushes translations: that
//! depends on a per-CPU variable, and only a run tells (`ipirig-entry`). What it cannot tell it says.

#![forbid(unsafe_code)]

use std::path::Path;

use ipirig_image::Image;
use schemars::JsonSchema;
use serde::Serialize;

mod execute;
mod finding;
mod judge;
mod kernel;
mod operands;
mod sites;
mod state;
mod text;
mod value;
mod walk;

pub use finding::{Finding, Open, Unknown, What};
pub use kernel::AuditError;
pub use operands::MemoryUse;
pub use sites::{Part, PatchSite, Patcher, When};

/// The version of what [`Audit`] is written as; a field that is removed or changes its meaning makes it
/// grow.
pub const SCHEMA_VERSION: u32 = 1;

/// What follows from a vmlinux. The same file gives the same, whatever its name.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Audit {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What the kernel prints first when it boots, with its release and compiler.
    pub banner: Option<String>,
    /// The symbol that holds the flag by which senders decide. Without one nothing is deferred, and
    /// switches of page tables are listed but not judged.
    pub flag: Option<String>,
    /// The combinations of CPU features for which entry text was followed, each with PTI.
    pub combinations: Vec<Vec<String>>,
    /// The entry points that were followed.
    pub entries: Vec<String>,
    /// The writes to CR3 in entry text.
    pub switches: Vec<Switch>,
    /// The places in entry and noinstr text that can be patched after the kernel is built, but for
    /// alternatives.
    pub sites: Vec<PatchSite>,
    /// Alternatives in entry text: patched once, while the kernel boots.
    pub alternatives: usize,
    /// Memory that is accessed.
    pub memory: Vec<MemoryUse>,
    /// What is wrong.
    pub offences: Vec<Finding>,
    /// What cannot be told.
    pub open: Vec<Open>,
}

/// Which page table a write to CR3 loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PageTable {
    /// The kernel's.
    Kernel,
    /// The user's.
    User,
    /// One or the other: that which was found.
    Either,
    /// No entry point leads there.
    Unknown,
}

/// A write to CR3 in entry text.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Switch {
    /// Link address.
    pub address: u64,
    /// The same as `symbol+0xoffset`.
    pub place: String,
    /// The instruction, in the assembler's AT&T syntax.
    pub instruction: String,
    /// What it loads.
    pub loads: PageTable,
    /// The store to the flag that goes with it: the one before it that sets the flag, or the one
    /// after it that clears it.
    pub store: Option<String>,
}

/// Reads the vmlinux at `path` and judges it.
///
/// # Errors
/// When the file cannot be read, is damaged, or lacks what is needed ([`AuditError::is_lack`]).
pub fn audit(path: &Path) -> Result<Audit, AuditError> {
    let kernel = kernel::Kernel::new(Image::open(path)?)?;
    Ok(judge::judge(&kernel))
}

#[cfg(test)]
mod tests;
