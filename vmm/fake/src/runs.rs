//! Whole runs of the guest that follows a script.

use std::collections::BTreeMap;
use std::time::Duration;

use ipirig_evidence::Evidence;
use ipirig_evidence::ledger::{DETAILS, Ledger};
use ipirig_scenario::Scenario;
use ipirig_scenario::plan::{Options, Plan, Timeouts};

use ipirig_rig::conductor::{self, Ended, Observed, Start, Workload, conduct};
use ipirig_rig::observe::{self, ObservationPlan};

use crate::{Fake, Script, kernel};

/// Deadlines short enough for tests.
const TIMEOUTS: Timeouts = Timeouts {
    boot: Duration::from_millis(300),
    prepare: Duration::from_millis(300),
    phase: Duration::from_millis(300),
    quiet: Duration::from_millis(5),
    refused: Duration::from_millis(50),
    timer: Duration::from_millis(100),
    poll: Duration::from_millis(1),
};

/// The same for a guest that is to come to the end, on a host however slow.
const PATIENT: Timeouts = Timeouts {
    boot: Duration::from_secs(60),
    prepare: Duration::from_secs(60),
    phase: Duration::from_secs(60),
    ..TIMEOUTS
};

/// A plan with deadlines short enough for tests.
pub fn plan(scenario: &str, vcpus: Option<usize>) -> Plan {
    let scenario = Scenario::find(scenario).unwrap();
    let mut plan = Plan::new(
        scenario,
        Options {
            vcpus,
            ..Options::default()
        },
    )
    .unwrap();
    plan.timeouts = TIMEOUTS;
    plan
}

/// The evidence of a guest that follows `script`.
pub fn evidence(scenario: &str, vcpus: Option<usize>, script: Script) -> (Plan, Evidence) {
    let mut plan = plan(scenario, vcpus);
    plan.timeouts = PATIENT;
    plan.deferral = script.ipis_per_operation == 0;
    let ledger = Ledger::new(plan.roles.len(), DETAILS);
    let evidence = conduct(
        &mut Fake::new(&plan, &ledger, script),
        &plan,
        Start::Boot,
        Box::new(kernel::layout),
        &ledger,
        &|_| {},
    );
    let evidence = evidence.unwrap();
    plan.deferral = true;
    (plan, evidence)
}

/// The same with the guest's kernel tracing its IPIs.
pub fn traced(script: Script) -> (Plan, Evidence) {
    let mut plan = plan("static-key-flip", None);
    plan.timeouts = PATIENT;
    plan.cross_check = true;
    let ledger = Ledger::new(plan.roles.len(), DETAILS);
    let mut guest = Fake::new(&plan, &ledger, script);
    let layout = Box::new(kernel::layout);
    let evidence = conduct(&mut guest, &plan, Start::Boot, layout, &ledger, &|_| {});
    let evidence = evidence.unwrap();
    (plan, evidence)
}

/// What comes of the observation of a guest that follows a script.
#[derive(Debug)]
pub struct Observing {
    /// By which it was observed.
    pub plan: ObservationPlan,
    /// How that ended.
    pub outcome: Result<Observed, Ended>,
    /// What was recorded; a thousand events fit.
    pub ledger: Ledger,
    /// The files that the guest has afterwards.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// A plan to run `load fork`, and to judge nothing.
pub fn observation_plan() -> ObservationPlan {
    ObservationPlan {
        guest: observe::guest(&observe::IsolatedVcpus::Count(1), Options::default()).unwrap(),
        command: vec!["load".to_owned(), "fork".to_owned()],
        files: vec![],
        limit: Duration::from_millis(10),
        any_exit_code: false,
        max_ipis: None,
    }
}

/// Observes a guest that follows `script`, with deadlines short enough for tests.
pub fn observe(plan: &ObservationPlan, script: Script) -> Observing {
    let mut plan = plan.clone();
    plan.guest.timeouts = Timeouts {
        timer: Duration::from_millis(50),
        ..TIMEOUTS
    };
    let ledger = Ledger::new(plan.guest.roles.len(), 1000);
    let mut guest = Fake::of(&plan.guest, &ledger, script);
    let workload = Workload {
        command: &ipirig_scenario::guest_files::command(&plan.command),
        files: &plan.files,
        limit: plan.limit,
    };
    let layout = Box::new(kernel::layout);
    let outcome = conductor::observe(
        &mut guest,
        &plan.guest,
        workload,
        Start::Boot,
        layout,
        &ledger,
        &|_| {},
    );
    let files = guest.files;
    Observing {
        plan,
        outcome,
        ledger,
        files,
    }
}
