//! Where a vCPU stops: breakpoints and steps, whoever wants them. The one user of
//! `KVM_SET_GUEST_DEBUG` (KVM API 4.87).
//!
//! Breakpoints are instruction breakpoints in the four debug registers, so there are at most four
//! addresses; the guest's own use of the registers is suspended meanwhile. To go on from one the
//! vCPU steps over it with all of them off, because not every KVM honours RFLAGS.RF.

use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug,
};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

/// Debug registers that hold an address (SDM vol. 3, 18.2.1).
const POINTS: usize = 4;

/// What a vCPU stops at, by who asked for it.
#[derive(Debug, Default)]
pub(super) struct Stops {
    /// The assists' breakpoints.
    pub(super) assist: Vec<u64>,
    /// First instructions of the kernel entries that the recorder waits for.
    pub(super) entry: Vec<u64>,
    /// Addresses that the machine's user wants to hear of.
    pub(super) watch: Vec<u64>,
    pub(super) stepping: Stepping,
    /// What KVM was told last.
    told: Told,
}

/// Why the vCPU executes one instruction at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stepping {
    /// It does not.
    #[default]
    No,
    /// One step, over the breakpoint that it stands on.
    Over,
    /// Until the recorder has seen enough.
    Recording,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Told {
    /// Nothing, or to stop at nothing.
    #[default]
    Nothing,
    Points(Vec<u64>),
    Step,
}

impl Stops {
    /// Whether the next instruction is the only one to be executed. No interrupt may be injected
    /// then: its handler's first instruction would be the one.
    pub(super) fn stepping(&self) -> bool {
        self.stepping != Stepping::No
    }

    /// Whether there are registers for all addresses.
    pub(super) fn fits(&self) -> bool {
        self.points().len() <= POINTS
    }

    fn points(&self) -> Vec<u64> {
        let mut points = Vec::with_capacity(POINTS);
        for &point in self.assist.iter().chain(&self.entry).chain(&self.watch) {
            if !points.contains(&point) {
                points.push(point);
            }
        }
        points
    }

    /// Tells KVM what has changed since it was told last.
    pub(super) fn apply(&mut self, fd: &VcpuFd) -> Result<(), errno::Error> {
        let wanted = if self.stepping() {
            Told::Step
        } else {
            match self.points() {
                points if points.is_empty() => Told::Nothing,
                points => Told::Points(points),
            }
        };
        if wanted == self.told {
            return Ok(());
        }
        let mut debug = kvm_guest_debug::default();
        match &wanted {
            Told::Nothing => {}
            Told::Step => debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP,
            Told::Points(points) => {
                debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
                // GE and the bit that is always one; an instruction breakpoint has RW = LEN = 0
                // (SDM vol. 3, 18.2.4).
                debug.arch.debugreg[7] = 0x600;
                for (index, &point) in points.iter().take(POINTS).enumerate() {
                    debug.arch.debugreg[index] = point;
                    debug.arch.debugreg[7] |= 2 << (2 * index);
                }
            }
        }
        fd.set_guest_debug(&debug)?;
        self.told = wanted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_two_want_takes_one_register() {
        let stops = Stops {
            assist: vec![1],
            entry: vec![1, 2, 3],
            watch: vec![3, 4],
            ..Stops::default()
        };
        assert_eq!(stops.points(), [1, 2, 3, 4]);
        assert!(stops.fits());
    }

    #[test]
    fn a_fifth_address_does_not_fit() {
        let stops = Stops {
            assist: vec![1],
            watch: vec![2, 3, 4, 5],
            ..Stops::default()
        };
        assert!(!stops.fits());
    }
}
