//! Observations: who interrupts the isolated vCPUs while a command runs on the others?
//!
//! An observation takes the way of a scenario (boot, quiet, window, after), with a command in the
//! place of the storm.
//!
//! What this module does not do: judge (`ipirig_verdict::observation` does), walk call chains or name
//! causes ([`ipirig_evidence::blame`]'s makers do), or start programs (the agent does).

pub mod files;
pub mod load;

use std::time::Duration;

use ipirig_abi::Role;
use ipirig_evidence::Phase;
use ipirig_machine::Host;
use ipirig_scenario::plan::{Options, Plan, PlanError};
use ipirig_scenario::{
    EntryKind, Expectations, IsolatedIpis, Kernel, Mode, NO_STORM, Scenario, Storm, Vcpus,
};

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

/// The plan of an observation with so many isolated vCPUs.
///
/// # Errors
///
/// See [`PlanError`].
pub fn plan(isolated: usize, options: Options) -> Result<Plan, PlanError> {
    let scenario = Scenario {
        name: NAME.to_owned(),
        group: NAME.to_owned(),
        summary: "Run a command, and say who interrupted the isolated CPUs".to_owned(),
        kernel: Kernel::Fast,
        vcpus: Vcpus {
            housekeeping: 1,
            isolated,
            further: Role::Housekeeping,
            isolated_in: Mode::User,
            housekeeping_in_user: false,
            address_spaces: 0,
        },
        storm: Storm {
            kind: NO_STORM,
            operations: 0,
            size: 0,
        },
        entries: vec![EntryKind::Syscall],
        enter_before: vec![],
        expect: Expectations {
            isolated: IsolatedIpis::AtMost(u64::MAX),
            housekeeping_ipis_min: 0,
            by_cause: std::collections::BTreeMap::new(),
            handlers: false,
        },
    };
    Plan::new(scenario, options)
}

/// Observes on `host`, by a plan of [`plan()`]. `phase` hears of each phase as it begins.
///
/// # Errors
///
/// See [`RunError`].
pub fn observe(
    host: &Host,
    setup: &Setup,
    request: &ObservationPlan,
    phase: &dyn Fn(Phase),
) -> Result<Outcome<Observed>, RunError> {
    let plan = &setup.plan;
    let command = files::command(&request.command);
    run::on_machine(
        host,
        setup,
        DETAILS,
        phase,
        |guest, start, layout, ledger, phase| {
            let workload = Workload {
                command: &command,
                files: &request.files,
                limit: request.limit,
            };
            conductor::observe(guest, plan, workload, start, layout, ledger, phase)
        },
    )
}
