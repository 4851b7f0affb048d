//! What the guest's agent asks of the kernel that std does not offer, one function each; errors by their names
//! ([`Errno`]), with the step that they stopped ([`Failure`]).
//!
//! This crate does not know what the calls are for: the agent (`ipirig-agent`) and its storms (`ipirig-storms`) do.

mod errno;
mod failure;
pub mod process;
pub mod setting;
pub mod sys;

pub use errno::Errno;
pub use failure::{During, Failure};
