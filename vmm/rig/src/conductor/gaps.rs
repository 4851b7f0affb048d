//! Isolated tasks measure how long they are kept from their loops, while a command is observed.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ipirig_abi::Role;
use ipirig_evidence::gaps::{GapRecord, GapSums};
use ipirig_machine::clock::{self, Moment};

use super::mailbox::LOAD;
use super::{Conductor, Ended};

/// How long it is watched how fast the tasks turn, before they measure.
const WATCHED: Duration = Duration::from_millis(20);
/// No gap is shorter, in nanoseconds: a turn that waits for memory is none.
const SHORTEST_NS: u64 = 1000;
/// A gap takes as long as so many turns, or longer.
const TURNS: u64 = 16;
/// Gaps that are kept of one vCPU: what a noisy host makes of some minutes.
const GAPS_MAX: usize = 1 << 17;

/// How often the two clocks are looked at while tasks measure. It is done on the control vCPU: on an isolated one it would be
/// a gap.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Such looks that are kept.
const LOOKS_MAX: usize = 1 << 16;

/// What is being fetched while tasks measure.
#[derive(Debug, Default)]
pub(super) struct Metering {
    tasks: BTreeMap<usize, TaskMetering>,
    /// Moments on the control vCPU.
    looks: Vec<Moment>,
}

/// What is being fetched of one isolated vCPU.
#[derive(Debug)]
struct TaskMetering {
    /// When it began.
    begin: Moment,
    /// The number of the next gap.
    seen: u64,
    /// What the task had told before.
    before: GapSums,
    record: GapRecord,
}

impl Conductor<'_> {
    /// Finds out how fast the tasks turn: of each isolated vCPU how many ticks make a gap.
    pub(super) fn thresholds(&mut self) -> Result<BTreeMap<usize, u64>, Ended> {
        let before = self.turns()?;
        let until = Instant::now() + WATCHED;
        while Instant::now() < until {
            self.pause_until(until)?;
        }
        let after = self.turns()?;
        let each = before.into_iter().zip(after);
        Ok(each
            .map(|((cpu, before), (_, after))| (cpu, threshold(before, after)))
            .collect())
    }

    /// The time on each isolated vCPU, and the turns of its task.
    fn turns(&mut self) -> Result<BTreeMap<usize, (Moment, u64)>, Ended> {
        let cpus = self.isolated.clone().into_iter();
        cpus.map(|cpu| {
            let moment = self.machine(|guest| guest.moment(cpu))?;
            Ok((cpu, (moment, self.heartbeat(cpu))))
        })
        .collect()
    }

    /// Has the tasks measure from now on.
    pub(super) fn measure(&mut self, thresholds: &BTreeMap<usize, u64>) -> Result<(), Ended> {
        let look = self.look()?;
        self.metering.looks = vec![look];
        for (&cpu, &threshold) in thresholds {
            // To look at it is a gap: before.
            let begin = self.machine(|guest| guest.moment(cpu))?;
            let gaps = &self.guest.mailbox().gaps[cpu];
            let metering = TaskMetering {
                begin,
                seen: gaps.told.count.load(LOAD),
                before: sums(gaps),
                record: GapRecord {
                    threshold,
                    ..GapRecord::default()
                },
            };
            gaps.threshold.store(threshold, Ordering::Release);
            self.metering.tasks.insert(cpu, metering);
        }
        Ok(())
    }

    /// The time on the control vCPU.
    fn look(&mut self) -> Result<Moment, Ended> {
        let control = self.control();
        self.machine(|guest| guest.moment(control))
    }

    fn control(&self) -> usize {
        let roles = &self.plan.roles;
        let control = roles.iter().position(|role| *role == Role::Control);
        control.unwrap_or(0)
    }

    /// Takes over what the tasks have measured so far.
    pub(super) fn fetch_gaps(&mut self) {
        let Metering { tasks, looks } = &mut self.metering;
        let mailbox = self.guest.mailbox();
        for (&cpu, TaskMetering { seen, record, .. }) in tasks {
            let mut more = 0;
            let lost = mailbox.gaps[cpu].fetch(seen, |gap| {
                if record.gaps.len() < GAPS_MAX {
                    record.gaps.push(gap);
                } else {
                    more += 1;
                }
            });
            record.lost = record.lost.saturating_add(lost).saturating_add(more);
        }
        if let Some(last) = looks.last()
            && looks.len() < LOOKS_MAX
            && clock::now().saturating_sub(last.time_ns) >= LOOK_EVERY.as_nanos() as u64
        {
            // One that is not to be had now, as the host is busy, is one less.
            if let Ok(look) = self.guest.moment(self.control()) {
                self.metering.looks.push(look);
            }
        }
    }

    /// Waits until a task has turned its loop twice. Not for ever: one that does not run is for the verdict to name.
    fn two_turns(&mut self, cpu: usize) -> Result<(), Ended> {
        let beat = self.heartbeat(cpu);
        let patience = Instant::now() + self.plan.timeouts.timer;
        while self.heartbeat(cpu).wrapping_sub(beat) < 2 && Instant::now() < patience {
            self.pause()?;
        }
        Ok(())
    }

    /// Has them measure no more, and says what they measured.
    pub(super) fn measured(&mut self) -> Result<BTreeMap<usize, GapRecord>, Ended> {
        let cpus: Vec<usize> = self.metering.tasks.keys().copied().collect();
        for &cpu in &cpus {
            // What it is kept from now is measured when that is over.
            self.two_turns(cpu)?;
            let gaps = &self.guest.mailbox().gaps[cpu];
            gaps.threshold.store(0, Ordering::Release);
            // It may just have been about to tell a gap.
            self.two_turns(cpu)?;
        }
        self.fetch_gaps();
        let Metering { tasks, mut looks } = std::mem::take(&mut self.metering);
        looks.push(self.look()?);
        let mut records = BTreeMap::new();
        for (cpu, task) in tasks {
            let TaskMetering {
                begin,
                before,
                mut record,
                ..
            } = task;
            let now = sums(&self.guest.mailbox().gaps[cpu]);
            record.moments = on_its_counter(&looks, begin);
            record.sums = GapSums {
                count: now.count.wrapping_sub(before.count),
                ticks: now.ticks.wrapping_sub(before.ticks),
                longest: now.longest,
            };
            records.insert(cpu, record);
        }
        Ok(records)
    }
}

/// The `looks`, which were taken on another vCPU, as they would have been on that of which `begin` is. The counters go
/// at one pace, but need not agree.
fn on_its_counter(looks: &[Moment], begin: Moment) -> Vec<Moment> {
    let (Some(first), Some(last)) = (looks.first(), looks.last()) else {
        return Vec::new();
    };
    let (ticks, ns) = (
        last.tsc.saturating_sub(first.tsc),
        last.time_ns.saturating_sub(first.time_ns),
    );
    let since = i128::from(begin.time_ns) - i128::from(first.time_ns);
    let since = since * i128::from(ticks) / i128::from(ns.max(1));
    let ahead = i128::from(begin.tsc) - i128::from(first.tsc) - since;
    let mut moments: Vec<Moment> = Vec::with_capacity(looks.len());
    for look in looks {
        let Ok(tsc) = u64::try_from(i128::from(look.tsc) + ahead) else {
            continue;
        };
        let goes_on = |last: &Moment| last.tsc < tsc && last.time_ns < look.time_ns;
        if moments.last().is_none_or(goes_on) {
            let time_ns = look.time_ns;
            moments.push(Moment { tsc, time_ns });
        }
    }
    moments
}

fn sums(gaps: &ipirig_abi::Gaps) -> GapSums {
    GapSums {
        count: gaps.told.count.load(LOAD),
        ticks: gaps.told.ticks.load(LOAD),
        longest: gaps.told.longest.load(LOAD),
    }
}

/// How many ticks make a gap, from two looks at a vCPU and its task's turns.
fn threshold(before: (Moment, u64), after: (Moment, u64)) -> u64 {
    let ticks = after.0.tsc.saturating_sub(before.0.tsc);
    let ns = after.0.time_ns.saturating_sub(before.0.time_ns);
    let turns = after.1.wrapping_sub(before.1);
    let shortest = u128::from(SHORTEST_NS) * u128::from(ticks) / u128::from(ns.max(1));
    let many = u128::from(TURNS) * u128::from(ticks) / u128::from(turns.max(1));
    u64::try_from(shortest.max(many)).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(tsc: u64, time_ns: u64, turns: u64) -> (Moment, u64) {
        (Moment { tsc, time_ns }, turns)
    }

    #[test]
    fn a_gap_is_a_microsecond_or_sixteen_turns_whichever_is_longer() {
        // Three ticks a nanosecond; a turn takes 10 ns, and then 2000.
        let fast = threshold(at(0, 0, 0), at(60_000_000, 20_000_000, 2_000_000));
        let slow = threshold(at(0, 0, 0), at(60_000_000, 20_000_000, 10_000));
        assert_eq!((fast, slow), (3000, 16 * 6000));
    }

    #[test]
    fn moments_of_one_counter_are_those_of_another_that_is_ahead() {
        let moments = |list: &[(u64, u64)]| {
            let each = list.iter().map(|&(tsc, time_ns)| Moment { tsc, time_ns });
            each.collect::<Vec<_>>()
        };
        // Two ticks a nanosecond; the other counter is 700 ahead, and was read 50 ns later.
        let looks = moments(&[(1000, 100), (3000, 1100), (2900, 1150), (5000, 2100)]);
        let begin = moments(&[(1800, 150)]);
        let expected = moments(&[(1700, 100), (3700, 1100), (5700, 2100)]);
        assert_eq!(on_its_counter(&looks, begin[0]), expected);
        assert_eq!(on_its_counter(&[], begin[0]), []);
        let far = moments(&[(u64::MAX, 5), (u64::MAX, 5)]);
        assert_eq!(on_its_counter(&far, begin[0]), moments(&[(1800, 5)]));
    }

    #[test]
    fn a_task_that_does_not_turn_and_a_clock_that_stands_make_no_gap_of_nothing() {
        assert_eq!(threshold(at(5, 5, 5), at(5, 5, 5)), 1);
        assert_eq!(threshold(at(0, 0, 0), at(1000, 500, 0)), 16_000);
        assert_eq!(threshold(at(9, 9, 9), at(0, 0, 0)), 1);
        let far = threshold(at(0, 0, 0), at(u64::MAX, 1, 1));
        assert_eq!(far, u64::MAX);
    }
}
