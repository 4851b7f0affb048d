//! What a CPU executed between user space and the kernel's ordinary code, and what follows from it.
//!
//! [`record`] is what a machine writes down: one step an instruction. [`layout`] is where things are in the kernel that
//! ran. [`passage`] is what follows an event that came at a chosen instruction. [`audit()`] decodes each step
//! (`ipirig-instruction`), follows what is pending on the CPU ([`shadow`]) and says which instruction caught up, what was
//! done before it that must not be, and whether the flag that senders read was set and cleared in the right order.
//! [`listing`] shows the same to a person.
//!
//! What this crate does not do: step a CPU (`ipirig-machine` does), decide what a scenario expects
//! or what a finding means for a run (`ipirig-checks`), know KVM, threads, clocks or files.
//!
//! "SDM" is Intel's Software Developer's Manual with the numbers of its 2023 editions, "APM" AMD's
//! Architecture Programmer's Manual.

#![forbid(unsafe_code)]

pub mod audit;
pub mod layout;
pub mod listing;
pub mod paging;
pub mod passage;
pub mod pending;
pub mod record;
pub mod shadow;
mod whole;

pub use audit::{Audit, Finding, Flag, PendingInput, Switch, What, audit};
pub use layout::{KernelLayout, LayoutError, slide};
pub use listing::{Extent, Listing};
pub use paging::Paging;
pub use pending::Pending;
pub use record::{Began, Ended, Record};
pub use whole::NotWhole;

#[cfg(test)]
mod testing;
