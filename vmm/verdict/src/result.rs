//! The result of a run, with all that it takes to show it. What of it is written, and how, is
//! `ipirig-document`'s business.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ipirig_abi::Role;
use ipirig_crosscheck::CrossCheck;
use ipirig_entry::Paging;
use ipirig_evidence::blame::Attribution;
use ipirig_evidence::guest_text;
use ipirig_evidence::ledger::Tally;
use ipirig_evidence::timeline::Timeline;
use ipirig_evidence::vectors::Kind;
use ipirig_evidence::{Evidence, KernelSetup};
use ipirig_machine::HostFacts;
use ipirig_rig::run::KernelFiles;
use ipirig_scenario::plan::{GuestPlan, Plan};
use ipirig_scenario::role_name;
use schemars::JsonSchema;
use serde::Serialize;

use ipirig_checks::check::{Check, Verdict};
use ipirig_checks::overall::overall;
use ipirig_checks::recorded::RecordedEntry;

/// All there is to say about a run.
#[derive(Clone, Debug)]
pub struct RunResult {
    /// The verdict on the checks.
    pub verdict: Verdict,
    /// Whether the verdict is on isolation alone, as `--isolation-only` asks for: `held` then does not say
    /// that deferred work was done.
    pub isolation_only: bool,
    /// Whether a suite may hold without this run.
    pub may_skip: bool,
    /// What was run.
    pub scenario: ScenarioInfo,
    /// The named checks.
    pub checks: Vec<Check>,
    /// By vCPU; empty if the run ended before there was evidence.
    pub vcpus: Vec<Vcpu>,
    /// The first entry of each isolated vCPU after each window.
    pub entries: Vec<RecordedEntry>,
    /// IPIs of the window by cause and call chain, most sends first.
    pub blame: Vec<Attribution>,
    /// What happened when; for pictures.
    pub timeline: Timeline,
    /// The ledger beside the guest's own trace; absent if nobody asked or there is no such trace.
    pub cross_check: Option<CrossCheck>,
    /// How long it took.
    pub timing: Timing,
    /// What was booted; absent if it did not come to that.
    pub kernel: Option<KernelInfo>,
    /// The virtual machine; absent if there was none.
    pub machine: Option<MachineInfo>,
    /// The host; absent if it has no usable KVM.
    pub host: Option<HostFacts>,
    /// Registers, code and last console lines, if the guest ended badly.
    pub report: Option<String>,
}

/// What was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScenarioInfo {
    /// Its name; that of a second run of it in the same suite ends in `:2`.
    pub name: String,
    /// Its group.
    pub group: String,
    /// The storm, in words.
    pub storm: String,
    /// Operations asked for, in all windows together.
    pub operations: u64,
    /// Whether the kernel was told to defer.
    pub deferral: bool,
    /// Whether IPIs to isolated vCPUs must be delivered: whether deferring them is a bug.
    pub must_deliver: bool,
}

/// One vCPU.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Vcpu {
    /// Its number.
    pub id: usize,
    /// `control`, `housekeeping` or `isolated`.
    pub role: &'static str,
    /// What it sent and got in the window.
    pub window: Window,
    /// Work that the kernel deferred for it, text and translations together. Absent if the kernel
    /// does not count.
    pub deferred: Option<u64>,
    /// How much of such work its kernel entries did.
    pub caught_up: Option<u64>,
}

/// What a vCPU sent and got in the window.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Window {
    /// IPIs sent to it.
    pub ipis_targeted: u64,
    /// IPIs it took; fewer than were sent where some were merged.
    pub ipi_deliveries: u64,
    /// ICR writes of its own.
    pub ipi_writes: u64,
    /// Sends that found the same interrupt still pending.
    pub coalesced: u64,
    /// IPIs sent to it, by vector or delivery mode.
    pub by_vector: BTreeMap<String, u64>,
    /// IPIs sent to it, by the vCPU that sent.
    pub by_source: BTreeMap<usize, u64>,
    /// Interrupts it took that are no IPIs, by vector.
    pub other_interrupts: BTreeMap<String, u64>,
}

/// How long it took, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, JsonSchema, Serialize)]
pub struct Timing {
    /// From the first instruction to the agent's readiness; null where the guest was restored from a snapshot.
    pub boot_s: Option<f64>,
    /// From looking for a snapshot to the agent's readiness, where there was one.
    pub restored_s: Option<f64>,
    /// From opening the window to closing it.
    pub window_s: Option<f64>,
    /// The whole run.
    pub total_s: f64,
}

impl Timing {
    /// How the guest came to be ready, and in what time.
    #[must_use]
    pub fn ready(&self) -> Option<String> {
        match (self.boot_s, self.restored_s) {
            (Some(boot), _) => Some(format!("boot {boot:.1} s")),
            (None, Some(restored)) => Some(format!("restored in {restored:.2} s")),
            (None, None) => None,
        }
    }
}

/// What was booted.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct KernelInfo {
    /// `uname -r`, if the guest got as far.
    pub release: Option<String>,
    /// The Debian version of the source, if we built it.
    pub package: Option<String>,
    /// A hash of the patches, if we built it.
    pub series: Option<String>,
    /// The kernel file.
    pub path: String,
    /// The initramfs.
    pub initramfs: String,
    /// The whole command line.
    pub cmdline: String,
    /// Whether the guest has `ipirig.ko`, if it got as far.
    pub module: Option<bool>,
    /// How its page tables are set up, if that was seen.
    pub paging: Option<Paging>,
    /// How it is set up otherwise, if the guest says so.
    pub setup: Option<KernelSetup>,
}

/// The virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct MachineInfo {
    /// `xapic` or `x2apic`.
    pub apic: String,
    /// Host core of each vCPU.
    pub cores: Vec<usize>,
    /// Guest memory in MiB.
    pub memory_mib: u64,
    /// What the machine warned of when it placed the vCPUs.
    pub warnings: Vec<String>,
}

impl RunResult {
    /// A result that has only checks: nothing was booted yet.
    #[must_use]
    pub fn new(plan: &Plan, checks: Vec<Check>) -> Self {
        let scenario = &plan.scenario;
        let info = ScenarioInfo {
            name: scenario.name.clone(),
            group: scenario.group.clone(),
            storm: scenario.storm.to_string(),
            operations: scenario.storm.operations() * scenario.entries.len() as u64,
            deferral: plan.deferral,
            must_deliver: scenario.expect.delivered(),
        };
        Self {
            isolation_only: plan.isolation_only,
            ..Self::of(info, overall(plan, &checks), checks)
        }
    }

    /// Drops what is for pictures alone: when each IPI was sent and taken, and the instructions of entries. It is
    /// most of a result.
    pub fn drop_pictures(&mut self) {
        self.timeline = Timeline::default();
        for entry in &mut self.entries {
            entry.listing = None;
        }
    }

    /// The result with this verdict of what `scenario` says was run.
    #[must_use]
    pub fn of(scenario: ScenarioInfo, verdict: Verdict, checks: Vec<Check>) -> Self {
        Self {
            verdict,
            isolation_only: false,
            may_skip: false,
            scenario,
            checks,
            vcpus: Vec::new(),
            entries: Vec::new(),
            blame: Vec::new(),
            timeline: Timeline::default(),
            cross_check: None,
            timing: Timing::default(),
            kernel: None,
            machine: None,
            host: None,
            report: None,
        }
    }

    /// Adds what the conductor saw.
    #[must_use]
    pub fn with_evidence(mut self, plan: &GuestPlan, evidence: &Evidence) -> Self {
        self.vcpus = vcpus(plan, evidence);
        self.blame.clone_from(&evidence.blame);
        self.cross_check = ipirig_crosscheck::compare(plan, evidence).and_then(Result::ok);
        self.timing.window_s = Some(seconds(evidence.window));
        if let Some(kernel) = &mut self.kernel {
            kernel.release = guest_text::release(&evidence.version).map(str::to_owned);
            kernel.module = Some(evidence.module);
            kernel.paging = evidence.paging;
            kernel.setup.clone_from(&evidence.setup);
        }
        self
    }
}

impl KernelInfo {
    /// What is known before the guest says more.
    #[must_use]
    pub fn new(files: &KernelFiles, cmdline: &str) -> Self {
        let shown = |path: &Path| path.display().to_string();
        Self {
            release: None,
            package: files.package.clone(),
            series: files.series.clone(),
            path: shown(&files.kernel),
            initramfs: shown(&files.initramfs),
            cmdline: cmdline.to_owned(),
            module: None,
            paging: None,
            setup: None,
        }
    }
}

/// Seconds, to the microsecond: more digits would be noise.
pub(crate) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}

/// The same of nanoseconds.
pub fn seconds_of_ns(nanoseconds: u64) -> f64 {
    seconds(Duration::from_nanos(nanoseconds))
}

fn vcpus(plan: &GuestPlan, evidence: &Evidence) -> Vec<Vcpu> {
    let counters = match (&evidence.before.counters, &evidence.after.counters) {
        (Ok(Some(before)), Ok(Some(after))) => Some((before, after)),
        _ => None,
    };
    let one = |(id, role): (usize, &Role)| {
        let grown = counters.and_then(|(before, after)| {
            let (before, after) = (before.get(&id)?, after.get(&id)?);
            let text = after.deferred_text.checked_sub(before.deferred_text)?;
            let tlb = after.deferred_tlb.checked_sub(before.deferred_tlb)?;
            Some((
                text.saturating_add(tlb),
                after.caught_up.checked_sub(before.caught_up)?,
            ))
        });
        Vcpu {
            id,
            role: role_name(*role),
            window: evidence
                .ledger
                .cpus
                .get(id)
                .map(|cpu| window(&cpu.window))
                .unwrap_or_default(),
            deferred: grown.map(|(deferred, _)| deferred),
            caught_up: grown.map(|(_, caught_up)| caught_up),
        }
    };
    plan.roles.iter().enumerate().map(one).collect()
}

fn window(tally: &Tally) -> Window {
    let named = |counts: &BTreeMap<Kind, u64>| {
        counts
            .iter()
            .map(|(kind, count)| (kind.to_string(), *count))
            .collect()
    };
    Window {
        ipis_targeted: tally.ipis_targeted(),
        ipi_deliveries: tally.ipi_deliveries(),
        ipi_writes: tally.writes,
        coalesced: tally.coalesced,
        by_vector: named(&tally.targeted),
        by_source: tally.targeted_by.clone(),
        other_interrupts: named(&tally.other),
    }
}

#[cfg(test)]
mod tests {
    use ipirig_fake::{Script, evidence};

    use super::*;

    #[test]
    fn a_result_says_of_each_vcpu_what_it_got_and_what_was_put_off() {
        let (plan, mut evidence) = evidence("static-key-flip", None, Script::default());
        let counts = |vector, count| BTreeMap::from([(Kind::Vector(vector), count)]);
        evidence.ledger.cpus.truncate(2);
        evidence.ledger.cpus[1].window = Tally {
            writes: 2,
            targeted: counts(0xfc, 5),
            targeted_by: BTreeMap::from([(0, 5)]),
            coalesced: 1,
            delivered: counts(0xfc, 4),
            other: counts(0xec, 3),
            ..Tally::default()
        };
        evidence.ledger.cpus[0].window = Tally::default();
        evidence.window = Duration::from_nanos(2_500_000_600);
        let result = RunResult::new(&plan, vec![]).with_evidence(&plan, &evidence);
        let named = |name: &str, count| BTreeMap::from([(name.to_owned(), count)]);
        let got = Window {
            ipis_targeted: 5,
            ipi_deliveries: 4,
            ipi_writes: 2,
            coalesced: 1,
            by_vector: named("call-function", 5),
            by_source: BTreeMap::from([(0, 5)]),
            other_interrupts: named("local-timer", 3),
        };
        let vcpu = |id, role, window, counted| Vcpu {
            id,
            role,
            window,
            deferred: Some(counted),
            caught_up: Some(counted),
        };
        let expected = [
            vcpu(0, "control", Window::default(), 0),
            vcpu(1, "housekeeping", got, 0),
            vcpu(2, "isolated", Window::default(), 303),
        ];
        assert_eq!(result.vcpus, expected);
        assert_eq!(
            result.timing.window_s.map(|s| s.to_string()),
            Some("2.500001".to_owned())
        );
    }

    #[test]
    fn times_are_in_seconds_to_the_microsecond() {
        let said = [0, 499, 1_234_567_890, 60_000_000_000].map(|ns| seconds_of_ns(ns).to_string());
        assert_eq!(said, ["0", "0", "1.234568", "60"]);
    }

    #[test]
    fn it_is_said_how_the_guest_came_to_be_ready() {
        let ready = |boot_s, restored_s| {
            Timing {
                boot_s,
                restored_s,
                ..Timing::default()
            }
            .ready()
        };
        assert_eq!(ready(Some(1.26), None).as_deref(), Some("boot 1.3 s"));
        assert_eq!(
            ready(None, Some(0.126)).as_deref(),
            Some("restored in 0.13 s")
        );
        assert_eq!(ready(None, None), None);
    }
}
