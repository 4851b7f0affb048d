//! How a run is done: takes a guest through a scenario, and gathers the evidence.
//!
//! The way through: a plan (`ipirig-scenario`) → [`run`] (starts the machine, from one of the
//! snapshots of `ipirig-snapshots` if it can) → [`conductor`] (the phases; the ledger of `ipirig-evidence` records all the
//! while) → evidence. [`observe`] goes the same way with a command of the user's.
//!
//! What this crate does not do: issue KVM ioctls or know how a guest is loaded (`ipirig-machine`),
//! model the APIC (`ipirig-apic`), judge (`ipirig-checks`), print, build a kernel (`ipirig-guest`), or
//! read the command line (`ipirig`). The guest's side of the conversation is `ipirig-agent`.

#![forbid(unsafe_code)]

pub mod conductor;
pub mod observe;
pub mod run;
pub mod sweep;
