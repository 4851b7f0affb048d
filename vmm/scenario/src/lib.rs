//! Scenarios: what to provoke, on which vCPUs, and what must hold; and the plan of a run.
//!
//! The way through: TOML ([`Scenario::find`]), validated with errors that point at their place
//! ([`Diagnostic`]) → [`plan`] (roles, times, what the user asked for besides) → [`cmdline`] (what the
//! kernel is told).
//!
//! What this crate does not do: start anything (`ipirig-rig` does, by a plan), or say how a run went
//! (`ipirig-checks`). The storms themselves are the guest's (`ipirig-storms`), the table of them is in
//! `ipirig-abi`.

#![forbid(unsafe_code)]

mod builtin;
pub mod cmdline;
pub mod cpu_list;
mod diagnostic;
mod entry;
mod find;
pub mod guest_files;
mod keys;
mod parameters;
pub mod plan;
mod raw;
mod role;
mod scenario;
pub mod schema;
mod selection;
mod storm;
pub mod suggest;
#[cfg(test)]
mod tests;
mod validate;

pub use diagnostic::Diagnostic;
pub use entry::{EntryKind, LOCAL_TIMER, RESCHEDULE, Trigger};
pub use find::ScenarioError;
pub use role::role_name;
pub use scenario::{Expectations, IsolatedIpis, Mode, Partition, Scenario, Vcpus};
pub use selection::{ALL, SelectionError, base_name, select};
pub use storm::{Kind, Part, Storm};
pub use validate::is_name;
