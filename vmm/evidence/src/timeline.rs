//! What happened when in a run: for pictures of it (`ipirig-pictures`), not for verdicts.
//!
//! All times are nanoseconds of the machine's clock. Bounded by the ledger, which keeps the first
//! events of the windows and counts the others.

use std::cell::RefCell;
use std::collections::HashMap;

use ipirig_scenario::EntryKind;

use crate::Phase;
use crate::ledger::changes::Sighting;
use crate::ledger::{Delivery, Detail, Doing, Ledger, Write};
use crate::vectors::Kind;

/// A run by time. Events are those of the windows, each list in the order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// The phases, one after the other.
    pub phases: Vec<Span<Phase>>,
    /// The windows, by the entry kind that ends each; empty where none does.
    pub windows: Vec<Span<&'static str>>,
    /// The storm's parts, by number in the scenario.
    pub storms: Vec<Span<usize>>,
    /// Entries of isolated vCPUs after the windows.
    pub entries: Vec<Span<Entered>>,
    /// ICR writes.
    pub writes: Vec<Write>,
    /// Interrupts taken.
    pub deliveries: Vec<Delivery>,
    /// Text patched and mappings flushed.
    pub changes: Vec<Sighting>,
    /// Writes and deliveries for which there was no place.
    pub left_out: u64,
}

/// A stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<T> {
    /// Its begin.
    pub from_ns: u64,
    /// Its end, not before its begin.
    pub to_ns: u64,
    /// What it is.
    pub what: T,
}

impl<T> Span<T> {
    /// The same stretch, called something else.
    pub fn with<U>(&self, what: U) -> Span<U> {
        Span {
            from_ns: self.from_ns,
            to_ns: self.to_ns,
            what,
        }
    }
}

/// Who entered the kernel, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// The vCPU.
    pub cpu: usize,
    /// The entry kind, by its name in scenario files.
    pub kind: &'static str,
}

/// One IPI on its way from a vCPU to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journey<'a> {
    /// The write that sent it.
    pub write: &'a Write,
    /// The vCPU that it was sent to.
    pub target: usize,
    /// The interrupt that came of it; several sends may share one. `None`: none was seen before the
    /// window closed.
    pub taken: Option<&'a Delivery>,
}

/// When which phase began.
#[derive(Debug, Default)]
pub struct Diary {
    begun: RefCell<Vec<(Phase, u64)>>,
}

impl Diary {
    /// `phase` begins.
    pub fn begin(&self, phase: Phase, now_ns: u64) {
        self.begun.borrow_mut().push((phase, now_ns));
    }

    fn phases(&self, ended_ns: u64) -> Vec<Span<Phase>> {
        let begun = self.begun.borrow();
        let ends = begun.iter().skip(1).map(|(_, next)| *next);
        begun
            .iter()
            .zip(ends.chain([ended_ns]))
            .map(|(&(what, from_ns), to_ns)| Span {
                from_ns,
                to_ns: to_ns.max(from_ns),
                what,
            })
            .collect()
    }
}

impl Timeline {
    /// What `ledger` and `diary` have of a run that ended at `ended_ns`, and whose windows were ended by
    /// `entries`, if by any.
    #[must_use]
    pub fn new(entries: &[EntryKind], ledger: &Ledger, diary: &Diary, ended_ns: u64) -> Self {
        let mut timeline = Self {
            phases: diary.phases(ended_ns),
            changes: ledger.changes().sightings(),
            left_out: ledger.details().dropped(),
            ..Self::default()
        };
        for detail in ledger.details().iter() {
            match detail {
                Detail::Write(write) => timeline.writes.push(*write),
                Detail::Delivery(delivery) => timeline.deliveries.push(*delivery),
            }
        }
        // Threads record in turns; two that meet may do so in the wrong order.
        timeline.writes.sort_by_key(|write| write.time_ns);
        timeline.deliveries.sort_by_key(|delivery| delivery.time_ns);
        timeline.changes.sort_by_key(|change| change.time_ns);

        let mut kind = "";
        let mut ways = entries.iter();
        for stretch in ledger.journal().stretches() {
            let (from_ns, to_ns) = (stretch.from_ns, stretch.to_ns.unwrap_or(ended_ns));
            match stretch.doing {
                Doing::Window => {
                    kind = ways.next().map_or("", |way| way.name());
                    timeline.windows.push(Span {
                        from_ns,
                        to_ns,
                        what: kind,
                    });
                }
                Doing::Storm { part } => timeline.storms.push(Span {
                    from_ns,
                    to_ns,
                    what: part,
                }),
                Doing::Entry { cpu } => timeline.entries.push(Span {
                    from_ns,
                    to_ns,
                    what: Entered { cpu, kind },
                }),
            }
        }
        timeline
    }

    /// When the run began and ended; `None` if nothing is known of it.
    #[must_use]
    pub fn extent(&self) -> Option<(u64, u64)> {
        let from = self.phases.first()?.from_ns;
        let to = self.phases.last()?.to_ns;
        Some((from, to))
    }

    /// Each IPI with the interrupt that came of it, in the order in which they were sent.
    ///
    /// An APIC has one place for each vector: a vCPU that takes a vector takes all sends of it that
    /// are on their way (SDM vol. 3, 11.8.4). So no send needs a number to be found again.
    #[must_use]
    pub fn journeys(&self) -> Vec<Journey<'_>> {
        let mut journeys: Vec<Journey<'_>> = Vec::new();
        let mut under_way: HashMap<(usize, Kind), Vec<usize>> = HashMap::new();
        let mut arrivals = self.deliveries.iter().filter(|d| d.ipi).peekable();
        // After the last write whatever is left arrives.
        let writes = self.writes.iter().map(Some).chain([None]);
        for write in writes {
            let until = write.map_or(u64::MAX, |write| write.time_ns);
            while let Some(taken) = arrivals.next_if(|d| d.time_ns < until) {
                let sent = under_way.remove(&(taken.cpu, taken.kind));
                for index in sent.unwrap_or_default() {
                    if let Some(journey) = journeys.get_mut(index) {
                        journey.taken = Some(taken);
                    }
                }
            }
            let Some(write) = write else { break };
            for target in write.targets.iter() {
                let sent = under_way.entry((target, write.kind)).or_default();
                sent.push(journeys.len());
                journeys.push(Journey {
                    write,
                    target,
                    taken: None,
                });
            }
        }
        journeys
    }
}

#[cfg(test)]
mod tests {
    use ipirig_machine::WatchEvent;
    use ipirig_scenario::Scenario;
    use ipirig_scenario::plan::{Options, Plan};

    use super::*;
    use ipirig_apic::CpuSet;

    use crate::ledger::changes::{Change, Point};

    const CALL: Kind = Kind::Vector(0xfc);

    fn write(time_ns: u64, source: usize, targets: u64) -> Write {
        Write {
            time_ns,
            source,
            kind: CALL,
            targets: CpuSet::from_bits(targets),
            coalesced: CpuSet::EMPTY,
            undeliverable: false,
            rip: 0,
            chain: None,
        }
    }

    fn delivery(time_ns: u64, cpu: usize, kind: Kind, ipi: bool) -> Delivery {
        Delivery {
            time_ns,
            cpu,
            kind,
            ipi,
            user: true,
            idle: false,
            due: None,
        }
    }

    #[test]
    fn a_delivery_ends_the_journeys_of_all_sends_of_its_vector_and_of_no_other() {
        let timeline = Timeline {
            writes: vec![write(10, 0, 0b110), write(20, 1, 0b100), write(50, 0, 0b10)],
            deliveries: vec![
                delivery(5, 2, CALL, true),
                delivery(15, 1, CALL, true),
                delivery(25, 2, CALL, false),
                delivery(26, 2, Kind::Nmi, true),
                delivery(30, 2, CALL, true),
                // Of a send that was not recorded.
                delivery(40, 2, CALL, true),
            ],
            ..Timeline::default()
        };
        let seen: Vec<(u64, usize, Option<u64>)> = timeline
            .journeys()
            .iter()
            .map(|j| (j.write.time_ns, j.target, j.taken.map(|d| d.time_ns)))
            .collect();
        assert_eq!(
            seen,
            [
                (10, 1, Some(15)),
                (10, 2, Some(30)),
                (20, 2, Some(30)),
                (50, 1, None),
            ]
        );
    }

    #[test]
    fn a_run_is_told_in_the_order_of_time_and_what_never_ended_ends_with_it() {
        let scenario = Scenario::find("static-key-flip").unwrap();
        let plan = Plan::new(scenario, Options::default()).unwrap();
        let ledger = Ledger::new(plan.roles.len(), 3);
        let diary = Diary::default();
        diary.begin(Phase::Boot, 100);
        diary.begin(Phase::Storm, 200);
        ledger.changes().watch(vec![Point {
            address: 7,
            change: Change::Text(0, 1),
        }]);
        ledger.open_window();
        ledger.journal().begin(Doing::Storm { part: 0 }, 205);
        ledger.journal().begin(Doing::Entry { cpu: 2 }, 206);
        ledger.journal().end(Doing::Entry { cpu: 2 }, 208);
        ledger.write(&write(220, 0, 0b10));
        ledger.write(&write(210, 0, 0b100));
        ledger.delivery(&delivery(230, 1, CALL, true));
        ledger.delivery(&delivery(231, 2, CALL, true));
        ledger.reached(&WatchEvent {
            time_ns: 215,
            cpu: 0,
            address: 7,
            arguments: [0x10, 5, 0, 0, 0, 0],
        });

        let timeline = Timeline::new(&plan.scenario.entries, &ledger, &diary, u64::MAX);
        let span = |from_ns, to_ns, what| Span {
            from_ns,
            to_ns,
            what,
        };
        assert_eq!(
            timeline.phases,
            [
                span(100, 200, Phase::Boot),
                span(200, u64::MAX, Phase::Storm)
            ]
        );
        assert_eq!(timeline.extent(), Some((100, u64::MAX)));
        let [window] = timeline.windows[..] else {
            panic!("{:?}", timeline.windows)
        };
        assert_eq!((window.to_ns, window.what), (u64::MAX, "syscall"));
        assert_eq!(timeline.storms[0].from_ns, 205);
        assert_eq!(timeline.storms[0].to_ns, u64::MAX);
        let entered = Entered {
            cpu: 2,
            kind: "syscall",
        };
        assert_eq!(timeline.entries[0].what, entered);
        assert_eq!(timeline.entries[0].to_ns, 208);
        assert_eq!(timeline.writes, [write(210, 0, 0b100), write(220, 0, 0b10)]);
        assert_eq!(timeline.deliveries, [delivery(230, 1, CALL, true)]);
        assert_eq!(timeline.left_out, 1);
        let changes: Vec<(u64, u64)> = timeline.changes.iter().map(|c| (c.start, c.end)).collect();
        assert_eq!(changes, [(0x10, 0x15)]);
        assert_eq!(Timeline::default().extent(), None);
    }
}
