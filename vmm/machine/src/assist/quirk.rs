//! A quirk, what a probe of it found, and what is done about it.

use super::cpu::Assist;
use crate::feature::Feature;
use crate::probe::{Outcome, ProbeError, Prober};

/// A machine with more vCPUs than this is crowded. `slow_kernel` says the number to people.
pub(crate) const CROWD: usize = 4;

/// Something that a KVM may get wrong.
#[derive(Debug)]
pub(crate) struct Quirk {
    /// Short name, as printed.
    pub(crate) name: &'static str,
    /// What is tried.
    pub(crate) what: &'static str,
    /// Tries it.
    pub(crate) probe: fn(&Prober<'_>) -> Result<Finding, ProbeError>,
}

/// What a probe found, and what follows.
#[derive(Debug, Default)]
pub(crate) struct Finding {
    /// One line for a person.
    pub(crate) text: String,
    /// What to do about it; `None` where the host does the right thing.
    pub(crate) remedy: Option<Remedy>,
}

impl Finding {
    /// For a probe that ends as `wanted` where the host does the right thing, which `fine` says in
    /// words; else `remedy` is due.
    pub(super) fn expect(outcome: &Outcome, wanted: &Outcome, fine: &str, remedy: Remedy) -> Self {
        if outcome == wanted {
            return Self {
                text: fine.to_owned(),
                remedy: None,
            };
        }
        Self {
            text: format!("does not: {outcome}"),
            remedy: Some(remedy),
        }
    }
}

/// What the machine does about a quirk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remedy {
    /// One line for a person.
    pub(crate) text: &'static str,
    /// Makes the assist of one vCPU.
    pub(crate) assist: Option<fn() -> Box<dyn Assist>>,
    /// Kernel parameters to add, space separated.
    pub(crate) cmdline: String,
    /// More of them for a machine of more than [`CROWD`] vCPUs.
    pub(crate) crowded: &'static str,
    /// CPUID features to clear.
    pub(crate) hide: Vec<Feature>,
    /// Nanoseconds that must pass between two timer interrupts of a vCPU at work.
    pub(crate) timer_slack_ns: u64,
}
