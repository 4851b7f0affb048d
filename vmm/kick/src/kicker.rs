//! The protocol between who kicks and who is kicked.

use std::time::Duration;

use crate::atomics::{AtomicBool, AtomicI32, Ordering, fence};

/// What a host does to a thread, and on it.
pub trait KickedThread {
    /// Makes the thread `id` (of the kernel's numbers) handle the kick's signal soon, and leave `KVM_RUN`.
    fn signal(&self, id: i32);
    /// Leaves a token for [`KickedThread::park`]. To be called only once the thread is known.
    fn unpark(&self);
    /// Waits, on the thread itself, for a token, which it takes, or for as long as it is told. May come back for nothing.
    fn park(&self, longest: Option<Duration>);
}

/// What other threads hold of a vCPU's thread.
///
/// Whoever kicks has left something for the thread to find, and then reads how the thread is to be reached. The thread
/// writes how, and then looks. Each of the two has a sequentially consistent fence between its two steps, so that at least
/// one sees what the other has written (C++20 \[atomics.order\], 4.4): either the one kicks in the right way, or the other
/// finds what was left.
#[derive(Debug, Default)]
pub struct Kicker<T> {
    host: T,
    /// 0 while nobody is there.
    id: AtomicI32,
    parked: AtomicBool,
}

impl<T: KickedThread> Kicker<T> {
    /// Kicks the thread of `host` once that is [reachable](Kicker::reachable).
    pub fn new(host: T) -> Self {
        Self {
            host,
            id: AtomicI32::new(0),
            parked: AtomicBool::new(false),
        }
    }

    /// What reaches the thread.
    pub fn host(&self) -> &T {
        &self.host
    }

    /// Makes the thread look soon at what was left for it. Before it is reachable there is nothing to do: it looks
    /// before it first runs.
    pub fn kick(&self) {
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::Acquire) {
            self.host.unpark();
            return;
        }
        let id = self.id.load(Ordering::Acquire);
        if id != 0 {
            self.host.signal(id);
        }
    }

    /// The kernel's id of the thread, while it is reachable.
    pub fn thread(&self) -> Option<i32> {
        Some(self.id.load(Ordering::SeqCst)).filter(|&id| id != 0)
    }

    /// Parks the calling vCPU thread until a kick or for `longest`, unless `busy` finds something to do once others can
    /// see that the thread parks. The caller looks again afterwards.
    pub fn park(&self, longest: Option<Duration>, busy: impl FnOnce() -> bool) {
        self.parked(true);
        if !busy() {
            self.host.park(longest);
        }
        self.parked(false);
    }

    /// Tells others; what the thread looks at from now on is not older than what they kick for otherwise.
    fn parked(&self, parked: bool) {
        self.parked.store(parked, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// From now on the calling thread, which has this id, is reached by signals; 0: nobody is.
    pub fn reachable(&self, id: i32) {
        self.id.store(id, Ordering::Release);
        fence(Ordering::SeqCst);
    }
}
