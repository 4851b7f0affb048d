//! What a CPU executed between user space and the kernel's ordinary code, and what follows from it.
//!
//! [`record`] is what a machine writes down: one [`Step`] an instruction.
//!
//! What this crate does not do: step a CPU (`ipirig-machine` does), decide what a scenario expects
//! or what a finding means for a run (`ipirig-rig`), know KVM, threads, clocks or files.

#![forbid(unsafe_code)]

pub mod record;

pub use record::{Began, Code, Ended, Record, Registers, Step};
