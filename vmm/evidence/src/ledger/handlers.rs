//! When the handlers of IPIs began to execute, on the vCPUs where that is watched.

use std::sync::{Mutex, OnceLock, PoisonError};

use ipirig_machine::WatchEvent;

use crate::details::DETAILS;
use crate::vectors::Kind;

/// The first instructions of the handlers of Linux on x86-64 (arch/x86/include/asm/idtentry.h), and
/// what they handle.
const HANDLERS: [(&str, Kind); 2] = [
    ("asm_sysvec_call_function_single", Kind::Vector(0xfb)),
    ("asm_sysvec_call_function", Kind::Vector(0xfc)),
];

/// A handler that began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handled {
    /// When, in nanoseconds of the machine's clock.
    pub time_ns: u64,
    /// On which vCPU.
    pub cpu: usize,
    /// What it handles.
    pub kind: Kind,
}

/// Collects the windows' beginnings of handlers, as many as the ledger keeps details.
#[derive(Debug, Default)]
pub struct Handlers {
    addresses: OnceLock<Vec<(u64, Kind)>>,
    seen: Mutex<Vec<Handled>>,
}

impl Handlers {
    /// Says once which kernel runs, by what `address` knows of its symbols; gives the addresses to
    /// watch.
    pub fn find(&self, address: impl Fn(&str) -> Option<u64>) -> Vec<u64> {
        let found = HANDLERS.iter();
        let found = found.filter_map(|&(name, kind)| Some((address(name)?, kind)));
        let known = self.addresses.get_or_init(|| found.collect());
        known.iter().map(|&(address, _)| address).collect()
    }

    /// What has been seen, in the order in which it was.
    #[must_use]
    pub fn seen(&self) -> Vec<Handled> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }

    pub(super) fn note(&self, event: &WatchEvent) {
        let known = self.addresses.get().map(Vec::as_slice).unwrap_or_default();
        let Some(&(_, kind)) = known.iter().find(|(address, _)| *address == event.address) else {
            return;
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() < DETAILS {
            seen.push(Handled {
                time_ns: event.time_ns,
                cpu: event.cpu,
                kind,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_is_known_by_the_handlers_address() {
        let handlers = Handlers::default();
        let event = |address| WatchEvent {
            time_ns: 7,
            cpu: 2,
            address,
            arguments: [0; 6],
        };
        handlers.note(&event(0x1000));
        let name = "asm_sysvec_call_function";
        let known = handlers.find(|asked| (asked == name).then_some(0x1000));
        assert_eq!(known, [0x1000]);
        handlers.note(&event(0x1000));
        handlers.note(&event(0x1001));
        let expected = Handled {
            time_ns: 7,
            cpu: 2,
            kind: Kind::Vector(0xfc),
        };
        assert_eq!(handlers.seen(), [expected]);
    }
}
