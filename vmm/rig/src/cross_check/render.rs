//! The comparison as a person reads it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Callsites, CrossCheck, Difference, Histogram, Side};

/// Widest bar of a histogram, in characters.
const BAR: u64 = 20;

/// One difference in words.
pub(super) fn line(difference: &Difference) -> String {
    let who = match difference.side {
        Side::Rig => "only the rig has",
        Side::Guest => "only the guest has",
        Side::Queue => "no IPI for",
        Side::Callsite => "another callsite for",
    };
    let rule = difference.rule.map_or("unexplained", |rule| rule.name());
    let Difference {
        cpu,
        source,
        kind,
        count,
        after_us,
        evidence,
        ..
    } = difference;
    let (what, first) = match count {
        1 => (kind.clone(), ""),
        _ => (format!("{count} {kind}"), ", the first"),
    };
    format!(
        "CPU {source} to CPU {cpu}: {who} {what} ({rule}){first} {after_us:.1} us into the window: \
         {evidence}"
    )
}

/// What the callsites say, in words.
pub(super) fn callsites(callsites: Callsites) -> String {
    let Callsites { compared, on_stack } = callsites;
    format!(
        "the kernel's callsite is on the sender's stack for {on_stack} of {compared} IPIs in both"
    )
}

/// The filters, a table of CPUs, the differences, and how long IPIs took, with a newline at the end.
#[must_use]
pub fn render(compared: &CrossCheck) -> String {
    let mut out = "the guest's own trace of its IPIs, events with filters:\n".to_owned();
    for filter in &compared.filters {
        let _ = writeln!(out, "  {filter}");
    }
    let _ = writeln!(
        out,
        "{:>4}  {:<12}  {:>9}  {:>12}  {:>7}  {:>13}  {:>12}  {:>4}",
        "vCPU",
        "role",
        "rig: IPIs",
        "guest: IPIs",
        "in both",
        "CSDs (no IPI)",
        "of them run",
        "lost"
    );
    let sum = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
    for cpu in &compared.cpus {
        let csds = format!(
            "{} ({})",
            cpu.queued,
            cpu.queued.saturating_sub(cpu.queued_with_ipi)
        );
        let _ = writeln!(
            out,
            "{:>4}  {:<12}  {:>9}  {:>12}  {:>7}  {csds:>13}  {:>12}  {:>4}",
            cpu.cpu,
            cpu.role,
            sum(&cpu.rig),
            sum(&cpu.guest),
            cpu.pairs,
            cpu.begun,
            cpu.lost
        );
    }
    if compared.callsites.compared > 0 {
        let _ = writeln!(out, "  {}", callsites(compared.callsites));
    }
    for difference in &compared.differences {
        let _ = writeln!(out, "  {}", line(difference));
    }
    out += &times(compared);
    out
}

fn times(compared: &CrossCheck) -> String {
    let times = &compared.times;
    let columns: Vec<(&str, &Histogram)> = [
        ("guest: CSD queued to begun", &times.queued_to_begun),
        ("guest: its own histogram", &times.counted_by_guest),
        ("rig: sent to taken", &times.sent_to_taken),
        ("rig: sent to handler, isolated", &times.sent_to_handler),
    ]
    .into_iter()
    .filter(|(_, histogram)| histogram.count() > 0)
    .collect();
    let buckets = columns
        .iter()
        .flat_map(|(_, histogram)| histogram.buckets.keys());
    let (Some(&first), Some(&last)) = (buckets.clone().min(), buckets.max()) else {
        return String::new();
    };
    let mut out = String::from("how long call-function IPIs took, in us:\n");
    let mut head = format!("{:>8}", "from");
    for (name, _) in &columns {
        let _ = write!(head, "  {name:<30}");
    }
    let _ = writeln!(out, "{}", head.trim_end());
    let mut from = first;
    while from <= last {
        let mut row = format!("{from:>8}");
        for (_, histogram) in &columns {
            let most = histogram.buckets.values().max().copied().unwrap_or(1);
            let count = histogram.buckets.get(&from).copied().unwrap_or(0);
            let bar = usize::try_from((count * BAR).div_ceil(most.max(1))).unwrap_or(0);
            let _ = write!(row, "  {count:>8} {:<21}", "#".repeat(bar));
        }
        let _ = writeln!(out, "{}", row.trim_end());
        if from == last {
            break;
        }
        from = if from == 0 { 1 } else { from * 2 };
    }
    out += "(On a host that emulates the guest's kernel these times say nothing about hardware.)\n";
    out
}
