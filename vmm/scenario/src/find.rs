//! Finding a scenario by its name or its path, and reading it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::{Diagnostic, Scenario, builtin, suggest, validate};

/// Scenario files are a page of text; a longer one is some other file.
const MAX_BYTES: u64 = 1 << 20;

/// Why there is no such scenario.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// No built-in scenario has this name.
    #[error("no scenario `{name}`: {advice}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        advice: String,
    },
    /// The file cannot be read.
    #[error("cannot read the scenario {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is no text of a scenario's size.
    #[error("{} is not a scenario: {reason}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        reason: &'static str,
    },
    /// The file's contents are wrong.
    #[error("{0}")]
    Invalid(Box<Diagnostic>),
}

impl Scenario {
    /// The scenario that a user names: a built-in one, or a path to a `.toml` file.
    ///
    /// # Errors
    ///
    /// See [`ScenarioError`].
    pub fn find(argument: &str) -> Result<Self, ScenarioError> {
        if is_path(argument) {
            return Self::read(Path::new(argument));
        }
        let Some((stem, text)) = builtin::FILES.iter().find(|(stem, _)| *stem == argument) else {
            return Err(unknown(argument));
        };
        Self::parse(&format!("scenarios/{stem}.toml"), text)
    }

    /// Every built-in scenario, in the order of the table.
    ///
    /// # Errors
    ///
    /// Never, as a test shows; built-in files go through the same parser as any other.
    pub fn all() -> Result<Vec<Self>, ScenarioError> {
        builtin::FILES
            .iter()
            .map(|(stem, text)| Self::parse(&format!("scenarios/{stem}.toml"), text))
            .collect()
    }

    /// Parses and validates the text of `file`.
    ///
    /// # Errors
    ///
    /// [`ScenarioError::Invalid`], which points at the place.
    pub fn parse(file: &str, text: &str) -> Result<Self, ScenarioError> {
        validate::parse(file, text).map_err(|error| ScenarioError::Invalid(Box::new(error)))
    }

    fn read(path: &Path) -> Result<Self, ScenarioError> {
        let unreadable = |source| ScenarioError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        // Bounded: the path may be a device that never ends.
        File::open(path)
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
            .map_err(unreadable)?;
        let not_text = |reason| ScenarioError::NotText {
            path: path.to_owned(),
            reason,
        };
        if bytes.len() as u64 > MAX_BYTES {
            return Err(not_text("it is longer than 1 MiB"));
        }
        let text = String::from_utf8(bytes).map_err(|_| not_text("it is not UTF-8 text"))?;
        Self::parse(&path.display().to_string(), &text)
    }
}

/// Whether what the user wrote is the path of a file, and no name.
pub(crate) fn is_path(argument: &str) -> bool {
    argument.ends_with(".toml") || argument.contains('/')
}

fn unknown(name: &str) -> ScenarioError {
    let names = builtin::FILES.map(|(stem, _)| stem);
    let advice = match suggest::closest(name, names) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!(
            "there are {} (or give the path of a .toml file)",
            names.join(", ")
        ),
    };
    ScenarioError::Unknown {
        name: name.to_owned(),
        advice,
    }
}
