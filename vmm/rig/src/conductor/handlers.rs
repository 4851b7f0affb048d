//! What isolated vCPUs execute for the IPIs of a storm, and their sender for itself: followed part by part.

use std::time::Instant;

use ipirig_abi::Role;
use ipirig_evidence::Handled;
use ipirig_evidence::vectors::CALL_FUNCTION;

use super::{Conductor, Ended};

/// Most instructions that are followed of one interrupt. What it was sent for is among the first few
/// hundred, unless the kernel has to account for time or to wait for another CPU that is stepped first: 20 000 were too
/// few now and then on a host that is slow and busy. Softirqs that come after it have thousands.
const HANDLER_MAX: usize = 50_000;
/// The same of one call that changes text or mappings: the sender waits in it while handlers are stepped.
const CALL_MAX: usize = 100_000;

impl Conductor<'_> {
    /// Has the handlers of call-function IPIs followed on isolated vCPUs, or no more, where the scenario
    /// wants that and the host can.
    pub(super) fn follow_handlers(&mut self, follow: bool) -> Result<(), Ended> {
        if !self.follows_handlers() || self.guest.cannot_stop().is_some() {
            return Ok(());
        }
        let vectors: &[u8] = if follow { &CALL_FUNCTION } else { &[] };
        for cpu in self.isolated.clone() {
            self.machine(|guest| guest.follow(cpu, HANDLER_MAX, vectors))?;
        }
        // The functions are watched there in any case.
        let points = self.watched.iter().flat_map(|watched| &watched.points);
        let addresses: Vec<u64> = points
            .filter(|_| follow)
            .map(|point| point.address)
            .collect();
        for cpu in self.plan.cpus(Role::Control) {
            self.machine(|guest| guest.follow_calls(cpu, CALL_MAX, &addresses))?;
        }
        Ok(())
    }

    /// Takes over what was followed while the storm's part of this number ran. The last handler may be on
    /// its way back when the sender has been told that it is done.
    pub(super) fn take_handled(&mut self, part: usize) -> Result<(), Ended> {
        if !self.follows_handlers() || self.guest.cannot_stop().is_some() {
            return Ok(());
        }
        let senders = self.plan.cpus(Role::Control);
        for cpu in self
            .isolated
            .iter()
            .copied()
            .chain(senders)
            .collect::<Vec<_>>()
        {
            loop {
                if let Some(records) = self.machine(|guest| guest.followed(cpu))? {
                    let handled = |record| Handled { part, cpu, record };
                    self.handled.extend(records.into_iter().map(handled));
                    break;
                }
                if Instant::now() >= self.deadline {
                    break;
                }
                self.pause()?;
            }
        }
        Ok(())
    }
}
