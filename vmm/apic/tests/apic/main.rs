//! Tests of the APIC from outside, through the interface that the machine uses.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a fixture that fails should stop its test"
)]

mod against_model;
mod hostile;
mod ipis;
mod lines;
mod machine;
mod modes;
mod naive;
mod registers;
mod routing;
mod threads;
mod timer;
mod traps;
