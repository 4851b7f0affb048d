//! How results look: each module takes results and gives text.
//!
//! For a terminal, in colour or not ([`paint`]): [`render`] for a run, [`suite`] for several,
//! [`attribution`] for who sent IPIs and why, [`cross_check`], [`observation`], [`gate`], [`mutants`],
//! [`doctor`] for a host, and [`audit`] for the audit of a vmlinux. For other programs, one file a
//! format: [`ktap`] for kernel CI, [`junit`] for what shows test reports, [`github`] for annotations and
//! the summary of a GitHub workflow.
//!
//! What this crate does not do: judge (`ipirig-checks` does), write JSON
//! (`ipirig-document`), draw what happened when (`ipirig-pictures`), decide when a report is written, or open files (`ipirig` does).

#![forbid(unsafe_code)]

pub mod attribution;
pub mod audit;
pub mod cross_check;
pub mod doctor;
pub mod gate;
pub mod github;
pub mod junit;
pub mod ktap;
pub mod mutants;
pub mod observation;
pub mod paint;
pub mod render;
pub mod suite;
pub mod sweep;
#[cfg(test)]
mod testing;
