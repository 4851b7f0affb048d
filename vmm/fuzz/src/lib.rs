//! What reads guests and files, fed with what no honest guest or file has: nothing may panic, hang or grow, and what has
//! invariants keeps them.
//!
//! Each of [`TARGETS`] takes bytes, as the body of a fuzzer does. `tests/bounded.rs` has each take some thousands of
//! inputs, made of [`Numbers`] and of small good files that are damaged ([`Corpus`]); the program of this crate has one
//! take as many as it is told to, for hours (`results/robustness.md`).
//!
//! Patchable sites and guest memory have properties of their own, in their crates. `libfuzzer` has the same targets for
//! `cargo fuzz`, which looks for inputs by what they cover.

pub mod apic;
mod corpus;
mod entries;
mod files;
mod mailbox;
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

impl Target {
    /// The one of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        TARGETS.into_iter().find(|target| target.name == name)
    }
}

/// Has the target `name` take one input.
///
/// # Panics
/// If there is no such target, or an invariant is not kept.
pub fn feed(name: &str, input: &[u8]) {
    let target = Target::find(name);
    assert!(target.is_some(), "no target {name}");
    if let Some(target) = target {
        (target.feed)(input);
    }
}

/// All that is fed with bytes. APICs are fed with many more accesses than a file has as well: [`apic::stream`].
pub const TARGETS: [Target; 15] = [
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
    Target {
        name: "entry",
        feed: entries::entry,
        corpus: corpus::code,
        bounded: 5_000,
    },
    Target {
        name: "mailbox",
        feed: mailbox::mailbox,
        corpus: corpus::none,
        bounded: 500,
    },
    Target {
        name: "kvm-trace",
        feed: texts::kvm_trace,
        corpus: corpus::kvm_traces,
        bounded: 50_000,
    },
    Target {
        name: "initramfs",
        feed: files::initramfs,
        corpus: corpus::initramfs,
        bounded: 10_000,
    },
    Target {
        name: "snapshot-index",
        feed: files::snapshot_index,
        corpus: corpus::snapshot_indexes,
        bounded: 5_000,
    },
    Target {
        name: "saved-apic",
        feed: apic::saved,
        corpus: corpus::saved_apics,
        bounded: 20_000,
    },
    Target {
        name: "apic-accesses",
        feed: apic::accesses,
        corpus: corpus::none,
        bounded: 20_000,
    },
];
