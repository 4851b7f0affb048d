//! What must stay as it is of a run: a small file, which people review.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::read::{ReadError, Recorded, json, shaped, version};
use crate::verdict::{COMPLETED, Verdict};

/// Version of a baseline's layout.
pub const BASELINE_VERSION: u32 = 1;
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
    /// IPIs to housekeeping vCPUs in the windows, of all kinds.
    pub housekeeping_ipis: Count,
    /// Work held back from isolated vCPUs. Absent if the kernel does not count.
    pub deferred: Option<Count>,
    /// How much of such work their entries did.
    pub caught_up: Option<Count>,
    /// The instruction by which the first entry of an isolated vCPU caught up, by way in. Empty where
    /// nothing is held back.
    pub catch_up_by: BTreeMap<String, u64>,
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

    /// This number with the tolerance of `old`.
    fn as_tolerant_as(self, old: Self) -> Self {
        Self::within(self.count, old.tolerance)
    }
}

/// Flushes that the kernel makes by itself beside the storm's (vmalloc's lazy purge) are held back
/// too, and an entry may find them done already.
const DEFERRED_TOLERANCE: u64 = 4;

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
                .or_insert(Count::exact(0));
            count.count = count.count.saturating_add(*sent);
        }
        isolated_ipis.retain(|_, count| count.count != 0);
        let housekeeping = in_role("housekeeping").flat_map(|vcpu| vcpu.window.by_vector.values());
        let housekeeping = sum(housekeeping.copied());
        // `None` if any kernel of them does not count.
        let counted = |counts: Option<Vec<u64>>| {
            counts.map(|counts| Count::within(sum(counts.into_iter()), DEFERRED_TOLERANCE))
        };
        let completed = run.checks.iter().find(|check| check.name == COMPLETED);
        let held_back = completed.is_some_and(|check| check.status == Verdict::Held);
        let catch_up_by = run
            .entries
            .iter()
            .filter(|_| held_back)
            .filter_map(|entry| {
                let catch_up = entry.audit.as_ref()?.catch_up?;
                Some((entry.kind.clone(), catch_up))
            });
        Self {
            baseline_version: BASELINE_VERSION,
            scenario: run.scenario.name.clone(),
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
            housekeeping_ipis: Count::within(
                housekeeping,
                (housekeeping / 2).saturating_add(HOUSEKEEPING_TOLERANCE),
            ),
            deferred: counted(in_role("isolated").map(|vcpu| vcpu.deferred).collect()),
            caught_up: counted(in_role("isolated").map(|vcpu| vcpu.caught_up).collect()),
            catch_up_by: catch_up_by.collect(),
        }
    }

    /// This, in place of `old`: tolerances that someone chose stay.
    #[must_use]
    pub fn in_place_of(mut self, old: &Self) -> Self {
        for (kind, count) in &mut self.isolated_ipis {
            if let Some(old) = old.isolated_ipis.get(kind) {
                *count = count.as_tolerant_as(*old);
            }
        }
        let keep = |new: Option<Count>, old: Option<Count>| match (new, old) {
            (Some(new), Some(old)) => Some(new.as_tolerant_as(old)),
            (new, _) => new,
        };
        self.housekeeping_ipis = self.housekeeping_ipis.as_tolerant_as(old.housekeeping_ipis);
        self.deferred = keep(self.deferred, old.deferred);
        self.caught_up = keep(self.caught_up, old.caught_up);
        self
    }

    /// The baseline's file in `dir`.
    #[must_use]
    pub fn path(dir: &Path, scenario: &str, deferral: bool) -> PathBuf {
        let state = if deferral { "" } else { ".off" };
        dir.join(format!("{scenario}{state}.json"))
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
        let field = "baseline_version";
        version(&path, BASELINE, &value, field, BASELINE_VERSION)?;
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
