//! What an instruction was, from its bytes and the registers that a CPU had before it.
//!
//! [`Step`] is what a machine writes down of each. [`decode`] says which memory it accessed and what it
//! did to what its CPU caches, [`flow`] what it left for the next one, [`disassemble()`] what it is called,
//! [`first_nop`] where text patching may touch code without a change.
//!
//! What this crate does not do: step a CPU (`ipirig-machine` does), or know where in a kernel an instruction is
//! and what follows from that (`ipirig-entry`). iced-x86 reads the bytes.
//!
//! "SDM" is Intel's Software Developer's Manual with the numbers of its 2023 editions, "APM" AMD's
//! Architecture Programmer's Manual.

#![forbid(unsafe_code)]

pub mod control;
pub mod decode;
mod disassemble;
pub mod flow;
mod nop;
pub mod step;

pub use decode::invpcid_descriptor;
pub use disassemble::{disassemble, disassemble_at, length};
pub use flow::successor;
pub use nop::first_nop;
pub use step::{Code, Step, StepRegisters};
