//! What the kernel changed in the window that other CPUs may have cached: text that it patched,
//! addresses that it unmapped. Seen at the functions that do it, on the vCPUs that run the storm.

use std::sync::{Mutex, OnceLock, PoisonError};

use ipirig_entry::Pending;
use ipirig_machine::WatchEvent;

/// A function of the kernel to stop at, and which of its arguments say what it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Where the function is in the running kernel.
    pub address: u64,
    /// What it changes.
    pub change: Change,
}

/// What a function of the kernel changes. Numbers are places of arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Text: address and length.
    Text(usize, usize),
    /// Mappings: start and end.
    Mappings(usize, usize),
}

/// Functions to watch; of several in a row the first that the kernel has. There are four debug
/// registers, one of which a host's quirk may need.
const FUNCTIONS: [&[(&str, Change)]; 3] = [
    // arch/x86/kernel/alternative.c: text_poke() is a call of __text_poke() that a compiler may
    // inline. The latter's first argument is a function since 6.0.
    &[
        ("__text_poke", Change::Text(1, 3)),
        ("text_poke", Change::Text(0, 2)),
    ],
    // arch/x86/mm/tlb.c: called once the page tables are changed.
    &[("flush_tlb_kernel_range", Change::Mappings(0, 1))],
    // The same for what may be deferred, in the reference series and in those on the lists.
    &[("flush_tlb_kernel_range_deferrable", Change::Mappings(0, 1))],
];

/// The functions to watch in a kernel whose symbols `address` knows. Empty if it lacks one that
/// every kernel has: then not all changes would be seen.
pub fn points(address: impl Fn(&str) -> Option<u64>) -> Vec<Point> {
    let mut points = Vec::new();
    for (index, names) in FUNCTIONS.iter().enumerate() {
        let found = names.iter().find_map(|&(name, change)| {
            let address = address(name)?;
            Some(Point { address, change })
        });
        match found {
            Some(point) => points.push(point),
            // Only the last is a series' own.
            None if index + 1 == FUNCTIONS.len() => {}
            None => return Vec::new(),
        }
    }
    points
}

/// What was changed in one window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Text that was patched.
    pub text: Pending,
    /// Addresses that were unmapped.
    pub translations: Pending,
    /// How often text was patched.
    pub pokes: u64,
    /// How often mappings were flushed.
    pub flushes: u64,
}

impl Changed {
    /// What may have changed where nobody looked, because of `why`.
    #[must_use]
    pub fn everything(why: &str) -> Self {
        Self {
            text: Pending::everything(why),
            translations: Pending::everything(why),
            pokes: 0,
            flushes: 0,
        }
    }
}

/// One change, as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// When, in nanoseconds of the machine's clock.
    pub time_ns: u64,
    /// The vCPU that made it.
    pub cpu: usize,
    /// What was changed.
    pub what: Sighted,
    /// The first address.
    pub start: u64,
    /// The first address after it; of a flush of everything the highest there is.
    pub end: u64,
}

/// What a [`Sighting`] is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighted {
    /// Text was patched.
    Poke,
    /// Mappings were flushed.
    Flush,
}

/// Sightings kept of a run; what comes later is counted in [`Changed`] only.
const SIGHTINGS: usize = 1 << 16;

/// Collects the changes of a window.
#[derive(Debug, Default)]
pub struct Changes {
    points: OnceLock<Vec<Point>>,
    changed: Mutex<Changed>,
    sightings: Mutex<Vec<Sighting>>,
}

impl Changes {
    /// Says once which functions are watched.
    pub fn watch(&self, points: Vec<Point>) {
        // The first time counts: a machine boots one kernel.
        let _ = self.points.set(points);
    }

    /// Takes what has been collected; the next window begins with nothing.
    #[must_use]
    pub fn take(&self) -> Changed {
        std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The changes of all windows, the first 65 536 of them, in the order in which they were
    /// seen.
    #[must_use]
    pub fn sightings(&self) -> Vec<Sighting> {
        self.sightings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn sight(&self, event: &WatchEvent, what: Sighted, start: u64, end: u64) {
        let mut sightings = self
            .sightings
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if sightings.len() < SIGHTINGS {
            sightings.push(Sighting {
                time_ns: event.time_ns,
                cpu: event.cpu,
                what,
                start,
                end,
            });
        }
    }

    pub(super) fn note(&self, event: &WatchEvent) {
        let points = self.points.get().map(Vec::as_slice).unwrap_or_default();
        let Some(point) = points.iter().find(|point| point.address == event.address) else {
            return;
        };
        let argument = |place: usize| event.arguments.get(place).copied().unwrap_or_default();
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        match point.change {
            Change::Text(address, len) => {
                let (address, len) = (argument(address), argument(len));
                changed.pokes = changed.pokes.saturating_add(1);
                let end = address.saturating_add(len);
                changed.text.add(address..end);
                self.sight(event, Sighted::Poke, address, end);
            }
            Change::Mappings(start, end) => {
                changed.flushes = changed.flushes.saturating_add(1);
                // The end of a flush of everything is TLB_FLUSH_ALL, which is the highest address.
                let (start, end) = (argument(start), argument(end));
                changed.translations.add(start..end);
                self.sight(event, Sighted::Flush, start, end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(address: u64, arguments: [u64; 6]) -> WatchEvent {
        WatchEvent {
            time_ns: 0,
            cpu: 0,
            address,
            arguments,
        }
    }

    #[test]
    fn pokes_and_flushes_become_what_is_pending_and_a_window_begins_with_nothing() {
        let changes = Changes::default();
        changes.note(&event(10, [0; 6]));
        assert_eq!(changes.take(), Changed::default(), "nothing is watched yet");
        changes.watch(vec![
            Point {
                address: 10,
                change: Change::Text(1, 3),
            },
            Point {
                address: 20,
                change: Change::Mappings(0, 1),
            },
        ]);
        changes.note(&event(10, [7, 0x1000, 8, 5, 0, 0]));
        changes.note(&event(10, [7, 0x1000, 8, 1, 0, 0]));
        changes.note(&event(20, [0x2000, 0x4000, 0, 0, 0, 0]));
        changes.note(&event(30, [1; 6]));
        let expected = Changed {
            text: std::iter::once(0x1000..0x1005).collect(),
            translations: std::iter::once(0x2000..0x4000).collect(),
            pokes: 2,
            flushes: 1,
        };
        assert_eq!(changes.take(), expected);
        assert_eq!(changes.take(), Changed::default());
        let sighting = |what, start, end| Sighting {
            time_ns: 0,
            cpu: 0,
            what,
            start,
            end,
        };
        assert_eq!(
            changes.sightings(),
            [
                sighting(Sighted::Poke, 0x1000, 0x1005),
                sighting(Sighted::Poke, 0x1000, 0x1001),
                sighting(Sighted::Flush, 0x2000, 0x4000),
            ]
        );
    }

    #[test]
    fn the_first_known_name_of_a_function_is_watched() {
        let names = |known: &'static [(&'static str, u64)]| {
            move |name: &str| known.iter().find(|(n, _)| *n == name).map(|(_, at)| *at)
        };
        let point = |address, change| Point { address, change };
        assert_eq!(
            points(names(&[("text_poke", 1), ("flush_tlb_kernel_range", 2)])),
            [
                point(1, Change::Text(0, 2)),
                point(2, Change::Mappings(0, 1))
            ]
        );
        let ours: &[_] = &[
            ("text_poke", 1),
            ("__text_poke", 5),
            ("flush_tlb_kernel_range", 2),
            ("flush_tlb_kernel_range_deferrable", 3),
        ];
        assert_eq!(
            points(names(ours)),
            [
                point(5, Change::Text(1, 3)),
                point(2, Change::Mappings(0, 1)),
                point(3, Change::Mappings(0, 1))
            ]
        );
        assert_eq!(points(names(&[("text_poke", 1)])), []);
    }
}
