//! What the evidence of a run means.
//!
//! The way through: evidence → [`checks`] (named, each with what it rests on; the comparison of
//! `ipirig-crosscheck` is one) → the verdict on a run → [`result`] → several runs (`ipirig-document`) → [`exit`]
//! (the code). [`conclude()`] goes that way for a scenario's run, `ipirig-observation` for one of a user's
//! command.
//!
//! What this crate does not do: run a guest (`ipirig-rig` does), write a result (`ipirig-document`),
//! compare it with those of before (`ipirig-gate`), or show it (`ipirig-report`).

#![forbid(unsafe_code)]

pub mod check;
pub mod checks;
pub mod conclude;
pub mod entry;
pub mod exit;
pub mod overall;
pub mod result;

pub use conclude::{conclude, not_run};
