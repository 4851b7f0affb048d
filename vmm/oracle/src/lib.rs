//! What others say of the same: outside oracles for the rig's local APIC.
//!
//! An APIC that is tested by those who wrote it keeps their misreadings of the manual. Here is what a second
//! opinion is asked with:
//!
//! * A [`Program`] is a list of operations on APICs, random but made from a seed: writes and reads of registers, IPIs of
//!   every kind, task priorities, interrupts on and off, timers. A guest of a few instructions carries it out on one
//!   or more CPUs (`tests/guest/interpreter.s`) and writes down what it sees: each interrupt that it takes, each
//!   value that it reads, each #GP. The same program on KVM's own APIC and on the rig's has to leave the same
//!   [`Log`]. [`difference`] finds the first place where it does not, and [`shrink`] the least of the program that
//!   shows it. What KVM is known to do otherwise than the manual is named in [`DEVIATIONS`].
//! * [`Multiboot`] takes the images that kvm-unit-tests builds apart for the rig's loader, and [`UnitReport`] is what
//!   they print. Whoever has them points at them: `IPIRIG_KVM_UNIT_TESTS=DIR cargo nextest run -E
//!   'test(kvm_unit_tests)'`.
//!
//! Nothing here runs a guest: the tests of this crate do, with `ipirig-machine`.
//!
//! "SDM" is Intel's Software Developer's Manual, volume 3A, with the chapters of its 2023 editions.

mod deviations;
mod difference;
mod generate;
mod log;
mod multiboot;
mod operation;
mod program;
mod shrink;
mod unit_tests;

pub use deviations::{DEVIATIONS, Deviation};
pub use difference::{Difference, difference};
pub use log::{Entry, Log};
pub use multiboot::{Multiboot, MultibootError, Segment};
pub use operation::{Operation, Register};
pub use program::{Face, Program, Step};
pub use shrink::shrink;
pub use unit_tests::{UnitOutcome, UnitReport, UnitTest};
