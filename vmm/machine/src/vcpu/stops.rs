//! Where a vCPU stops: breakpoints and steps, whoever wants them. The one user of
//! `KVM_SET_GUEST_DEBUG` (KVM API 4.87).
//!
//! Breakpoints are instruction breakpoints in the four debug registers, so there are at most four
//! addresses; KVM suspends the guest's own use of the registers meanwhile. To continue from one the
//! vCPU steps over it with all of them off, because not every KVM honours RFLAGS.RF.
//!
//! A step is asked for anew before each run: KVM's emulator, which completes accesses to MMIO,
//! clears RFLAGS.TF with the first instruction that it executes (`__kvm_set_rflags` of
//! arch/x86/kvm/x86.c keeps it at the RIP at which the step was asked for, and nowhere else).

use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug,
};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

use super::pushed_flags::PushedFlags;

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
    /// First instructions of the handlers of exceptions that a kernel may raise itself, with their vectors. Delivering
    /// one clears RFLAGS.TF and so would end the steps without a word; while the recorder records,
    /// the vCPU stops there instead.
    pub(super) nested: Vec<(u64, u8)>,
    /// The instruction after the next one that is recorded, if it is known: after some (IRET, SWAPGS)
    /// a KVM may execute one more before it stops.
    pub(super) successor: Option<u64>,
    /// Whether RFLAGS.TF was the guest's own before it was stepped.
    pub(super) own_trap: bool,
    /// What the next instruction stores of RFLAGS, if it is a step and a PUSHF.
    pub(super) pushed_flags: Option<PushedFlags>,
    /// What KVM was told last.
    told: DebugState,
}

/// Why the vCPU executes one instruction at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stepping {
    /// It does not.
    #[default]
    No,
    /// One step, over the breakpoint that it stands on.
    Over {
        /// The guest has set RFLAGS.TF: the step's #DB is the guest's as well.
        trap: bool,
    },
    /// Until the recorder has seen enough.
    Recording {
        /// The instruction that comes next.
        rip: u64,
    },
}

/// What KVM was told of where to stop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum DebugState {
    /// Nothing, or to stop at nothing.
    #[default]
    Nothing,
    /// At these addresses.
    Points(Vec<u64>),
    /// After the next instruction, and at these addresses.
    Step(Vec<u64>),
}

impl Stops {
    /// Whether the next instruction is the only one to be executed. No interrupt may be injected
    /// then: its handler's first instruction would be the one.
    pub(super) fn stepping(&self) -> bool {
        self.stepping != Stepping::No
    }

    /// Drops what the recorder wanted.
    pub(super) fn forget(&mut self) {
        self.entry.clear();
        self.nested.clear();
        self.successor = None;
        self.own_trap = false;
        self.pushed_flags = None;
        self.stepping = Stepping::No;
    }

    /// Whether a record runs.
    pub(super) fn recording(&self) -> bool {
        matches!(self.stepping, Stepping::Recording { .. })
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

    /// What KVM was told last.
    pub(super) fn told(&self) -> &DebugState {
        &self.told
    }

    /// What KVM should be told.
    fn wanted(&self) -> DebugState {
        match self.stepping {
            Stepping::Over { .. } => DebugState::Step(vec![]),
            // A breakpoint where the vCPU stands would stop it there for ever.
            Stepping::Recording { rip } => {
                let nested = self.nested.iter().map(|(address, _)| *address);
                let points = self.successor.into_iter().chain(nested);
                DebugState::Step(points.filter(|&point| point != rip).take(POINTS).collect())
            }
            Stepping::No => match self.points() {
                points if points.is_empty() => DebugState::Nothing,
                points => DebugState::Points(points),
            },
        }
    }

    /// Tells KVM what has changed since it was told last. A step is always asked for anew.
    pub(super) fn apply(&mut self, fd: &VcpuFd) -> Result<(), errno::Error> {
        let wanted = self.wanted();
        if wanted == self.told && !self.stepping() {
            return Ok(());
        }
        fd.set_guest_debug(&request(&wanted))?;
        self.told = wanted;
        Ok(())
    }
}

/// `wanted` as KVM takes it.
fn request(wanted: &DebugState) -> kvm_guest_debug {
    let mut debug = kvm_guest_debug::default();
    let points = match wanted {
        DebugState::Nothing => return debug,
        DebugState::Points(points) => points,
        DebugState::Step(points) => {
            debug.control |= KVM_GUESTDBG_SINGLESTEP;
            points
        }
    };
    // Breakpoints even where there are none: so that the guest's are suspended in a step as well.
    debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    // GE and the bit that is always one; an instruction breakpoint has RW = LEN = 0
    // (SDM vol. 3, 18.2.4).
    debug.arch.debugreg[7] = 0x600;
    for (index, &point) in points.iter().take(POINTS).enumerate() {
        debug.arch.debugreg[index] = point;
        debug.arch.debugreg[7] |= 2 << (2 * index);
    }
    debug
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
    fn a_record_stops_at_nested_handlers_but_not_where_it_stands() {
        let stops = Stops {
            nested: vec![(1, 14), (2, 13), (3, 6), (4, 3)],
            successor: Some(9),
            entry: vec![7],
            stepping: Stepping::Recording { rip: 2 },
            ..Stops::default()
        };
        assert_eq!(stops.wanted(), DebugState::Step(vec![9, 1, 3, 4]));
        let debug = request(&stops.wanted());
        let control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP;
        assert_eq!(debug.control, control);
        assert_eq!(debug.arch.debugreg, [9, 1, 3, 4, 0, 0, 0, 0x6aa]);
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
