//! Holds a vCPU before a change that it is about to make, so that others can be brought somewhere
//! meanwhile.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest hold: a rig that forgets it must not keep the vCPU's thread for good.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Off,
    /// So many changes from now; 1 is the next.
    Before(u64),
    Holding,
}

/// Where a vCPU is held.
#[derive(Debug, Default)]
pub struct Hold {
    state: Mutex<State>,
    released: Condvar,
}

impl Hold {
    /// Holds whoever is about to make the `nth` change from now, the next being the first.
    pub fn before(&self, nth: u64) {
        *self.state() = State::Before(nth.max(1));
    }

    /// Whether somebody is held.
    #[must_use]
    pub fn holding(&self) -> bool {
        *self.state() == State::Holding
    }

    /// Lets go of who is held, and holds nobody from now on.
    pub fn release(&self) {
        *self.state() = State::Off;
        self.released.notify_all();
    }

    /// A vCPU is about to make a change. Returns once it may.
    pub(super) fn pass(&self) {
        let mut state = self.state();
        match *state {
            State::Off | State::Holding => {}
            State::Before(nth) if nth > 1 => *state = State::Before(nth - 1),
            State::Before(_) => {
                *state = State::Holding;
                let wait = |state: &mut State| *state == State::Holding;
                let (mut state, _) = self
                    .released
                    .wait_timeout_while(state, LIMIT, wait)
                    .unwrap_or_else(PoisonError::into_inner);
                *state = State::Off;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::thread;

    use super::*;

    #[test]
    fn whoever_makes_the_nth_change_waits_before_it_and_nobody_else_does() {
        let hold = Hold::default();
        hold.pass();
        hold.before(2);
        assert!(!hold.holding());
        let made = AtomicU64::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..4 {
                    hold.pass();
                    made.fetch_add(1, SeqCst);
                }
            });
            while !hold.holding() {
                thread::yield_now();
            }
            assert_eq!(made.load(SeqCst), 1);
            hold.release();
        });
        assert_eq!(made.load(SeqCst), 4);
        assert!(!hold.holding());
    }

    #[test]
    fn a_hold_that_is_released_before_it_began_holds_nobody() {
        let hold = Hold::default();
        hold.before(1);
        hold.release();
        hold.pass();
        assert!(!hold.holding());
    }
}
