//! The rig's own doings by the machine's clock: when a window was open, when the storm ran in it,
//! when an isolated vCPU was let into the kernel. The conductor writes it, at most a few lines a
//! window.

use std::sync::{Mutex, PoisonError};

/// What the rig did in a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// A window was open.
    Window,
    /// The control vCPU ran this part of the storm, counted from 0.
    Storm {
        /// Its number in the scenario.
        part: usize,
    },
    /// An isolated vCPU entered the kernel, and was stepped if the entry was recorded.
    Entry {
        /// The vCPU.
        cpu: usize,
    },
}

/// A stretch of time, in nanoseconds of the machine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// What was done.
    pub doing: Doing,
    /// Its begin.
    pub from_ns: u64,
    /// Its end; `None` while it lasts.
    pub to_ns: Option<u64>,
}

/// The record of what the rig did, in the order in which it began.
#[derive(Debug, Default)]
pub struct Journal {
    stretches: Mutex<Vec<Stretch>>,
}

impl Journal {
    /// Something begins.
    pub fn begin(&self, doing: Doing, from_ns: u64) {
        self.lock().push(Stretch {
            doing,
            from_ns,
            to_ns: None,
        });
    }

    /// What began last of this kind, and has not ended, ends.
    pub fn end(&self, doing: Doing, to_ns: u64) {
        let mut stretches = self.lock();
        let open = stretches
            .iter_mut()
            .rev()
            .find(|stretch| stretch.doing == doing && stretch.to_ns.is_none());
        if let Some(open) = open {
            open.to_ns = Some(to_ns);
        }
    }

    /// What has been written so far.
    #[must_use]
    pub fn stretches(&self) -> Vec<Stretch> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Stretch>> {
        self.stretches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_is_what_began_last_of_its_kind_and_the_rest_stays_open() {
        let journal = Journal::default();
        let (first, second) = (Doing::Storm { part: 0 }, Doing::Storm { part: 1 });
        journal.end(Doing::Window, 1);
        journal.begin(Doing::Window, 2);
        journal.begin(first, 3);
        journal.end(first, 4);
        journal.begin(first, 5);
        journal.begin(second, 6);
        journal.end(first, 7);
        let stretch = |doing, from_ns, to_ns| Stretch {
            doing,
            from_ns,
            to_ns,
        };
        assert_eq!(
            journal.stretches(),
            [
                stretch(Doing::Window, 2, None),
                stretch(first, 3, Some(4)),
                stretch(first, 5, Some(7)),
                stretch(second, 6, None),
            ]
        );
    }
}
