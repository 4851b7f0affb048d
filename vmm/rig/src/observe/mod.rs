//! Observations: who interrupts the isolated vCPUs while a command runs on the others?
//!
//! An observation goes through the phases of a scenario's run (boot, quiet, window, after), but has a plan
//! of its own: there is no storm, nothing is expected of any vCPU, and a command runs in the window.
//!
//! What this module does not do: judge (`ipirig_verdict::observation` does), walk call chains or name
//! causes ([`ipirig_evidence::blame`]'s makers do), or start programs (the agent does).

pub mod load;

use std::collections::BTreeSet;
use std::time::Duration;

use ipirig_abi::{Flavour, Role};
use ipirig_evidence::Phase;
use ipirig_machine::Host;
use ipirig_scenario::guest_files;
use ipirig_scenario::plan::{GuestPlan, Options, PlanError, Planned};
use ipirig_scenario::{EntryKind, Mode, Partition, Vcpus};

use crate::conductor::{self, GuestFile, Observed, Workload};
use crate::run::{self, Outcome, RunError, Setup};

/// What stands in a result where a scenario has its name.
pub const NAME: &str = "observe";

/// Events kept of one observation, with who sent them and when: an observation is longer than a
/// scenario. Some 80 MB of the host's memory.
const DETAILS: usize = 1 << 20;

/// What is to be observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservationPlan {
    /// The guest: one of [`guest()`].
    pub guest: GuestPlan,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// What the guest is to have for it besides its initramfs.
    pub files: Vec<GuestFile>,
    /// How long it may run.
    pub limit: Duration,
    /// An exit code other than 0 is an end like any other.
    pub any_exit_code: bool,
    /// IPIs that each isolated vCPU may get; `None`: any number.
    pub max_ipis: Option<u64>,
}

impl Planned for ObservationPlan {
    fn guest(&self) -> &GuestPlan {
        &self.guest
    }

    /// The one window ends with the command: nothing enters the kernel for the rig.
    fn entries(&self) -> &[EntryKind] {
        &[]
    }
}

/// Which vCPUs are isolated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IsolatedVcpus {
    /// So many, the last ones.
    Count(usize),
    /// These. The guest has as many vCPUs as it takes to have them.
    These(BTreeSet<usize>),
}

/// Why a guest cannot be observed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObservationError {
    /// There is no such guest.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The one that is asked to be isolated runs the command.
    #[error("vCPU 0 boots, and runs the command: it cannot be isolated")]
    Control,
}

/// The guest of an observation.
///
/// # Errors
///
/// See [`ObservationError`].
pub fn guest(
    isolated: &IsolatedVcpus,
    mut options: Options,
) -> Result<GuestPlan, ObservationError> {
    let (count, housekeeping) = match isolated {
        IsolatedVcpus::Count(count) => (*count, 1),
        IsolatedVcpus::These(cpus) if cpus.contains(&0) => return Err(ObservationError::Control),
        IsolatedVcpus::These(cpus) => {
            let last = cpus.last().copied().unwrap_or(0);
            options.vcpus = None;
            (cpus.len(), last - cpus.len().min(last))
        }
    };
    let vcpus = Vcpus {
        housekeeping,
        isolated: count,
        further: Role::Housekeeping,
        isolated_in: Mode::User,
        isolated_by: Partition::CommandLine,
        housekeeping_in_user: false,
        address_spaces: 0,
    };
    let mut plan = GuestPlan::new(NAME, Flavour::Fast, vcpus, options)?;
    if let IsolatedVcpus::These(cpus) = isolated {
        for (cpu, role) in plan.roles.iter_mut().enumerate().skip(1) {
            *role = if cpus.contains(&cpu) {
                Role::Isolated
            } else {
                Role::Housekeeping
            };
        }
    }
    Ok(plan)
}

/// Observes on `host`. `phase` hears of each phase as it begins.
///
/// # Errors
///
/// See [`RunError`].
pub fn observe(
    host: &Host,
    setup: &Setup<ObservationPlan>,
    phase: &dyn Fn(Phase),
) -> Result<Outcome<Observed>, RunError> {
    let plan = &setup.plan;
    let command = guest_files::command(&plan.command);
    run::on_machine(
        host,
        setup,
        DETAILS,
        phase,
        |machine, start, layout, ledger, phase| {
            let workload = Workload {
                command: &command,
                files: &plan.files,
                limit: plan.limit,
            };
            conductor::observe(machine, &plan.guest, workload, start, layout, ledger, phase)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use Role::{Control as C, Housekeeping as H, Isolated as I};

    fn roles(isolated: &IsolatedVcpus) -> Result<Vec<Role>, ObservationError> {
        guest(isolated, Options::default()).map(|plan| plan.roles)
    }

    #[test]
    fn no_entry_ends_what_is_observed() {
        let plan = ObservationPlan {
            guest: guest(&IsolatedVcpus::Count(1), Options::default()).unwrap(),
            command: Vec::new(),
            files: Vec::new(),
            limit: Duration::ZERO,
            any_exit_code: false,
            max_ipis: None,
        };
        assert_eq!(plan.entries(), []);
    }

    #[test]
    fn the_vcpus_of_a_list_are_isolated_and_the_others_keep_house() {
        let these = |cpus: &[usize]| IsolatedVcpus::These(cpus.iter().copied().collect());
        for (isolated, expected) in [
            (IsolatedVcpus::Count(1), vec![C, H, I]),
            (IsolatedVcpus::Count(2), vec![C, H, I, I]),
            (these(&[1]), vec![C, I]),
            (these(&[1, 2, 3, 5]), vec![C, I, I, I, H, I]),
            (these(&[2]), vec![C, H, I]),
        ] {
            assert_eq!(roles(&isolated), Ok(expected), "{isolated:?}");
        }
        assert_eq!(roles(&these(&[0, 1])), Err(ObservationError::Control));
    }
}
