//! How long isolated vCPUs were kept from their tasks.

use ipirig_observation::{Durations, Interruptions, Visited};

use super::columns;
use crate::paint::Paint;
use crate::render::line;

/// A table. `ratios`: no time is told, only what is a part of what.
pub(super) fn render(out: &mut String, visited: &Visited, ratios: bool, paint: Paint) {
    let Some(durations) = &visited.durations else {
        return;
    };
    line(out, "");
    line(out, head(visited.id, durations, ratios));
    let mut rows: Vec<[String; 5]> = Vec::new();
    for one in &durations.causes {
        rows.push(row(one, durations, ratios));
    }
    if rows.is_empty() {
        return;
    }
    let titles = if ratios {
        ["times", "of the time", "median", "longest", "by"]
    } else {
        ["times", "in all", "median", "longest", "by"]
    };
    let mut lines = columns(titles, rows, &[0, 1, 2, 3]).into_iter();
    line(out, paint.dim(lines.next().unwrap_or_default()));
    for text in lines {
        line(out, text.trim_end());
    }
}

fn head(cpu: usize, durations: &Durations, ratios: bool) -> String {
    let (times, total) = (durations.times(), durations.total_ns());
    let share = durations.share(total);
    let lost = match durations.lost {
        0 => String::new(),
        lost => format!("; {lost} more came too fast to be told"),
    };
    if ratios {
        return format!(
            "vCPU {cpu} was kept from its task {times} times, for {share} of the time{lost} (ratios only: CPUs are \
             emulated here)"
        );
    }
    format!(
        "vCPU {cpu} was kept from its task {times} times, for {} in all, {share} of {}{lost} (from {} on)",
        time(total),
        time(durations.measured_ns),
        time(durations.threshold_ns),
    )
}

fn row(one: &Interruptions, durations: &Durations, ratios: bool) -> [String; 5] {
    let cause = one.reason();
    let unmeasured = match one.unmeasured {
        0 => String::new(),
        more => format!(" ({more} more in no gap that was measured)"),
    };
    let [total, median, longest] = if one.times == 0 {
        ["-"; 3].map(str::to_owned)
    } else if ratios {
        [
            durations.share(one.total_ns),
            durations.multiple(one.median_ns),
            durations.multiple(one.longest_ns),
        ]
    } else {
        [one.total_ns, one.median_ns, one.longest_ns].map(time)
    };
    [
        one.times.to_string(),
        total,
        median,
        longest,
        format!("{cause}{unmeasured}"),
    ]
}

/// A time with three digits or so.
fn time(ns: u64) -> String {
    let (unit, per) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => ("us", 1_000),
        1_000_000..1_000_000_000 => ("ms", 1_000_000),
        _ => ("s", 1_000_000_000),
    };
    let tenths = u128::from(ns) * 10 / per;
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ipirig_evidence::blame::Taken;

    use super::*;

    fn visited(causes: Vec<Interruptions>, lost: u64) -> Visited {
        Visited {
            id: 2,
            ipis: BTreeMap::new(),
            other: BTreeMap::new(),
            taken: Taken::default(),
            longest_alone_s: 0.0,
            turns: 1,
            durations: Some(Durations {
                measured_ns: 2_000_000_000,
                threshold_ns: 1000,
                causes,
                lost,
            }),
        }
    }

    fn interruptions(
        cause: Option<&str>,
        times: u64,
        ns: [u64; 3],
        unmeasured: u64,
    ) -> Interruptions {
        let [total_ns, median_ns, longest_ns] = ns;
        Interruptions {
            cause: cause.map(str::to_owned),
            note: None,
            times,
            total_ns,
            median_ns,
            longest_ns,
            histogram: vec![],
            unmeasured,
        }
    }

    fn some() -> Vec<Interruptions> {
        vec![
            interruptions(Some("stop_machine"), 6, [112_000, 15_100, 41_000], 0),
            interruptions(None, 30, [90_000, 3_020, 5_000], 0),
            interruptions(Some("static key"), 0, [0, 0, 0], 3),
        ]
    }

    fn rendered(visited: &Visited, ratios: bool) -> String {
        let mut out = String::new();
        render(&mut out, visited, ratios, Paint::PLAIN);
        out
    }

    #[test]
    fn each_cause_has_its_times_in_units_that_fit() {
        assert_eq!(
            rendered(&visited(some(), 0), false),
            "
vCPU 2 was kept from its task 36 times, for 202.0 us in all, 0.010 % of 2.0 s (from 1.0 us on)
times    in all   median  longest  by
    6  112.0 us  15.1 us  41.0 us  stop_machine
   30   90.0 us   3.0 us   5.0 us  no interrupt: noise of the host, which took the CPU, or an SMI, as its firmware did
    0         -        -        -  static key (3 more in no gap that was measured)
"
        );
    }

    #[test]
    fn where_cpus_are_emulated_there_is_no_time_but_what_is_a_part_of_what() {
        assert_eq!(
            rendered(&visited(some(), 7), true),
            "
vCPU 2 was kept from its task 36 times, for 0.010 % of the time; 7 more came too fast to be told (ratios only: CPUs are emulated here)
times  of the time  median  longest  by
    6      0.005 %   5.0 x   13.5 x  stop_machine
   30      0.004 %   1.0 x    1.6 x  no interrupt: noise of the host, which took the CPU, or an SMI, as its firmware did
    0            -       -        -  static key (3 more in no gap that was measured)
"
        );
    }

    #[test]
    fn who_was_left_alone_and_who_could_not_measure_has_no_table() {
        assert_eq!(
            rendered(&visited(vec![], 0), false),
            "\nvCPU 2 was kept from its task 0 times, for 0 ns in all, 0.000 % of 2.0 s (from 1.0 us on)\n"
        );
        let mut silent = visited(vec![], 0);
        silent.durations = None;
        assert_eq!(rendered(&silent, false), "");
    }
}
