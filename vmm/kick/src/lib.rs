//! Kicks: making a vCPU's thread look at its APIC, whether the vCPU runs, is about to, or is parked.
//!
//! A running vCPU leaves `KVM_RUN` on a signal. The signal's handler runs on the vCPU's own thread and sets
//! `kvm_run.immediate_exit`, so a kick that lands just before `KVM_RUN` is not lost either (KVM API 5: "immediate_exit
//! is polled once when KVM_RUN starts"). A parked one waits in `thread::park`, whose token has the same property.
//!
//! What a kick is for is left where the thread looks before it is kicked: an interrupt in a mailbox, a flag, a job. The
//! thread looks before each [`ImmediateExit::enter`], and within [`Kicker::park`] once others can see that it parks.
//! Then nothing is lost: `tests/models.rs` goes through all interleavings, and all values that the memory model lets a
//! load have, of this crate and `ipirig-apic` themselves, compiled over loom's atomics (`--cfg loom`).
//!
//! What this crate does not do: know KVM's handles, what there is to look at, or clocks. `ipirig-machine` does.

#![warn(clippy::indexing_slicing)]

mod atomics;
mod immediate_exit;
mod kicker;
#[cfg(not(loom))]
mod signal;

pub use immediate_exit::{ImmediateExit, NoExit};
pub use kicker::{KickedThread, Kicker};
#[cfg(not(loom))]
pub use signal::{Attached, SIGNAL, SignalledThread, attach, install, thread_id};
