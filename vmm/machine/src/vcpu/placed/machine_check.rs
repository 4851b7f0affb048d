//! A #MC that is no error: no bank has one, and the program that it interrupts can go on.

use vmm_sys_util::errno;

use super::super::Vcpu;
use crate::msr;

/// Vector of a #MC.
pub(super) const MACHINE_CHECK: u8 = 18;
/// IA32_MCG_STATUS (SDM vol. 3, 16.3.1.2).
const MCG_STATUS: u32 = 0x17a;
/// In it: RIPV, the program can go on where it was; MCIP, a #MC is in progress; LMCE_S, no other CPU hears of it,
/// so that the handler does not wait for them.
const STATUS: u64 = 1 | 1 << 2 | 1 << 3;

impl Vcpu {
    /// Raises a #MC before the next instruction.
    pub(super) fn deliver_machine_check(&self) -> Result<(), errno::Error> {
        msr::write(&self.fd, MCG_STATUS, STATUS)?;
        let mut events = self.fd.get_vcpu_events()?;
        events.exception.injected = 1;
        events.exception.nr = MACHINE_CHECK;
        events.exception.has_error_code = 0;
        self.fd.set_vcpu_events(&events)
    }
}
