//! What came of a run: its result, and how the program exits.
//!
//! The way through: evidence → named checks, and the verdict on them (`ipirig-checks`) → [`result`] → several runs
//! (`ipirig-document`) → [`exit`] (the code). [`conclude()`] goes that way for a scenario's run, `ipirig-observation` for
//! one of a user's command.
//!
//! What this crate does not do: run a guest (`ipirig-rig` does), write a result (`ipirig-document`),
//! compare it with those of before (`ipirig-gate`), or show it (`ipirig-report`).

#![forbid(unsafe_code)]

pub mod conclude;
pub mod exit;
pub mod result;

pub use conclude::{conclude, not_run};
