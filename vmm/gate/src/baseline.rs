//! What must stay as it is of a run: a small file, which people review.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ipirig_checks::check::Verdict;
use serde::{Deserialize, Serialize};

use super::entries::EntryRelations;
use super::read::{ReadError, Recorded, json, shaped, version};

/// Version of a baseline's layout.
pub const BASELINE_VERSION: u32 = 2;
/// What a baseline is called in errors.
const BASELINE: &str = "baseline";

/// What must stay as it is of a run of one scenario.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// [`BASELINE_VERSION`].
    pub baseline_version: u32,
    /// The scenario.
    pub scenario: String,
    /// Whether the kernel was told to defer.
    pub deferral: bool,
    /// Operations in all windows together.
    pub operations: u64,
    /// How many vCPUs have which role.
    pub vcpus: BTreeMap<String, u64>,
    /// The verdict.
    pub verdict: Verdict,
    /// The status of each check.
    pub checks: BTreeMap<String, Verdict>,
    /// IPIs to isolated vCPUs in the windows, by kind; none of any other kind.
    pub isolated_ipis: BTreeMap<String, Count>,
    /// The roles of the vCPUs that sent those.
    pub isolated_senders: BTreeSet<String>,
    /// IPIs to housekeeping vCPUs in the windows, of all kinds.
    pub housekeeping_ipis: Count,
    /// Work deferred for isolated vCPUs. Absent if the kernel does not count.
    pub deferred: Option<Count>,
    /// How much of such work their entries did.
    pub caught_up: Option<Count>,
    /// What the first entry of an isolated vCPU executed in which order, by entry kind. Empty where
    /// nothing is deferred.
    pub entries: BTreeMap<String, EntryRelations>,
}

/// The tolerances of a baseline, of whatever version: someone may have chosen them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Tolerances {
    #[serde(default)]
    isolated_ipis: BTreeMap<String, Count>,
    housekeeping_ipis: Option<Count>,
    deferred: Option<Count>,
    caught_up: Option<Count>,
}

/// A number, and how far from it another may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// The number.
    pub count: u64,
    /// The largest difference that counts as the same.
    pub tolerance: u64,
}

impl Count {
    /// A number that must be met.
    #[must_use]
    pub fn exact(count: u64) -> Self {
        Self {
            count,
            tolerance: 0,
        }
    }

    fn within(count: u64, tolerance: u64) -> Self {
        Self { count, tolerance }
    }

    /// Whether `other` is close enough.
    #[must_use]
    pub fn allows(self, other: u64) -> bool {
        self.count.abs_diff(other) <= self.tolerance
    }
}

/// Flushes that the kernel makes by itself beside the storm's (vmalloc's lazy purge) are deferred
/// too, and an entry may find them done already.
const DEFERRED_TOLERANCE: u64 = 4;

/// Where isolated CPUs get IPIs at all they are in the kernel at times, and a lazy purge of vmalloc areas that
/// comes then is not deferred. That none is lost which must come is for the check `isolated-ipis`.
const PURGE_TOLERANCE: u64 = 2;

/// Housekeeping vCPUs get what other work in the guest asks for as well, and on a slower machine there
/// is more of it: half as much again, and this many.
const HOUSEKEEPING_TOLERANCE: u64 = 60;

impl Baseline {
    /// What is compared of `run`, with the tolerances that a new baseline begins with
    /// (`results/baseline/README.md` says what they rest on).
    #[must_use]
    pub fn of(run: &Recorded) -> Self {
        let in_role = |role: &'static str| run.vcpus.iter().filter(move |vcpu| vcpu.role == role);
        let mut vcpus = BTreeMap::new();
        for vcpu in &run.vcpus {
            *vcpus.entry(vcpu.role.clone()).or_default() += 1;
        }
        let mut isolated_ipis: BTreeMap<String, Count> = BTreeMap::new();
        for (kind, sent) in in_role("isolated").flat_map(|vcpu| &vcpu.window.by_vector) {
            let count = isolated_ipis
                .entry(kind_of(kind))
                .or_insert(Count::within(0, PURGE_TOLERANCE));
            count.count = count.count.saturating_add(*sent);
        }
        isolated_ipis.retain(|_, count| count.count != 0);
        let housekeeping = in_role("housekeeping").flat_map(|vcpu| vcpu.window.by_vector.values());
        let housekeeping = sum(housekeeping.copied());
        // `None` if any kernel of them does not count.
        let counted = |counts: Option<Vec<u64>>| {
            counts.map(|counts| Count::within(sum(counts.into_iter()), DEFERRED_TOLERANCE))
        };
        let role = |id: &usize| run.vcpus.iter().find(|vcpu| vcpu.id == *id);
        let isolated_senders = in_role("isolated")
            .flat_map(|vcpu| &vcpu.window.by_source)
            .filter(|(_, sent)| **sent != 0)
            .map(|(id, _)| role(id).map_or("unknown".to_owned(), |vcpu| vcpu.role.clone()));
        Self {
            baseline_version: BASELINE_VERSION,
            scenario: run.scenario.base_name().to_owned(),
            deferral: run.scenario.deferral,
            operations: run.scenario.operations,
            vcpus,
            verdict: run.verdict,
            checks: run
                .checks
                .iter()
                .map(|check| (check.name.clone(), check.status))
                .collect(),
            isolated_ipis,
            isolated_senders: isolated_senders.collect(),
            housekeeping_ipis: Count::within(
                housekeeping,
                (housekeeping / 2).saturating_add(HOUSEKEEPING_TOLERANCE),
            ),
            deferred: counted(in_role("isolated").map(|vcpu| vcpu.deferred).collect()),
            caught_up: counted(in_role("isolated").map(|vcpu| vcpu.caught_up).collect()),
            entries: EntryRelations::of(run),
        }
    }

    /// This, with the tolerances of the one that it replaces.
    #[must_use]
    pub fn in_place_of(mut self, old: &Tolerances) -> Self {
        for (kind, count) in &mut self.isolated_ipis {
            keep(count, old.isolated_ipis.get(kind));
        }
        keep(&mut self.housekeeping_ipis, old.housekeeping_ipis.as_ref());
        for (new, old) in [
            (&mut self.deferred, old.deferred),
            (&mut self.caught_up, old.caught_up),
        ] {
            if let Some(new) = new {
                keep(new, old.as_ref());
            }
        }
        self
    }

    /// The baseline's file in `dir`.
    #[must_use]
    pub fn path(dir: &Path, scenario: &str, deferral: bool) -> PathBuf {
        let state = if deferral { "" } else { ".off" };
        dir.join(format!("{scenario}{state}.json"))
    }

    /// The command that makes the baseline of a scenario, for a person to copy.
    #[must_use]
    pub fn accept(scenario: &str, deferral: bool) -> String {
        let off = if deferral { "" } else { " --deferral off" };
        format!("`ipirig gate {scenario}{off} --accept`")
    }

    /// The tolerances in the baseline of a scenario; none where there is none that can be read.
    #[must_use]
    pub fn tolerances(dir: &Path, scenario: &str, deferral: bool) -> Tolerances {
        let value = json(&Self::path(dir, scenario, deferral), BASELINE).ok();
        let tolerances = value.and_then(|value| serde_json::from_value(value).ok());
        tolerances.unwrap_or_default()
    }

    /// Reads the baseline of a scenario; `None` if there is none.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn read(dir: &Path, scenario: &str, deferral: bool) -> Result<Option<Self>, ReadError> {
        let path = Self::path(dir, scenario, deferral);
        let value = match json(&path, BASELINE) {
            Err(ReadError::Unreadable { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Ok(None);
            }
            read => read?,
        };
        let read = ("baseline_version", BASELINE_VERSION);
        let next = || format!("make it anew with {}", Self::accept(scenario, deferral));
        version(&path, BASELINE, &value, read, next)?;
        let baseline: Self = shaped(&path, BASELINE, value)?;
        if (baseline.scenario.as_str(), baseline.deferral) != (scenario, deferral) {
            return Err(ReadError::Other {
                path,
                wanted: BASELINE,
                reason: format!(
                    "it is of {:?}, deferral {}",
                    baseline.scenario,
                    if baseline.deferral { "on" } else { "off" }
                ),
            });
        }
        Ok(Some(baseline))
    }

    /// The file's text.
    ///
    /// # Errors
    ///
    /// serde_json's; nothing here can cause one.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

fn keep(new: &mut Count, old: Option<&Count>) {
    if let Some(old) = old {
        new.tolerance = old.tolerance;
    }
}

/// The kind that is compared. Linux sends the same call by one vector to one CPU and by another to
/// several (smp_call_function_many_cond), and how many need it depends on what else they do.
fn kind_of(vector: &str) -> String {
    match vector {
        "call-function-single" => "call-function".to_owned(),
        other => other.to_owned(),
    }
}

fn sum(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}
