//! The comparison as a person reads it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ipirig_crosscheck::{CrossCheck, Histogram};

/// Widest bar of a histogram, in characters.
const BAR: u64 = 20;

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
        let _ = writeln!(out, "  {}", compared.callsites);
    }
    for difference in &compared.differences {
        let _ = writeln!(out, "  {difference}");
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

#[cfg(test)]
mod tests {
    use ipirig_crosscheck::{Difference, Rule, Side, compare};
    use ipirig_fake::{Script, traced};

    use super::*;

    #[test]
    fn a_person_reads_filters_counts_differences_and_times() {
        let script = Script {
            ipis_per_operation: 3,
            ..Script::default()
        };
        let (plan, evidence) = traced(script);
        let mut compared = compare(&plan, &evidence).unwrap().unwrap();
        compared.times.queued_to_begun = Histogram::of([900, 2500, 2600, 9000]);
        compared.times.sent_to_handler = Histogram::default();
        compared.times.counted_by_guest = Histogram::default();
        compared.differences = vec![Difference {
            cpu: 2,
            source: 0,
            kind: "nmi".to_owned(),
            side: Side::Rig,
            after_us: 7.25,
            count: 3,
            rule: Some(Rule::NoTracepoint),
            evidence: "nmi is sent without a tracepoint".to_owned(),
        }];
        assert_eq!(
            render(&compared),
            "\
the guest's own trace of its IPIs, events with filters:
  ipi:ipi_send_cpu cpu & 0x6
vCPU  role          rig: IPIs   guest: IPIs  in both  CSDs (no IPI)   of them run  lost
   1  housekeeping        101           101      101        101 (0)           101     0
   2  isolated            303           303      303        303 (0)           303     0
  CPU 0 to CPU 2: only the rig has 3 nmi (no-tracepoint), the first 7.2 us into the window: nmi is \
sent without a tracepoint
how long call-function IPIs took, in us:
    from  guest: CSD queued to begun      rig: sent to taken
       0         1 ##########                    0
       1         0                             404 ####################
       2         2 ####################          0
       4         0                               0
       8         1 ##########                    0
(On a host that emulates the guest's kernel these times say nothing about hardware.)
"
        );
    }
}
