//! The document of one run.

use std::collections::BTreeMap;

use ipirig_checks::check::{Check, Verdict};
use ipirig_checks::recorded::RecordedEntry;
use ipirig_crosscheck::CrossCheck;
use ipirig_entry::Audit;
use ipirig_evidence::blame::{Attribution, Deferrable, Frame, Taken};
use ipirig_machine::HostFacts;
use ipirig_verdict::result::{KernelInfo, MachineInfo, RunResult, ScenarioInfo, Timing, Vcpu};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::SCHEMA_VERSION;

/// All there is to say about a run.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[schemars(rename = "RunResult")]
pub struct RunDocument<'a> {
    /// [`SCHEMA_VERSION`].
    #[schemars(extend("const" = SCHEMA_VERSION))]
    pub schema_version: u32,
    /// The verdict on the checks.
    pub verdict: Verdict,
    /// Whether the verdict is on isolation alone, as `--isolation-only` asks for: `held` then does not say
    /// that deferred work was done.
    pub isolation_only: bool,
    /// What was run.
    pub scenario: ScenarioDocument<'a>,
    /// The named checks.
    pub checks: &'a [Check],
    /// By vCPU; empty if the run ended before there was evidence.
    pub vcpus: &'a [Vcpu],
    /// The first entry of each isolated vCPU after each window.
    pub entries: Vec<EntryDocument<'a>>,
    /// IPIs of the window by cause and call chain, most sends first.
    pub blame: Vec<Blame>,
    /// The ledger beside the guest's own trace; absent if nobody asked or there is no such trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_check: Option<&'a CrossCheck>,
    /// How long it took.
    pub timing: Timing,
    /// What was booted; absent if it did not come to that.
    pub kernel: Option<&'a KernelInfo>,
    /// The virtual machine; absent if there was none.
    pub machine: Option<&'a MachineInfo>,
    /// The host; absent if it has no usable KVM.
    pub host: Option<&'a HostFacts>,
    /// Registers, code and last console lines, if the guest ended badly.
    pub report: Option<&'a str>,
}

/// What was run.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[schemars(rename = "ScenarioInfo")]
pub struct ScenarioDocument<'a> {
    /// Its name; that of a second run of it in the same suite ends in `:2`.
    pub name: &'a str,
    /// Its group.
    pub group: &'a str,
    /// The storm, in words.
    pub storm: &'a str,
    /// Operations asked for, in all windows together.
    pub operations: u64,
    /// Whether the kernel was told to defer.
    pub deferral: bool,
}

/// The first entry of an isolated vCPU after a window.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[schemars(rename = "RecordedEntry")]
pub struct EntryDocument<'a> {
    /// The vCPU.
    pub cpu: usize,
    /// The entry kind, by its name in scenario files.
    pub kind: &'static str,
    /// What the record says; absent if there is none.
    pub audit: Option<&'a Audit>,
    /// Why there is no audit.
    pub why: Option<&'a str>,
}

/// IPIs of the window with one origin.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Blame {
    /// The named cause, such as `static key` or `vunmap`; `unknown` if no rule knows the chain.
    pub cause: String,
    /// The function that asked for it, where the cause says only what was asked for, as `queued work` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Whether a CPU in user space could do without this IPI.
    pub deferrable: Deferrable,
    /// The vector or delivery mode, by its name.
    pub kind: String,
    /// The vCPU that sent.
    pub source: usize,
    /// How many were sent to each vCPU.
    pub targets: BTreeMap<usize, u64>,
    /// What the targets were doing when they took it.
    pub taken: Taken,
    /// The sender's calls, innermost first.
    pub chain: Vec<Frame>,
    /// Why the chain ends where it does, if that is not its natural end.
    pub broken: Option<String>,
}

impl<'a> From<&'a RunResult> for RunDocument<'a> {
    fn from(result: &'a RunResult) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            verdict: result.verdict,
            isolation_only: result.isolation_only,
            scenario: (&result.scenario).into(),
            checks: &result.checks,
            vcpus: &result.vcpus,
            entries: result.entries.iter().map(Into::into).collect(),
            blame: result.blame.iter().map(Into::into).collect(),
            cross_check: result.cross_check.as_ref(),
            timing: result.timing,
            kernel: result.kernel.as_ref(),
            machine: result.machine.as_ref(),
            host: result.host.as_ref(),
            report: result.report.as_deref(),
        }
    }
}

impl<'a> From<&'a ScenarioInfo> for ScenarioDocument<'a> {
    fn from(scenario: &'a ScenarioInfo) -> Self {
        Self {
            name: &scenario.name,
            group: &scenario.group,
            storm: &scenario.storm,
            operations: scenario.operations,
            deferral: scenario.deferral,
        }
    }
}

impl<'a> From<&'a RecordedEntry> for EntryDocument<'a> {
    fn from(entry: &'a RecordedEntry) -> Self {
        Self {
            cpu: entry.cpu,
            kind: entry.kind,
            audit: entry.audit.as_ref(),
            why: entry.why.as_deref(),
        }
    }
}

impl From<&Attribution> for Blame {
    fn from(attribution: &Attribution) -> Self {
        Self {
            cause: attribution.cause.clone(),
            by: attribution.by.clone(),
            deferrable: attribution.deferrable,
            kind: attribution.kind.clone(),
            source: attribution.source,
            targets: attribution.targets.clone(),
            taken: attribution.taken,
            chain: attribution.chain.clone(),
            broken: attribution.broken.clone(),
        }
    }
}

impl RunDocument<'_> {
    /// Indented JSON with a newline at its end.
    ///
    /// # Errors
    ///
    /// serde_json's; none of the types here can cause one.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        crate::json(self)
    }
}

#[cfg(test)]
mod tests {
    use ipirig_fake::{Script, evidence, plan};

    use ipirig_checks as checks;
    use ipirig_checks::check::{self, Check};
    use ipirig_rig::run::KernelFiles;
    use ipirig_verdict::result::KernelInfo;

    use super::*;

    #[test]
    fn json_has_the_fields_that_readers_rely_on() {
        let (plan, evidence) = evidence("static-key-flip", None, Script::default());
        let mut result = RunResult::new(&plan, checks::judge(&plan, &evidence).0);
        result.kernel = Some(KernelInfo::new(&KernelFiles::new("k", "i"), "quiet"));
        let json = RunDocument::from(&result.with_evidence(&plan, &evidence))
            .to_json()
            .unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["schema_version"], 3);
        assert_eq!(json["verdict"], "held");
        assert_eq!(json["isolation_only"], false);
        assert_eq!(json["checks"][0]["name"], "isolated-ipis");
        assert_eq!(json["checks"][0]["status"], "held");
        assert_eq!(json["kernel"]["release"], "6.12.1-fake");
        assert!(json["timing"]["window_s"].is_f64());
        assert_eq!(
            json["vcpus"][1],
            serde_json::json!({
                "id": 1,
                "role": "housekeeping",
                "window": {
                    "ipis_targeted": 101,
                    "ipi_deliveries": 101,
                    "ipi_writes": 0,
                    "coalesced": 0,
                    "by_vector": {"call-function": 101},
                    "by_source": {"0": 101},
                    "other_interrupts": {},
                },
                "deferred": 0,
                "caught_up": 0,
            })
        );
        assert_eq!(json["vcpus"][2]["window"]["ipis_targeted"], 0);
        assert_eq!(
            (
                &json["vcpus"][2]["deferred"],
                &json["vcpus"][2]["caught_up"]
            ),
            (&303.into(), &303.into())
        );
    }

    #[test]
    fn a_run_that_never_began_is_a_result_too() {
        let plan = plan("vunmap-storm", None);
        let check = Check::new(check::RUN, Verdict::Skipped, "no /dev/kvm");
        let result = RunResult::new(&plan, vec![check]);
        let json = RunDocument::from(&result).to_json().unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "schema_version": 3,
                "verdict": "skipped",
                "isolation_only": false,
                "scenario": {
                    "name": "vunmap-storm",
                    "group": "tlb",
                    "storm": "100 rounds of vmalloc and vfree, 8 pages each",
                    "operations": 100,
                    "deferral": true,
                },
                "checks": [{"name": "run", "status": "skipped", "evidence": "no /dev/kvm"}],
                "vcpus": [],
                "entries": [],
                "blame": [],
                "timing": {"boot_s": null, "restored_s": null, "window_s": null, "total_s": 0.0},
                "kernel": null,
                "machine": null,
                "host": null,
                "report": null,
            })
        );
    }
}
