//! What is seen in a run: data, and no judgement.
//!
//! [`ledger`] is the record of every IPI, kept while the guest runs; [`stacks`] has from where each was
//! sent, and [`blame`] is what came of both; [`origins`] is the same without stacks. [`Evidence`] is all
//! that the conductor saw, with the entries of isolated vCPUs, what the kernel says of itself
//! ([`guest_text`], [`Tracing`]) and what it changed. [`timeline`] has what happened when.
//!
//! What this crate does not do: run a guest (`ipirig-rig` does, and fills this in), or say what any of it
//! means (`ipirig-verdict`).

#![forbid(unsafe_code)]

pub mod blame;
pub mod deliveries;
mod details;
mod error;
mod evidence;
pub mod gaps;
pub mod guest_text;
pub mod ledger;
pub mod origins;
mod phase;
mod setup;
pub mod stacks;
pub mod timeline;
mod tracing;
pub mod vectors;

pub use error::chain;
pub use evidence::{
    EntryReport, Evidence, Handled, KernelView, Mark, NOT_PRODUCED, NoRecord, Sequence,
    StormReport, USER, WindowRecord,
};
pub use phase::Phase;
pub use setup::{Isolation, KernelSetup, SwitchedOff};
pub use tracing::{Edge, Recorded, Tracing};
