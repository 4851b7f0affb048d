//! What reads guests and files, fed with what no honest guest or file has: nothing may panic, hang or grow, and what has
//! invariants keeps them.
//!
//! Each of [`TARGETS`] takes bytes, as the body of a fuzzer does. `tests/bounded.rs` has each take some thousands of
//! inputs, made of [`Numbers`] and of small good files that are damaged ([`Corpus`]); the program of this crate has one
//! take as many as it is told to, for hours (`results/robustness.md`).
//!
//! Records of entries, patchable sites and guest memory have properties of their own, in their crates.

pub mod apic;
mod corpus;
mod files;
mod numbers;
mod stacks;
mod texts;

pub use corpus::Corpus;
pub use numbers::Numbers;

/// Something that is fed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Takes an input. Panics if an invariant is not kept.
    pub feed: fn(&[u8]),
    /// Good inputs to begin with.
    pub corpus: fn() -> Vec<Vec<u8>>,
    /// How many inputs a test gives it: what takes some seconds.
    pub bounded: u64,
}

/// All that is fed with bytes. The APIC is fed with accesses, many more of them: [`apic`].
pub const TARGETS: [Target; 8] = [
    Target {
        name: "scenario",
        feed: texts::scenario,
        corpus: corpus::scenarios,
        bounded: 20_000,
    },
    Target {
        name: "results",
        feed: files::results,
        corpus: corpus::results,
        bounded: 3_000,
    },
    Target {
        name: "kernel",
        feed: files::kernel,
        corpus: corpus::kernels,
        bounded: 20_000,
    },
    Target {
        name: "orc",
        feed: stacks::orc,
        corpus: corpus::none,
        bounded: 50_000,
    },
    Target {
        name: "stack",
        feed: stacks::stack,
        corpus: corpus::none,
        bounded: 500_000,
    },
    Target {
        name: "snapshot",
        feed: files::snapshot,
        corpus: corpus::snapshots,
        bounded: 10_000,
    },
    Target {
        name: "counters",
        feed: texts::counters,
        corpus: corpus::counters,
        bounded: 100_000,
    },
    Target {
        name: "guest-text",
        feed: texts::guest,
        corpus: corpus::guest_texts,
        bounded: 100_000,
    },
];
