//! The result of a sweep, as JSON has it.

use std::collections::BTreeMap;

use ipirig_entry::passage::Blocked;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::judge::{Outcome, Violation};
use crate::name::{EventName, PathName, PointName};
use crate::plan::PlannedPath;

/// Version of the JSON's layout.
pub const SCHEMA_VERSION: u32 = 1;

/// What became of a point.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The event came there, and every invariant holds.
    Held,
    /// The event came there, and an invariant does not hold.
    Violated,
    /// The CPU cannot take the event there, by a rule that is named.
    Missed,
    /// Nothing can be said.
    Error,
}

/// All there is to say about a sweep.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize, Deserialize)]
pub struct SweepResult {
    /// [`SCHEMA_VERSION`].
    #[schemars(extend("const" = SCHEMA_VERSION))]
    pub schema_version: u32,
    /// `held`: every point that was to be visited was, and none is violated or an error. `violated`: one
    /// is. `error`: one is an error, or the sweep did not come to its end. `skipped`: host or kernel lacks
    /// what is needed, or the CPU can take the event at none of the points.
    pub verdict: String,
    /// Why there are no points, or not all.
    pub why: Option<String>,
    /// The part of the points that was to be visited, as `index/number`.
    pub shard: String,
    /// Whether the sweep came to its end.
    pub complete: bool,
    /// The kernel's `uname`; absent if it did not boot.
    pub kernel: Option<String>,
    /// The paths, with their instructions.
    pub paths: Vec<PathResult>,
    /// The points, by path, event and number.
    pub points: Vec<PointResult>,
    /// How long it took.
    pub timing: Timing,
}

/// How long a sweep took; the one part of a result that differs from run to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
pub struct Timing {
    /// From the first point to the last, in seconds.
    pub sweep_s: f64,
    /// Points a second, of those for which the guest was put back.
    pub points_per_s: f64,
    /// All of it, in seconds.
    pub total_s: f64,
}

/// A path that was traced.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct PathResult {
    /// Its name.
    pub path: String,
    /// Its instructions, in order; absent if it could not be traced.
    pub instructions: Vec<InstructionResult>,
    /// Why it could not be traced.
    pub why: Option<String>,
}

/// An instruction of a path.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct InstructionResult {
    /// Where, as `symbol+0xoffset`.
    pub address: String,
    /// In the assembler's AT&T syntax.
    pub text: String,
}

/// One of [`rule_name`].
pub type RuleName = &'static str;

/// A point that was visited.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct PointResult {
    /// Its name, which `--point` takes.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    #[schemars(with = "String")]
    pub point: PointName,
    /// What became of it.
    pub status: Status,
    /// By which rule it was missed.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "known_rule"
    )]
    #[schemars(with = "Option<String>")]
    pub rule: Option<RuleName>,
    /// Why nothing can be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Which invariants do not hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
    /// IPIs that the control vCPU sent to the target while that stood at the instruction; of an `exit`, 1 if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipis: Option<u64>,
}

/// The rule of this name.
fn known_rule<'de, D: Deserializer<'de>>(input: D) -> Result<Option<RuleName>, D::Error> {
    let Some(name) = Option::<String>::deserialize(input)? else {
        return Ok(None);
    };
    let rules = [
        Blocked::InterruptsOff,
        Blocked::Shadow,
        Blocked::NmiMasked,
        Blocked::NoHandler,
    ];
    let found = rules.map(rule_name).into_iter().find(|rule| *rule == name);
    let none = || de::Error::custom(format!("no point is missed by a rule `{name}`"));
    found.map(Some).ok_or_else(none)
}

/// A point's name from one string.
fn from_text<'de, D: Deserializer<'de>>(input: D) -> Result<PointName, D::Error> {
    let text = String::deserialize(input)?;
    text.parse().map_err(de::Error::custom)
}

/// A point's name as one string.
fn as_text<S: Serializer>(name: &PointName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(name)
}

impl PathResult {
    /// A path that was traced.
    #[must_use]
    pub fn new(path: &PlannedPath) -> Self {
        let instructions = path.points.iter().map(|point| InstructionResult {
            address: point.address.clone(),
            text: point.text.clone(),
        });
        Self {
            path: path.name.to_string(),
            instructions: instructions.collect(),
            why: None,
        }
    }

    /// One that could not be traced, and why.
    #[must_use]
    pub fn untraced(path: &PathName, why: String) -> Self {
        Self {
            path: path.to_string(),
            instructions: Vec::new(),
            why: Some(why),
        }
    }
}

impl PointResult {
    /// What became of `name`.
    #[must_use]
    pub fn new(name: PointName, outcome: Outcome, ipis: Option<u64>) -> Self {
        let mut result = Self {
            point: name,
            status: Status::Held,
            rule: None,
            why: None,
            violations: Vec::new(),
            ipis,
        };
        match outcome {
            Outcome::Held => {}
            Outcome::Violated(violations) => {
                result.status = Status::Violated;
                result.violations = violations;
            }
            Outcome::Missed(rule) => {
                result.status = Status::Missed;
                result.rule = Some(rule_name(rule));
            }
            Outcome::Error(why) => {
                result.status = Status::Error;
                result.why = Some(why);
            }
        }
        result
    }
}

/// The name of a rule by which a point is missed.
#[must_use]
pub fn rule_name(rule: Blocked) -> RuleName {
    match rule {
        Blocked::InterruptsOff => "if-clear",
        Blocked::Shadow => "sti-or-mov-ss",
        Blocked::NmiMasked => "nmi-masked",
        Blocked::NoHandler => "no-handler",
    }
}

/// How many points of a path and an event became what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Held and violated: the event came.
    pub hit: usize,
    /// Missed by a rule.
    pub missed: usize,
    /// Violated.
    pub violated: usize,
    /// Errors.
    pub errors: usize,
}

impl SweepResult {
    /// The points by path and event.
    #[must_use]
    pub fn strips(&self) -> BTreeMap<(String, EventName), Vec<&PointResult>> {
        let mut strips: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for point in &self.points {
            let key = (point.point.path.to_string(), point.point.event);
            strips.entry(key).or_default().push(point);
        }
        strips
    }

    /// What the points come to.
    #[must_use]
    pub fn tally(points: &[&PointResult]) -> Tally {
        let mut tally = Tally::default();
        for point in points {
            match point.status {
                Status::Held => tally.hit += 1,
                Status::Violated => {
                    tally.hit += 1;
                    tally.violated += 1;
                }
                Status::Missed => tally.missed += 1,
                Status::Error => tally.errors += 1,
            }
        }
        tally
    }

    /// The verdict on points that were all visited, or not.
    #[must_use]
    pub fn conclusion(
        points: &[PointResult],
        paths: &[PathResult],
        complete: bool,
    ) -> &'static str {
        let any = |status| points.iter().any(|point| point.status == status);
        if any(Status::Violated) {
            "violated"
        } else if any(Status::Error)
            || !complete
            || paths.iter().any(|path| path.why.is_some())
            || points.is_empty()
        {
            "error"
        } else if !any(Status::Held) {
            "skipped"
        } else {
            "held"
        }
    }
}
