//! What the kernel changed in the window that other CPUs may have cached: text that it patched,
//! addresses that it unmapped. Seen at the functions that do it, on the vCPUs that run the storm.

use std::sync::{Mutex, OnceLock, PoisonError};

use ipirig_entry::Pending;
use ipirig_image::{Function, NoFunction};
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

/// Functions that patch text, the one to watch first: arch/x86/kernel/alternative.c, where text_poke()
/// is a call of __text_poke() that a compiler may inline. The latter's first argument is a function
/// since 6.0.
const TEXT: [(&str, Change); 2] = [
    ("__text_poke", Change::Text(1, 3)),
    ("text_poke", Change::Text(0, 2)),
];
/// Called once the page tables are changed (arch/x86/mm/tlb.c). There are four debug registers, one of
/// which a host's quirk may need.
const FLUSH: &str = "flush_tlb_kernel_range";
/// The same for what may be deferred, in the reference series and in those on the lists.
const FLUSH_DEFERRABLE: &str = "flush_tlb_kernel_range_deferrable";
const MAPPINGS: Change = Change::Mappings(0, 1);

/// Which kinds of changes cannot be watched in a kernel, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blind {
    /// Text that is patched.
    pub text: Option<String>,
    /// Mappings that are flushed.
    pub mappings: Option<String>,
}

/// What is watched in a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// The functions.
    pub points: Vec<Point>,
    /// What is not seen by that.
    pub blind: Blind,
    /// Why it may be that a patch was not seen, if none is.
    pub doubt: Option<String>,
}

/// What to watch in a kernel whose functions `find` finds by their names in the source.
pub fn watched(find: impl Fn(&str) -> Result<Function, NoFunction>) -> Watched {
    let mut watched = Watched::default();
    let found = |name: &str, change| match find(name) {
        Ok(found) if found.altered => Err(format!(
            "the arguments of `{}` may not be those of `{name}`",
            found.symbol
        )),
        Ok(found) => Ok(Point {
            address: found.address,
            change,
        }),
        Err(none) => Err(none.to_string()),
    };
    let [(first, change), (second, other)] = TEXT;
    match (found(first, change), found(second, other)) {
        (Ok(point), _) => watched.points.push(point),
        (Err(why), Ok(point)) => {
            watched.points.push(point);
            watched.doubt = Some(format!("{why}, and `{second}` was not called"));
        }
        (Err(why), Err(_)) => watched.blind.text = Some(why),
    }
    match found(FLUSH, MAPPINGS) {
        Ok(point) => watched.points.push(point),
        Err(why) => watched.blind.mappings = Some(why),
    }
    match (find(FLUSH_DEFERRABLE), found(FLUSH_DEFERRABLE, MAPPINGS)) {
        (_, Ok(point)) => watched.points.push(point),
        // A series' own: a kernel need not have it.
        (Err(none), _) if none.candidates.is_empty() => {}
        (_, Err(why)) => watched.blind.mappings = Some(why),
    }
    watched
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
    /// What could not be watched: all of it counts as changed.
    pub blind: Blind,
}

impl Changed {
    /// What may have changed where nobody looked, because of `why`.
    #[must_use]
    pub fn everything(why: &str) -> Self {
        let blind = Blind {
            text: Some(why.to_owned()),
            mappings: Some(why.to_owned()),
        };
        Self::default().unseen(blind)
    }

    /// The same with what could not be watched.
    #[must_use]
    pub fn with(self, watched: &Watched) -> Self {
        let mut blind = watched.blind.clone();
        if self.pokes == 0 && blind.text.is_none() {
            blind.text.clone_from(&watched.doubt);
        }
        self.unseen(blind)
    }

    fn unseen(mut self, blind: Blind) -> Self {
        if let Some(why) = &blind.text {
            self.text = Pending::everything(why);
        }
        if let Some(why) = &blind.mappings {
            self.translations = Pending::everything(why);
        }
        self.blind = blind;
        self
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

    /// Whether a function at `address` is one that makes changes.
    pub(super) fn knows(&self, address: u64) -> bool {
        let points = self.points.get().map(Vec::as_slice).unwrap_or_default();
        points.iter().any(|point| point.address == address)
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
    use ipirig_image::{KERNEL_HALF, Symbols};

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
            blind: Blind::default(),
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

    /// What is watched in a kernel that has these symbols, 16 bytes apart.
    fn watched_of(names: &[&str]) -> Watched {
        let functions = (1..).zip(names);
        let symbols = Symbols::from_functions(
            functions.map(|(index, name)| (KERNEL_HALF + index * 16, KERNEL_HALF + 0x1000, *name)),
        );
        watched(|name| symbols.function(name))
    }

    fn point(index: u64, change: Change) -> Point {
        Point {
            address: KERNEL_HALF + index * 16,
            change,
        }
    }

    #[test]
    fn the_functions_that_say_what_they_change_are_watched_whatever_is_appended_to_their_names() {
        let expected = Watched {
            points: vec![
                point(2, Change::Text(1, 3)),
                point(3, Change::Mappings(0, 1)),
                point(4, Change::Mappings(0, 1)),
            ],
            ..Watched::default()
        };
        let ours = [
            "text_poke",
            "__text_poke",
            "flush_tlb_kernel_range",
            "flush_tlb_kernel_range_deferrable",
        ];
        assert_eq!(watched_of(&ours), expected);
        let renamed = ours.map(|name| format!("{name}.llvm.1"));
        assert_eq!(
            watched_of(&renamed.each_ref().map(String::as_str)),
            expected
        );
    }

    #[test]
    fn what_cannot_be_watched_is_said_and_the_rest_is_watched() {
        assert_eq!(
            watched_of(&["__text_poke.isra.0", "flush_tlb_kernel_range"]),
            Watched {
                points: vec![point(2, Change::Mappings(0, 1))],
                blind: Blind {
                    text: Some(
                        "the arguments of `__text_poke.isra.0` may not be those of `__text_poke`"
                            .to_owned()
                    ),
                    mappings: None,
                },
                doubt: None,
            }
        );
        let doubled = [
            "__text_poke",
            "flush_tlb_kernel_range",
            "flush_tlb_kernel_range.part.0",
        ];
        assert_eq!(
            watched_of(&doubled).blind.mappings.as_deref(),
            Some(
                "the kernel file has `flush_tlb_kernel_range` more than once: \
                 flush_tlb_kernel_range, flush_tlb_kernel_range.part.0"
            )
        );
        let part = [
            "__text_poke",
            "flush_tlb_kernel_range",
            "flush_tlb_kernel_range_deferrable.part.0",
        ];
        assert!(watched_of(&part).blind.mappings.is_some());
        assert_eq!(
            watched_of(&[]).blind,
            Blind {
                text: Some("the kernel file has no `__text_poke`".to_owned()),
                mappings: Some("the kernel file has no `flush_tlb_kernel_range`".to_owned()),
            }
        );
    }

    #[test]
    fn a_caller_that_may_be_inlined_is_doubted_only_if_it_is_never_seen() {
        let watched = watched_of(&["text_poke", "flush_tlb_kernel_range"]);
        assert_eq!(watched.points[0], point(1, Change::Text(0, 2)));
        assert_eq!(watched.blind, Blind::default());
        let seen = Changed {
            pokes: 1,
            ..Changed::default()
        };
        assert_eq!(seen.clone().with(&watched), seen);
        let unseen = Changed::default().with(&watched);
        let why = "the kernel file has no `__text_poke`, and `text_poke` was not called";
        assert_eq!(unseen.text, Pending::everything(why));
        assert_eq!(unseen.blind.text.as_deref(), Some(why));
        assert_eq!(unseen.translations, Pending::default());
    }
}
