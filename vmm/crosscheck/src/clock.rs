//! The guest's time-stamp counters and the rig's clock, brought together at the windows' edges, where
//! the rig has read both.

use ipirig_machine::clock::Moment;

use ipirig_evidence::Edge;

/// Two moments of each vCPU: a straight line from one clock to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clock(Vec<(Moment, Moment)>);

/// One window, in nanoseconds of the rig's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// It opened between these two.
    pub(crate) opened: (u64, u64),
    /// It closed between these two.
    pub(crate) closed: (u64, u64),
}

impl Span {
    /// Whether what the ledger recorded then is of this window.
    pub(crate) fn holds(self, at: u64) -> bool {
        (self.opened.0..=self.closed.1).contains(&at)
    }
}

impl Clock {
    /// `None`: there is no window, or a counter does not count.
    pub(crate) fn new(edges: &[(Edge, Edge)]) -> Option<Self> {
        let (first, last) = (&edges.first()?.0.before, &edges.last()?.1.after);
        let each = first.iter().zip(last).map(|(&first, &last)| {
            let counts = first.tsc < last.tsc && first.time_ns < last.time_ns;
            counts.then_some((first, last))
        });
        let all: Option<Vec<_>> = each.collect();
        all.filter(|all| !all.is_empty()).map(Self)
    }

    /// When the counter of `cpu` read `tsc`, in nanoseconds of the rig's clock. `None`: there is no
    /// such vCPU.
    pub(crate) fn ns(&self, cpu: usize, tsc: u64) -> Option<u64> {
        let (first, last) = self.0.get(cpu)?;
        let ticks = i128::from(tsc) - i128::from(first.tsc);
        let (span, ns) = (last.tsc - first.tsc, last.time_ns - first.time_ns);
        let at = i128::from(first.time_ns) + ticks * i128::from(ns) / i128::from(span);
        Some(u64::try_from(at.max(0)).unwrap_or(u64::MAX))
    }

    /// How long so many ticks are, in nanoseconds.
    pub(crate) fn duration_ns(&self, ticks: u64) -> u64 {
        let ns = self.0.first().map_or(0, |(first, last)| {
            let (span, ns) = (last.tsc - first.tsc, last.time_ns - first.time_ns);
            u128::from(ticks) * u128::from(ns) / u128::from(span)
        });
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

/// The windows. All vCPUs are looked at before and after an edge, so it lies between the first of the
/// looks before and the last of those after.
pub(crate) fn spans(edges: &[(Edge, Edge)]) -> Vec<Span> {
    let between = |edge: &Edge| {
        let before = edge.before.iter().map(|moment| moment.time_ns).min();
        let after = edge.after.iter().map(|moment| moment.time_ns).max();
        (before.unwrap_or_default(), after.unwrap_or(u64::MAX))
    };
    edges
        .iter()
        .map(|(opening, closing)| Span {
            opened: between(opening),
            closed: between(closing),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(before: &[(u64, u64)], after: &[(u64, u64)]) -> Edge {
        let moments = |list: &[(u64, u64)]| {
            let each = list.iter().map(|&(tsc, time_ns)| Moment { tsc, time_ns });
            each.collect()
        };
        Edge {
            before: moments(before),
            after: moments(after),
        }
    }

    #[test]
    fn each_vcpus_counter_has_its_own_line() {
        let opening = edge(&[(1000, 500), (5000, 510)], &[(1100, 520), (5100, 530)]);
        let closing = edge(&[(3000, 900), (7000, 910)], &[(3000, 1500), (9000, 1510)]);
        let edges = [(opening, closing)];
        let clock = Clock::new(&edges).unwrap();
        assert_eq!(clock.ns(0, 1000), Some(500));
        assert_eq!(clock.ns(0, 2000), Some(1000));
        assert_eq!(clock.ns(1, 7000), Some(1010));
        // Before the first and after the last, too; and never below zero or above the top.
        assert_eq!(clock.ns(0, 800), Some(400));
        assert_eq!(clock.ns(1, 0), Some(0));
        assert_eq!(clock.ns(0, u64::MAX), Some(u64::MAX / 2));
        assert_eq!(clock.ns(2, 1000), None);
        assert_eq!(clock.duration_ns(600), 300);
        let span = Span {
            opened: (500, 530),
            closed: (900, 1510),
        };
        assert_eq!(spans(&edges), [span]);
    }

    #[test]
    fn a_counter_that_stands_still_or_goes_back_is_no_clock() {
        let at = |tsc, time_ns| edge(&[(tsc, time_ns)], &[(tsc, time_ns)]);
        assert_eq!(Clock::new(&[]), None);
        assert_eq!(Clock::new(&[(at(5, 1), at(5, 2))]), None);
        assert_eq!(Clock::new(&[(at(6, 1), at(5, 2))]), None);
        assert_eq!(Clock::new(&[(edge(&[], &[]), edge(&[], &[]))]), None);
        assert!(Clock::new(&[(at(5, 1), at(6, 2))]).is_some());
    }
}
