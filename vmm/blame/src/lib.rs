//! Who sent an IPI, and why: from the registers of the vCPU that sent it to its call chain and a
//! named cause.
//!
//! What it does: walks the kernel's stack by ORC tables or frame pointers ([`Kernel::unwind`]), gives
//! each distinct chain a number ([`Interner`]), names its functions ([`Kernel::name`]) and looks it up
//! in a table of causes ([`Causes`], `causes.toml`). It finds the timers for which a CPU's timer interrupt
//! comes ([`Kernel::due_timers`]), whose functions have causes in the same table.
//!
//! What it does not do: read a guest's memory (`ipirig-machine` does, behind [`Memory`]), know when an
//! IPI was sent or to whom (`ipirig-evidence` does), or read kernel files (`ipirig-image` does).
//!
//! A guest's stack is what the guest makes of it: a chain is bounded, moves on with each frame or
//! ends, and says why it ended. It may name functions that never called one another; it can do
//! nothing else.

#![forbid(unsafe_code)]

mod advice;
mod causes;
mod chain;
mod interner;
mod kernel;
mod memory;
mod prologue;
mod timers;
mod unwind;

pub use advice::{Advice, advice};
pub use causes::{Cause, Causes, CausesError, Deferrable, UNKNOWN, base_name};
pub use chain::{Broken, Chain, End, MAX_FRAMES};
pub use interner::Interner;
pub use kernel::{Frames, Kernel, Module, Name};
pub use memory::Memory;
pub use prologue::Prologues;
pub use timers::{DueTimer, DueTimers, MAX_TIMERS};
pub use unwind::UnwindRegisters;

#[cfg(test)]
mod testing;
