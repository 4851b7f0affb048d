//! The rig: takes a scenario, conducts a guest through it, keeps the ledger of IPIs, and judges.
//!
//! The way through: [`scenario`] (TOML, validated) → [`plan`] (roles, times) and [`cmdline`] →
//! [`run`] (starts the machine, from one of the [`snapshots`] if it can) → [`conductor`] (the phases; writes on [`ledger`]) → evidence →
//! [`verdict`] (named checks) → [`result`] (JSON, [`schema`]) and [`render`] (terminal) → [`exit`]
//! (the code). [`gate`] compares results with those of before. Beside the result, [`timeline`] has what
//! happened when.
//!
//! What this crate does not do: issue KVM ioctls or know how a guest is loaded (`ipirig-machine`),
//! model the APIC (`ipirig-apic`), draw results or put them in other people's formats
//! (`ipirig-report`), build a kernel (`ipirig-guest`), or read the command line
//! (`ipirig`). The guest's side of the conversation is `ipirig-agent`.

#![forbid(unsafe_code)]

pub mod attribution;
pub mod blame;
pub mod cmdline;
pub mod conductor;
mod cpu_list;
pub mod cross_check;
pub mod doctor;
pub mod exit;
pub mod gate;
pub mod guest_text;
pub mod ledger;
pub mod mutants;
pub mod observe;
pub mod paint;
pub mod plan;
pub mod render;
pub mod result;
pub mod run;
pub mod scenario;
pub mod schema;
pub mod snapshots;
pub mod stacks;
pub mod suggest;
pub mod suite;
pub mod sweep;
pub mod timeline;
pub mod vectors;
pub mod verdict;
