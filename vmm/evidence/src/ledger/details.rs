//! The window's events, one record each, in a buffer of fixed size that any thread may append to.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{Delivery, Write};

/// One recorded event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// A vCPU wrote its ICR.
    Write(Write),
    /// A vCPU took an interrupt.
    Delivery(Delivery),
}

/// An append-only buffer. Places are handed out by one atomic counter, so that writers never meet;
/// when they run out, events are counted and dropped. The first events are kept, not the last: how
/// a violation began is what people ask.
#[derive(Debug)]
pub struct Details {
    slots: Box<[OnceLock<Detail>]>,
    pushed: AtomicUsize,
}

impl Details {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            slots: (0..capacity).map(|_| OnceLock::new()).collect(),
            pushed: AtomicUsize::new(0),
        }
    }

    pub(super) fn push(&self, detail: Detail) {
        let place = self.pushed.fetch_add(1, Relaxed);
        if let Some(slot) = self.slots.get(place) {
            // Each place is handed out once, so it is empty and nobody waits.
            let _ = slot.set(detail);
        }
    }

    /// Events that did not fit.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.pushed.load(Relaxed).saturating_sub(self.slots.len()) as u64
    }

    /// The events that fit, in the order in which they were recorded. One that is being written at
    /// this moment is left out.
    pub fn iter(&self) -> impl Iterator<Item = &Detail> {
        self.slots
            .iter()
            .take(self.pushed.load(Relaxed))
            .filter_map(OnceLock::get)
    }
}
