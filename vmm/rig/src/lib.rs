//! The rig: takes a scenario, conducts a guest through it, keeps the ledger of IPIs, and judges.
//!
//! The way through: [`scenario`] (TOML, validated) → [`plan`] (roles, times) and [`cmdline`] →
//! [`run`] (starts the machine) → [`conductor`] (the phases; writes on [`ledger`]) → evidence →
//! [`verdict`] (named checks) → [`result`] (JSON) and [`render`] (terminal) → [`exit`] (the code).
//!
//! What this crate does not do: issue KVM ioctls or know how a guest is loaded (`ipirig-machine`),
//! model the APIC (`ipirig-apic`), build a kernel (`ipirig-guest`), or read the command line
//! (`ipirig`). The guest's side of the conversation is `ipirig-agent`.

#![forbid(unsafe_code)]

pub mod attribution;
pub mod blame;
pub mod cmdline;
pub mod conductor;
mod cpu_list;
pub mod doctor;
pub mod exit;
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
pub mod stacks;
pub mod suggest;
pub mod suite;
pub mod vectors;
pub mod verdict;
