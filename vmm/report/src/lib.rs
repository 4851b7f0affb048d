//! A result in other people's formats: one file a format.
//!
//! [`ktap`] for kernel CI, [`junit`] for what shows test reports, [`github`] for annotations and the
//! summary of a GitHub workflow, [`html`] for people, [`trace`] for trace viewers; [`audit`] for the
//! audit of a vmlinux. Each takes results and gives text.
//!
//! What this crate does not do: judge (`ipirig-rig` does, and has the result as its own JSON and as
//! text for a terminal), decide when a report is written, or open files (`ipirig` does).

#![forbid(unsafe_code)]

pub mod audit;
mod cause;
pub mod github;
pub mod html;
pub mod junit;
pub mod ktap;
#[cfg(test)]
mod specimen;
#[cfg(test)]
mod testing;
pub mod trace;
