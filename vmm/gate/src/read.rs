//! Results as they are read back: of the JSON that `run --json` writes, what is compared and shown.
//!
//! A file may come from anywhere, so nothing in it is trusted: its length is bounded, its version
//! checked, and a scenario's name must be one before it becomes part of a path.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ipirig_checks::check::Verdict;
use ipirig_document::{RunDocument, SCHEMA_VERSION};
use ipirig_scenario::{base_name, is_name};
use ipirig_verdict::result::RunResult;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Results of a whole catalogue are five MiB at most; what is longer is some other file. As a tree, JSON takes some
/// twenty times its length.
const MAX_BYTES: u64 = 16 << 20;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file system's doing.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Not JSON, or not of the right shape.
    #[error("{} is no {wanted}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Not JSON of ours.
    #[error("{} is no {wanted}: {reason}", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
        /// What it is instead.
        reason: String,
    },
    /// Of another version.
    #[error(
        "{} is a {wanted} of version {found}, and this ipirig reads version {read}: {next}",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// What it is.
        wanted: &'static str,
        /// Its version.
        found: u64,
        /// Ours.
        read: u32,
        /// What to do about it.
        next: String,
    },
}

/// One run, as much as is compared and shown. The fields are those of
/// [`RunDocument`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Recorded {
    /// The verdict.
    pub verdict: Verdict,
    /// What was run.
    pub scenario: RecordedScenario,
    pub(super) checks: Vec<RecordedCheck>,
    pub(super) vcpus: Vec<RecordedVcpu>,
    pub(super) entries: Vec<RecordedEntry>,
    pub(super) blame: Vec<RecordedBlame>,
    pub(super) kernel: Option<RecordedKernel>,
}

/// What was run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RecordedScenario {
    /// Its name; that of a second run of it in the same suite ends in `:2`.
    pub name: String,
    /// Operations in all windows together.
    pub operations: u64,
    /// Whether the kernel was told to defer.
    pub deferral: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct RecordedCheck {
    pub(super) name: String,
    pub(super) status: Verdict,
    pub(super) evidence: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct RecordedVcpu {
    pub(super) id: usize,
    pub(super) role: String,
    pub(super) window: RecordedWindow,
    pub(super) deferred: Option<u64>,
    pub(super) caught_up: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct RecordedWindow {
    pub(super) by_vector: BTreeMap<String, u64>,
    pub(super) by_source: BTreeMap<usize, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct RecordedEntry {
    pub(super) kind: String,
    pub(super) audit: Option<RecordedAudit>,
    pub(super) why: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct RecordedAudit {
    pub(super) ended: String,
    pub(super) text_cleared: Option<u64>,
    pub(super) translations_cleared: Option<u64>,
    pub(super) catch_up: Option<u64>,
    pub(super) first_instrumentable: Option<u64>,
    pub(super) flag: RecordedFlag,
    pub(super) danger: Vec<RecordedFinding>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub(super) enum RecordedFlag {
    Unknown,
    Known {
        set: Option<u64>,
        cleared: Option<u64>,
        user_table: Option<u64>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct RecordedFinding {
    pub(super) what: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct RecordedBlame {
    pub(super) cause: String,
    pub(super) source: usize,
    pub(super) targets: BTreeMap<usize, u64>,
    pub(super) chain: Vec<RecordedFrame>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct RecordedFrame {
    pub(super) function: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct RecordedKernel {
    pub(super) release: Option<String>,
    pub(super) series: Option<String>,
    pub(super) path: String,
}

impl Recorded {
    /// The kernel that ran: its release or its file, and the series that it has. `None`: none did.
    #[must_use]
    pub fn kernel(&self) -> Option<String> {
        let kernel = self.kernel.as_ref()?;
        let name = kernel.release.as_ref().unwrap_or(&kernel.path);
        let series = kernel.series.as_ref();
        let series = series.map(|series| format!(", series {}", plain(series)));
        Some(format!("{}{}", plain(name), series.unwrap_or_default()))
    }
}

impl RecordedScenario {
    /// The scenario's name, of whichever of its runs this is.
    #[must_use]
    pub fn base_name(&self) -> &str {
        base_name(&self.name)
    }
}

impl Recorded {
    /// The runs in a file that `run --json` wrote, one scenario's or several. Not empty.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn read(path: &Path) -> Result<Vec<Self>, ReadError> {
        let mut value = json(path, RESULT)?;
        let anew = || "make it anew".to_owned();
        version(
            path,
            RESULT,
            &value,
            ("schema_version", SCHEMA_VERSION),
            anew,
        )?;
        let values = match value.get_mut("runs").map(Value::take) {
            Some(Value::Array(runs)) => runs,
            _ => vec![value],
        };
        if values.is_empty() {
            return Err(other(path, RESULT, "it has no runs"));
        }
        let runs: Vec<Self> = values
            .into_iter()
            .map(|value| shaped(path, RESULT, value))
            .collect::<Result<_, _>>()?;
        for run in &runs {
            let name = &run.scenario.name;
            if !is_name(run.scenario.base_name()) {
                let reason = format!("{name:?} is no scenario's name");
                return Err(other(path, RESULT, reason));
            }
        }
        Ok(runs)
    }

    /// The same of a result at hand.
    ///
    /// # Errors
    ///
    /// serde_json's; the types are the same, so none.
    pub fn of(result: &RunResult) -> Result<Self, serde_json::Error> {
        serde_json::from_value(serde_json::to_value(RunDocument::from(result))?)
    }
}

/// What a file of results is called in errors.
pub(super) const RESULT: &str = "result";

/// Why [`bytes`] has none.
pub const TOO_LONG: &str = "it is longer than 16 MiB";

/// What a file of results has in it; `None` if that is more than results are. The path may be that of a device that
/// never ends.
///
/// # Errors
///
/// The file system's.
pub fn bytes(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_BYTES).then_some(bytes))
}

/// The file as JSON.
pub(super) fn json(path: &Path, wanted: &'static str) -> Result<Value, ReadError> {
    let unreadable = |source| ReadError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let bytes = bytes(path).map_err(unreadable)?;
    let bytes = bytes.ok_or_else(|| other(path, wanted, TOO_LONG))?;
    serde_json::from_slice(&bytes).map_err(|source| malformed(path, wanted, source))
}

/// Checks the version of what is in a file, before its shape: an old one has another, and then `next` is
/// what to do.
pub(super) fn version(
    path: &Path,
    wanted: &'static str,
    value: &Value,
    (field, read): (&str, u32),
    next: impl FnOnce() -> String,
) -> Result<(), ReadError> {
    match value.get(field).and_then(Value::as_u64) {
        None => Err(other(path, wanted, format!("it has no `{field}`"))),
        Some(found) if found != u64::from(read) => Err(ReadError::Version {
            path: path.to_owned(),
            wanted,
            found,
            read,
            next: next(),
        }),
        Some(_) => Ok(()),
    }
}

/// What is in a file, by its shape.
pub(super) fn shaped<T: DeserializeOwned>(
    path: &Path,
    wanted: &'static str,
    value: Value,
) -> Result<T, ReadError> {
    serde_json::from_value(value).map_err(|source| malformed(path, wanted, source))
}

fn malformed(path: &Path, wanted: &'static str, source: serde_json::Error) -> ReadError {
    ReadError::Malformed {
        path: path.to_owned(),
        wanted,
        source,
    }
}

fn other(path: &Path, wanted: &'static str, reason: impl Into<String>) -> ReadError {
    ReadError::Other {
        path: path.to_owned(),
        wanted,
        reason: reason.into(),
    }
}

/// Text from a file, on one line and without what a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    let c = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(c).collect()
}
