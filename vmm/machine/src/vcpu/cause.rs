//! What a #DB was raised for: what the machine asked for, or something of the guest's own.
//!
//! While KVM is told to stop a vCPU somewhere, each #DB of the guest comes to user space, those that
//! the guest itself has asked for included: by RFLAGS.TF, by DR7.GD, by INT1. Not by its breakpoints,
//! which KVM suspends for as long, unless it emulates the instruction and deals with it by itself.

use super::stops::DebugState;

/// Breakpoints that matched, B0 to B3 (DR6, SDM vol. 3, 18.2.3).
pub(super) const B: u64 = 0xf;
/// Access to a debug register while DR7.GD is set.
const BD: u64 = 1 << 13;
/// Single step.
pub(super) const BS: u64 = 1 << 14;
/// Task switch.
const BT: u64 = 1 << 15;
/// Bits of DR6 that read as one unless a cause clears them (SDM vol. 3, 18.2.3).
const ACTIVE_LOW: u64 = 0xffff_0ff0;
/// DR7.GD, which the CPU clears as it delivers a #DB (SDM vol. 3, 18.2.4).
const GD: u64 = 1 << 13;

/// Whose a #DB is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The machine's alone.
    Machine,
    /// The guest's, with these causes in DR6; none for INT1. Perhaps the machine's as well.
    Guest(u64),
}

/// Whose a #DB with `dr6` is, raised while KVM was `told` to stop. `trap`: the guest has set RFLAGS.TF,
/// as far as that is known.
pub(super) fn cause(dr6: u64, told: &DebugState, trap: bool) -> Cause {
    let (of_machine, of_guest) = match told {
        // Nobody steps but the guest.
        DebugState::Nothing | DebugState::Points(_) => (B, BD | BS | BT),
        DebugState::Step(_) if trap => (B, BD | BS | BT),
        DebugState::Step(_) => (B | BS, BD | BT),
    };
    if dr6 & of_guest == 0 && dr6 & of_machine != 0 {
        Cause::Machine
    } else {
        Cause::Guest(dr6 & of_guest)
    }
}

/// DR6 and DR7 as the CPU leaves them when it delivers a #DB with these `causes`: B0 to B3 are those
/// of this #DB, the rest stays until software clears it (SDM vol. 3, 18.2.3).
pub(super) fn delivered((dr6, dr7): (u64, u64), causes: u64) -> (u64, u64) {
    ((dr6 & !B) | ACTIVE_LOW | causes, dr7 & !GD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breakpoint_of_the_machine_is_its_own_and_a_step_of_the_guest_is_not() {
        let told = DebugState::Points(vec![1, 2]);
        assert_eq!(cause(ACTIVE_LOW | 2, &told, false), Cause::Machine);
        for of_guest in [BS, BD, BT, BD | BS] {
            let dr6 = ACTIVE_LOW | of_guest;
            assert_eq!(cause(dr6, &told, false), Cause::Guest(of_guest));
            // The trap comes first; the breakpoint comes again afterwards.
            assert_eq!(cause(dr6 | 1, &told, false), Cause::Guest(of_guest));
        }
    }

    #[test]
    fn a_step_of_the_machine_is_its_own_unless_the_guest_steps_too() {
        for told in [DebugState::Step(vec![]), DebugState::Step(vec![7])] {
            assert_eq!(cause(ACTIVE_LOW | BS, &told, false), Cause::Machine);
            assert_eq!(cause(ACTIVE_LOW | 1, &told, false), Cause::Machine);
            assert_eq!(cause(ACTIVE_LOW | BS, &told, true), Cause::Guest(BS));
            assert_eq!(cause(ACTIVE_LOW | BD, &told, false), Cause::Guest(BD));
        }
    }

    #[test]
    fn a_cause_that_nobody_has_is_the_guests_int1() {
        for told in [DebugState::Points(vec![1]), DebugState::Step(vec![])] {
            assert_eq!(cause(ACTIVE_LOW, &told, false), Cause::Guest(0));
        }
    }

    #[test]
    fn debug_registers_are_left_as_the_cpu_leaves_them() {
        assert_eq!(
            delivered((ACTIVE_LOW | BT | 9, 0x400 | GD), BS | 2),
            (ACTIVE_LOW | BT | BS | 2, 0x400)
        );
    }
}
