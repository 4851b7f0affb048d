//! A run as a picture: what happened when, on which vCPU. An observation as one: who interrupted whom, and why. And a
//! sweep: what is so at which instruction.
//!
//! [`html`] makes a web page, [`trace`] a file for trace viewers. Both take whole results with their timeline,
//! of which documents (`ipirig-document`) have nothing. [`sweep`] makes a web page of a sweep.
//!
//! What this crate does not do: make tables and lines, for terminals or for other programs (`ipirig-report`
//! does), judge (`ipirig-checks`), or open files (`ipirig`).

#![forbid(unsafe_code)]

mod cause;
pub mod html;
#[cfg(test)]
mod specimen;
pub mod sweep;
pub mod trace;
