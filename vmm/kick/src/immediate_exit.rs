//! `kvm_run.immediate_exit`, and `KVM_RUN` around it.
#![expect(unsafe_code, reason = "one byte of a mapping that is another's")]

use crate::atomics::{AtomicU8, Ordering};

/// Why `KVM_RUN` came back without an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoExit<E> {
    /// The vCPU was kicked. The flag is clear again: whoever runs it looks at everything before the next entry.
    Kicked,
    /// KVM refused.
    Failed(E),
}

/// The byte of a vCPU's `kvm_run` that has the next `KVM_RUN` come back at once (KVM API 5, `immediate_exit`). It is
/// read and written on the vCPU's thread only: by this, by the handler of the kick, and by KVM within `KVM_RUN`.
#[derive(Debug)]
pub struct ImmediateExit(*const AtomicU8);

// SAFETY: the pointer is into a mapping that may be used on any thread; the vCPU and this move to its thread together.
unsafe impl Send for ImmediateExit {}

impl ImmediateExit {
    /// That at `byte`.
    ///
    /// # Safety
    /// `byte` is of the vCPU's mapped `kvm_run`, which outlives this value and what is attached by it, and is accessed
    /// in no other way meanwhile, but by KVM.
    #[must_use]
    pub unsafe fn at(byte: *const AtomicU8) -> Self {
        Self(byte)
    }

    pub(crate) fn byte(&self) -> &AtomicU8 {
        // SAFETY: `at` was promised that the byte lives, and is accessed as an atomic.
        unsafe { &*self.0 }
    }

    /// Has the next [`ImmediateExit::enter`] come back before the guest executes anything: KVM completes what the last
    /// exit was for, and [`NoExit::Kicked`] follows.
    pub fn set(&self) {
        raise(self.byte());
    }

    /// The same as after power-up: the next entry is one.
    pub fn clear(&self) {
        self.byte().store(0, Ordering::SeqCst);
    }

    /// One `KVM_RUN`, which `run` does; `kicked` tells its EINTR and EAGAIN. What the caller looks at before this and
    /// finds nothing at, he will not miss: what comes later comes with a kick, and that ends this.
    ///
    /// # Errors
    /// There was no exit; see [`NoExit`].
    pub fn enter<T, E>(
        &self,
        run: impl FnOnce() -> Result<T, E>,
        kicked: impl FnOnce(&E) -> bool,
    ) -> Result<T, NoExit<E>> {
        run().map_err(|error| {
            if !kicked(&error) {
                return NoExit::Failed(error);
            }
            // Clear first, look afterwards: a kick in between is not lost.
            self.clear();
            NoExit::Kicked
        })
    }
}

/// What the kick's handler does.
pub(crate) fn raise(byte: &AtomicU8) {
    byte.store(1, Ordering::SeqCst);
}
