//! A TSC that goes its own way: what is written to IA32_TIME_STAMP_COUNTER is not what a guest reads
//! from then on.
//!
//! A machine that is restored from a snapshot has the TSC of its host then, which may be hours ahead or
//! behind. KVM's clock can be set (KVM API 4.30): a guest that tells the time by it does not notice.
//! The TSC-deadline timer is no matter, as each deadline is counted from a TSC read just before.

use super::quirk::{Finding, Quirk, Remedy};
use crate::probe::{ProbeError, Prober};

pub(super) const QUIRK: Quirk = Quirk {
    name: "tsc-writes",
    what: "the TSC can be set",
    probe,
};

/// What is written is far from any TSC that a host has had time for since it booted...
const VALUE: u64 = 1 << 58;
/// ... and what is read afterwards is that and the time since: at most minutes, at any frequency.
const LATER: u64 = 1 << 40;

fn probe(prober: &Prober<'_>) -> Result<Finding, ProbeError> {
    let read = prober.set_tsc(VALUE)?;
    if (VALUE..VALUE + LATER).contains(&read) {
        return Ok(Finding {
            text: "it can".into(),
            remedy: None,
        });
    }
    Ok(Finding {
        text: "it cannot".into(),
        remedy: Some(Remedy {
            text: "the kernel is told to tell the time by KVM's clock",
            cmdline: "clocksource=kvm-clock".to_owned(),
            ..Remedy::default()
        }),
    })
}
