//! What a verdict means for this run, in a sentence, and numbers as people read them.

use ipirig_checks::check::{
    COMPLETED, COUNTERS, Check, DANGER_ZONE, FLAG_ORDER, ISOLATED_IPIS, KERNEL, NO_WAY_ROUND,
    NOTHING_LOST, STORM_RAN, USER_SPACE, Verdict,
};
use ipirig_checks::overall::isolation_held;
use ipirig_verdict::result::RunResult;

/// IPIs sent to isolated vCPUs in the windows.
pub(super) fn isolated_ipis(run: &RunResult) -> u64 {
    let isolated = run.vcpus.iter().filter(|vcpu| vcpu.role == "isolated");
    isolated.map(|vcpu| vcpu.window.ipis_targeted).sum()
}

/// The sentence.
pub(super) fn meaning(run: &RunResult) -> String {
    match run.verdict {
        Verdict::Held => held(run),
        Verdict::Violated => {
            let found = with(run, Verdict::Violated);
            let found: Vec<String> = found.map(|check| violated(run, check)).collect();
            sentence(&found.join("; "))
        }
        Verdict::Error => format!(
            "The rig cannot tell: the guest or the rig failed, or proof is missing ({}).",
            names(run, Verdict::Error)
        ),
        Verdict::Skipped if isolation_held(&run.checks) => format!(
            "{}, but whether work was deferred and done in time is not known: host or kernel lacks \
             what is needed ({}).",
            came(run),
            names(run, Verdict::Skipped)
        ),
        Verdict::Skipped => format!(
            "This was not checked: host or kernel lacks what is needed ({}).",
            names(run, Verdict::Skipped)
        ),
    }
}

fn held(run: &RunResult) -> String {
    if run.scenario.must_deliver {
        return "Every IPI that an isolated CPU must get arrived: nothing was deferred that may \
                not be."
            .to_owned();
    }
    let came = came(run);
    if run.isolation_only {
        return format!(
            "{came}; this run is on isolation alone, and does not say that deferred work was done."
        );
    }
    let status = |name| run.checks.iter().find(|c| c.name == name).map(|c| c.status);
    let then = match status(COMPLETED) {
        Some(Verdict::Held) => {
            "and what was deferred was done when it next entered the kernel, before any code that \
             could have minded"
        }
        _ => "whether work was deferred and done in time was not checked",
    };
    let joint = if then.starts_with("and") { ", " } else { "; " };
    format!("{came}{joint}{then}.")
}

/// What was sent to isolated CPUs, where that is as it should be.
fn came(run: &RunResult) -> String {
    match isolated_ipis(run) {
        0 => "No IPI was sent to an isolated CPU while the storm ran".to_owned(),
        count => format!(
            "{} to isolated CPUs while the storm ran, no more than the scenario allows",
            counted(count, "IPI was sent", "IPIs were sent")
        ),
    }
}

fn violated(run: &RunResult, check: &Check) -> String {
    match check.name {
        ISOLATED_IPIS if run.scenario.must_deliver => {
            "IPIs that an isolated CPU must get did not come".to_owned()
        }
        ISOLATED_IPIS => format!(
            "{} to isolated CPUs, which should have been left alone",
            counted(isolated_ipis(run), "IPI was sent", "IPIs were sent")
        ),
        USER_SPACE => "an isolated CPU was taken out of user space".to_owned(),
        KERNEL => "an isolated CPU did not stay in the kernel".to_owned(),
        STORM_RAN => "the storm did not run as asked".to_owned(),
        COMPLETED => {
            "deferred work was not done when an isolated CPU entered the kernel".to_owned()
        }
        DANGER_ZONE => {
            "code or memory that may have been stale was used before the CPU caught up".to_owned()
        }
        FLAG_ORDER => {
            "the flag that senders go by was set too late or cleared too early".to_owned()
        }
        COUNTERS => "the kernel's own counters tell of work that was not done".to_owned(),
        NOTHING_LOST => "events were lost".to_owned(),
        NO_WAY_ROUND => "interrupts reached the guest behind the rig's back".to_owned(),
        other => format!("{other} does not hold"),
    }
}

fn with(run: &RunResult, status: Verdict) -> impl Iterator<Item = &Check> {
    run.checks
        .iter()
        .filter(move |check| check.status == status)
}

fn names(run: &RunResult, status: Verdict) -> String {
    let names: Vec<&str> = with(run, status).map(|check| check.name).collect();
    names.join(", ")
}

/// With a capital and a full stop.
fn sentence(words: &str) -> String {
    let mut chars = words.chars();
    match chars.next() {
        None => String::new(),
        Some(first) => format!("{}{}.", first.to_uppercase(), chars.as_str()),
    }
}

/// `1 IPI`, `1 234 IPIs`.
pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    if count == 1 {
        format!("1 {one}")
    } else {
        format!("{} {many}", grouped(count))
    }
}

/// Digits in groups of three, with narrow spaces that do not break, as ISO 80000-1 has them. Four
/// digits stay together.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    if digits.len() <= 4 {
        return digits;
    }
    let mut out = String::with_capacity(digits.len() * 2);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// A stretch of time in the unit that suits it, three digits.
pub(super) fn duration(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    match value {
        ..9.995 => format!("{value:.2} {unit}"),
        ..99.95 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::specimen;

    #[test]
    fn numbers_are_grouped_and_times_have_three_digits() {
        let grouped = [0, 999, 1234, 12_345, 1_234_567].map(grouped);
        assert_eq!(
            grouped,
            [
                "0",
                "999",
                "1234",
                "12\u{202f}345",
                "1\u{202f}234\u{202f}567"
            ]
        );
        let times = [7, 1_500, 12_340, 999_999, 123_456_789, 12_345_678_901].map(duration);
        assert_eq!(
            times,
            ["7 ns", "1.50 µs", "12.3 µs", "1000 µs", "123 ms", "12.3 s"]
        );
    }

    #[test]
    fn a_verdict_says_what_happened_to_whom() {
        let mut run = specimen::violated();
        assert_eq!(
            meaning(&run),
            "2 IPIs were sent to isolated CPUs, which should have been left alone."
        );
        run.scenario.must_deliver = true;
        assert_eq!(
            meaning(&run),
            "IPIs that an isolated CPU must get did not come."
        );
        run.checks[0].status = Verdict::Held;
        run.verdict = Verdict::Held;
        assert_eq!(
            meaning(&run),
            "Every IPI that an isolated CPU must get arrived: nothing was deferred that may not be."
        );
        run.scenario.must_deliver = false;
        run.vcpus[2].window = ipirig_verdict::result::Window::default();
        assert_eq!(
            meaning(&run),
            "No IPI was sent to an isolated CPU while the storm ran; whether work was deferred and \
             done in time was not checked."
        );
        run.verdict = Verdict::Skipped;
        assert_eq!(
            meaning(&run),
            "This was not checked: host or kernel lacks what is needed (kernel-counters)."
        );
    }
}
