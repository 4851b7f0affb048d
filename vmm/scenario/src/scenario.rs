//! Scenarios: what to provoke, on which vCPUs, and what must hold. [`Scenario::find`] reads one from TOML.

use ipirig_abi::{Flavour, Order, Role};
use std::collections::BTreeMap;

use crate::entry::{EntryKind, Trigger};
use crate::storm::Storm;

/// A scenario that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Its name, as the user types it.
    pub name: String,
    /// The claim it belongs to: `text`, `tlb`, ...
    pub group: String,
    /// One line for `ipirig list`.
    pub summary: String,
    /// Which of the reference kernels has what the storm needs.
    pub kernel: Flavour,
    /// The vCPUs besides the control vCPU.
    pub vcpus: Vcpus,
    /// What to provoke.
    pub storm: Storm,
    /// By which ways the isolated vCPUs enter the kernel afterwards: a window each. Not empty.
    pub entries: Vec<EntryKind>,
    /// Before which of the changes that the storm makes the isolated vCPUs enter the kernel, to stay there
    /// until it is over: a window each. The first is 1. Empty: they do not.
    pub enter_before: Vec<u64>,
    /// What must hold.
    pub expect: Expectations,
}

/// How many vCPUs of which role a scenario wants. There is always one control vCPU more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vcpus {
    /// Housekeeping vCPUs, 0 to 62.
    pub housekeeping: usize,
    /// Isolated vCPUs, 1 to 63.
    pub isolated: usize,
    /// The role of vCPUs that the user asks for beyond these.
    pub further: Role,
    /// Where the isolated vCPUs are while the storm runs.
    pub isolated_in: Mode,
    /// What keeps other tasks off the isolated vCPUs.
    pub isolated_by: Partition,
    /// Whether each housekeeping vCPU is in a user-space loop while the storm runs; else it idles.
    pub housekeeping_in_user: bool,
    /// Address spaces besides its task's that each isolated vCPU uses before the window, and that the
    /// entry after it goes through; 0 to 16.
    pub address_spaces: u64,
}

/// What keeps the scheduler from putting other tasks on isolated CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Partition {
    /// `isolcpus=domain` on the kernel's command line.
    #[default]
    CommandLine,
    /// A cpuset whose `cpuset.cpus.partition` becomes `isolated` once the guest has booted
    /// (Documentation/admin-guide/cgroup-v2.rst).
    Cpuset,
}

/// Where a vCPU is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In user space.
    #[default]
    User,
    /// In a system call that does not sleep.
    Kernel,
    /// Idle: its task sleeps in a system call.
    Idle,
    /// Idle, and no task has run on it since it was booted.
    Unused,
    /// The same, and it has been offline since.
    Replugged,
}

impl Mode {
    /// Whether the vCPU has a task, which obeys orders.
    #[must_use]
    pub fn has_task(self) -> bool {
        matches!(self, Self::User | Self::Kernel | Self::Idle)
    }

    /// Whether the vCPU waits in HLT.
    #[must_use]
    pub fn idles(self) -> bool {
        matches!(self, Self::Idle | Self::Unused | Self::Replugged)
    }
}

/// What must hold in the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectations {
    /// IPIs that target each isolated vCPU.
    pub isolated: IsolatedIpis,
    /// Fewest IPIs that must target each housekeeping vCPU.
    pub housekeeping_ipis_min: u64,
    /// Fewest IPIs of a cause that must target each vCPU that nothing may be deferred for, by the
    /// cause's name: those of another cause do not make up for one that is lost.
    pub by_cause: BTreeMap<String, u64>,
    /// Whether what isolated vCPUs execute for each IPI is followed, and has to be what it was sent for.
    pub handlers: bool,
}

/// How many IPIs each isolated vCPU may or must get in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsolatedIpis {
    /// Deferring is right: no more than this.
    AtMost(u64),
    /// Deferring would be a bug: no fewer than this.
    AtLeast(u64),
}

impl Scenario {
    /// Whether the guest must have the module: the storm is made by it, or isolated tasks stay in the kernel, awake or
    /// asleep, until somebody lets them go.
    #[must_use]
    pub fn needs_module(&self) -> bool {
        let stays = matches!(self.vcpus.isolated_in, Mode::Kernel | Mode::Idle);
        stays || !self.enter_before.is_empty() || self.storm.needs_module()
    }

    /// How to provoke `entry`, in a guest that has the module or not: if it is to go through several
    /// address spaces, in the order for that.
    #[must_use]
    pub fn trigger(&self, entry: EntryKind, module: bool) -> Trigger {
        match entry.trigger(module) {
            Trigger::Order(Order::Probe) if self.vcpus.address_spaces > 0 => {
                Trigger::Order(Order::Relay)
            }
            trigger => trigger,
        }
    }
}

impl Expectations {
    /// Whether IPIs to isolated vCPUs must be delivered.
    #[must_use]
    pub fn delivered(&self) -> bool {
        matches!(self.isolated, IsolatedIpis::AtLeast(_))
    }

    /// Whether IPIs take isolated vCPUs out of user space, though the scenario holds.
    #[must_use]
    pub fn interrupted(&self) -> bool {
        self.isolated != IsolatedIpis::AtMost(0)
    }
}
