//! How long isolated vCPUs were kept from user space, and by what: the gaps that their tasks measured, brought
//! together with the interrupts that were delivered meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use hdrhistogram::Histogram;
use ipirig_abi::Gap;
use serde::Serialize;

use ipirig_checks::check::Verdict;
use ipirig_evidence::blame::{Attribution, TimerAttribution};
use ipirig_evidence::deliveries::Delivered;
use ipirig_evidence::gaps::GapRecord;
use ipirig_machine::{HostFacts, Virtualization};

use crate::TimerReport;

/// How far the moments by which the two clocks are brought together may be off, in nanoseconds. An interrupt is put down to
/// the gap that it was delivered in, or else to the nearest one within this.
const SLACK_NS: u64 = 100_000;
/// Significant digits of histograms.
const DIGITS: u8 = 3;
/// As far as histograms go: an hour, in nanoseconds.
const LONGEST_NS: u64 = 3_600_000_000_000;
/// By how much the rig's histogram and the task's own sums may differ, in hundredths.
const TOLERATED: u64 = 5;

/// What is said of gaps without an interrupt.
pub const NO_INTERRUPT: &str =
    "no interrupt: noise of the host, which took the CPU, or an SMI, as its firmware did";

/// Whether times are told as parts and multiples only: where the CPU is emulated, or the guest's kernel, or nobody
/// knows, none says anything of hardware.
#[must_use]
pub fn are_ratios(host: Option<&HostFacts>) -> bool {
    host.is_none_or(|host| host.emulated.is_some() || host.virtualization == Virtualization::None)
}

/// How long one isolated vCPU was kept from its task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Durations {
    /// How long the task measured, in nanoseconds.
    pub measured_ns: u64,
    /// A turn of the task's loop that took as long, or longer, is a gap; in nanoseconds.
    pub threshold_ns: u64,
    /// By what the gaps were made, most time first.
    pub causes: Vec<Interruptions>,
    /// Gaps of which nothing is known, as too many came at once.
    pub lost: u64,
}

/// Gaps with one cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Interruptions {
    /// The cause of the IPI, or of the timer's interrupt, or the name of another one; several where they came in one
    /// gap. `None`: no interrupt was delivered meanwhile, so it was the host that took the CPU away, or its firmware.
    pub cause: Option<String>,
    /// The same in words where there is no cause: [`NO_INTERRUPT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'static str>,
    /// How many gaps there were.
    pub times: u64,
    /// How long they were in all, in nanoseconds.
    pub total_ns: u64,
    /// Half of them were no longer, in nanoseconds.
    pub median_ns: u64,
    /// The longest, in nanoseconds.
    pub longest_ns: u64,
    /// How many there were by length, without empty buckets.
    pub histogram: Vec<Bucket>,
    /// Interrupts of this cause for which there is no gap: it was shorter than the threshold, or lost.
    pub unmeasured: u64,
}

impl Durations {
    /// How often the task was kept from its loop.
    #[must_use]
    pub fn times(&self) -> u64 {
        let times = self.causes.iter().map(|one| one.times);
        times.fold(0, u64::saturating_add)
    }

    /// For how long in all, in nanoseconds.
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        let totals = self.causes.iter().map(|one| one.total_ns);
        totals.fold(0, u64::saturating_add)
    }

    /// So much of what was measured: `0.010 %`.
    #[must_use]
    pub fn share(&self, ns: u64) -> String {
        let parts = u128::from(ns) * 100_000 / u128::from(self.measured_ns.max(1));
        format!("{}.{:03} %", parts / 1000, parts % 1000)
    }

    /// A time as a multiple of the shortest median: `5.0 x`.
    #[must_use]
    pub fn multiple(&self, ns: u64) -> String {
        let medians = self.causes.iter().filter(|one| one.times > 0);
        let unit = medians.map(|one| one.median_ns).min().unwrap_or(1).max(1);
        let tenths = u128::from(ns) * 10 / u128::from(unit);
        format!("{}.{} x", tenths / 10, tenths % 10)
    }
}

impl Interruptions {
    /// The cause, or what is said where no interrupt came.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.cause.as_deref().unwrap_or(NO_INTERRUPT)
    }
}

/// Gaps of about one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// They are no longer than this, in nanoseconds, and longer than what the bucket before has.
    pub up_to_ns: u64,
    /// How many.
    pub times: u64,
}

/// What is known of why interrupts came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    /// Of IPIs.
    pub(super) blame: &'a [Attribution],
    /// Of timers.
    pub(super) timers: &'a [TimerAttribution],
}

/// What is collected of one cause.
#[derive(Debug, Default)]
struct Collected {
    gaps: Vec<u64>,
    unmeasured: u64,
}

/// What kept `cpu` from its task. `None`: the counter of that vCPU did not count.
pub(super) fn durations(
    cpu: usize,
    record: &GapRecord,
    delivered: &[Delivered],
    known: Known<'_>,
) -> Option<Durations> {
    let mut gaps: Vec<(u64, u64)> = Vec::with_capacity(record.gaps.len());
    for &Gap { begin, ticks } in &record.gaps {
        let end = record.ns(begin.saturating_add(ticks))?;
        gaps.push((record.ns(begin)?.min(end), end));
    }
    gaps.sort_unstable();
    let (first, last) = record.span_ns()?;
    let span = first..=last;
    let mine = delivered.iter().filter(|one| {
        let delivery = &one.delivery;
        delivery.cpu == cpu && span.contains(&delivery.time_ns)
    });
    let mut causes: Vec<BTreeSet<String>> = vec![BTreeSet::new(); gaps.len()];
    let mut collected: BTreeMap<Option<String>, Collected> = BTreeMap::new();
    for one in mine {
        let named = named(one, known);
        match place(&gaps, one.delivery.time_ns).and_then(|at| causes.get_mut(at)) {
            Some(causes) => causes.extend(named),
            None => collected.entry(Some(joined(named))).or_default().unmeasured += 1,
        }
    }
    for ((begin, end), causes) in gaps.into_iter().zip(causes) {
        let cause = (!causes.is_empty()).then(|| joined(causes));
        collected.entry(cause).or_default().gaps.push(end - begin);
    }
    let each = collected.into_iter();
    let each = each.map(|(cause, collected)| interruptions(cause, &collected));
    let mut causes: Vec<Interruptions> = each.collect::<Option<_>>()?;
    causes.sort_by_key(|one| (std::cmp::Reverse(one.total_ns), one.cause.clone()));
    Some(Durations {
        measured_ns: last.saturating_sub(first),
        threshold_ns: record.duration_ns(record.threshold)?,
        causes,
        lost: record.lost,
    })
}

/// By what one interrupt was caused: several causes if sends were merged, or several timers were due.
fn named(one: &Delivered, known: Known<'_>) -> BTreeSet<String> {
    let kind = one.delivery.kind.to_string();
    if let Some(number) = one.delivery.due {
        let alike =
            |timers: &&TimerAttribution| (timers.cpu, timers.number) == (one.delivery.cpu, number);
        if let Some(timers) = known.timers.iter().find(alike) {
            return TimerReport::from(timers).reasons();
        }
    }
    let causes = one.writes.iter().map(|write| {
        let known = known.blame.iter().find(|known| {
            known.source == write.source && known.number == write.chain && known.kind == kind
        });
        // Without its calls nothing is known of an IPI but its kind.
        known
            .filter(|known| known.number.is_some())
            .map_or_else(|| kind.clone(), Attribution::reason)
    });
    let causes: BTreeSet<String> = causes.collect();
    if causes.is_empty() {
        [kind].into()
    } else {
        causes
    }
}

fn joined(causes: BTreeSet<String>) -> String {
    let causes: Vec<String> = causes.into_iter().collect();
    causes.join(" + ")
}

/// The gap, of those in their order, that something at `time_ns` was in, or is nearest to.
fn place(gaps: &[(u64, u64)], time_ns: u64) -> Option<usize> {
    // Gaps of one task do not overlap.
    let after = gaps.partition_point(|(begin, _)| *begin <= time_ns);
    let near = [after.checked_sub(1), Some(after)];
    let distance = |at: usize| {
        let (begin, end) = gaps.get(at)?;
        Some(
            begin
                .saturating_sub(time_ns)
                .max(time_ns.saturating_sub(*end)),
        )
    };
    let near = near.into_iter().flatten();
    let near = near.filter_map(|at| Some((distance(at)?, at)));
    near.min()
        .filter(|(distance, _)| *distance <= SLACK_NS)
        .map(|(_, at)| at)
}

fn interruptions(cause: Option<String>, collected: &Collected) -> Option<Interruptions> {
    let histogram = histogram(collected.gaps.iter().copied())?;
    let buckets = histogram.iter_log(1000, 2.0).map(|bucket| Bucket {
        up_to_ns: bucket.value_iterated_to(),
        times: bucket.count_since_last_iteration(),
    });
    let sum = |sum: u64, ns: &u64| sum.saturating_add(*ns);
    Some(Interruptions {
        note: cause.is_none().then_some(NO_INTERRUPT),
        cause,
        times: collected.gaps.len() as u64,
        total_ns: collected.gaps.iter().fold(0, sum),
        median_ns: histogram.value_at_quantile(0.5),
        longest_ns: collected.gaps.iter().copied().max().unwrap_or(0),
        histogram: buckets.filter(|bucket| bucket.times > 0).collect(),
        unmeasured: collected.unmeasured,
    })
}

/// Of lengths in nanoseconds. One that is longer than the histogram goes counts as the longest that it has.
fn histogram(lengths: impl Iterator<Item = u64>) -> Option<Histogram<u64>> {
    let mut histogram = Histogram::new_with_bounds(1, LONGEST_NS, DIGITS).ok()?;
    for ns in lengths {
        histogram.saturating_record(ns);
    }
    Some(histogram)
}

/// Whether what was fetched of a task's gaps is all that the task says it had: as many, and as long, by a histogram in
/// nanoseconds here and sums of ticks there.
pub(super) fn agree(cpu: usize, record: &GapRecord) -> (Verdict, String) {
    let found = record.gaps.len() as u64;
    let told = record.sums.count;
    let lengths = record.gaps.iter().map(|gap| record.duration_ns(gap.ticks));
    let lengths: Option<Vec<u64>> = lengths.collect();
    let histogram = lengths.and_then(|lengths| histogram(lengths.into_iter()));
    let (Some(histogram), Some(ticks_ns)) = (histogram, record.duration_ns(record.sums.ticks))
    else {
        let words = format!("the time-stamp counter of vCPU {cpu} does not count");
        return (Verdict::Skipped, words);
    };
    let each = histogram.iter_recorded();
    let sum: u64 = each.fold(0, |sum, one| {
        let ns = one.value_iterated_to();
        sum.saturating_add(ns.saturating_mul(one.count_at_value()))
    });
    let apart = sum.abs_diff(ticks_ns);
    let words = format!(
        "vCPU {cpu}: {found} gaps in its loop; the task itself counts {told}, and its sum is {} % off",
        hundredths(apart, ticks_ns)
    );
    if record.lost > 0 {
        let words = format!("{words}; {} came too fast to be fetched", record.lost);
        return (Verdict::Skipped, words);
    }
    let close = u128::from(apart) * 100 <= u128::from(TOLERATED) * u128::from(ticks_ns);
    if found == told && close {
        (Verdict::Held, words)
    } else {
        (Verdict::Error, words)
    }
}

/// `part` of `whole` in hundredths, with one decimal.
fn hundredths(part: u64, whole: u64) -> String {
    let tenths = u128::from(part) * 1000 / u128::from(whole.max(1));
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests;
