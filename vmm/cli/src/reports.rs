//! Reports of a run besides its table and its JSON: which are wanted, and where they go.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use ipirig_args::ReportArgs;
use ipirig_report::github;
use ipirig_report::junit::junit;
use ipirig_report::ktap::{bail_out, ktap};
use ipirig_scenario::{Scenario, base_name};
use ipirig_verdict::result::RunResult;

use crate::failure::Failure;
use crate::output::check_writable;
use crate::say::say;

/// A format that takes all results of a command, and why there are no more, if there should be.
type Format = fn(&[RunResult], Option<Cut<'_>>) -> anyhow::Result<String>;

/// Why a command ended before all that it was to run had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut<'f> {
    /// How many runs there were to be.
    pub(crate) planned: usize,
    /// What ended it.
    pub(crate) failure: &'f Failure,
}

impl Cut<'_> {
    /// For a reader of KTAP.
    fn bail_out(&self, runs: &[RunResult]) -> String {
        bail_out(runs, self.planned, &self.failure.to_string())
    }
}

/// The reports that the user asks for.
#[derive(Debug)]
pub(crate) struct Reports {
    wanted: Vec<(PathBuf, Format)>,
    /// Files that scenarios came from, by the scenario's name; the built-in ones are not here.
    sources: BTreeMap<String, String>,
}

impl Reports {
    /// Checks that the reports that `args` ask for can be written, beside JSON at `json`.
    /// `scenarios`: as the user named them.
    pub(crate) fn new(
        args: &ReportArgs,
        json: Option<&Path>,
        scenarios: &[String],
    ) -> Result<Self, Failure> {
        let mut wanted: Vec<(PathBuf, Format)> = Vec::new();
        if let Some(path) = &args.ktap {
            wanted.push((path.clone(), |runs, cut| {
                Ok(cut.map_or_else(|| ktap(runs), |cut| cut.bail_out(runs)))
            }));
        }
        if let Some(path) = &args.junit {
            wanted.push((path.clone(), |runs, _| Ok(junit(runs)?)));
        }
        let paths = wanted.iter().map(|(path, _)| path.as_path());
        check_places(paths, json)?;
        let sources = scenarios
            .iter()
            .filter(|argument| Path::new(argument).is_file())
            .filter_map(|path| Some((Scenario::find(path).ok()?.name, path.clone())))
            .collect();
        Ok(Self { wanted, sources })
    }

    /// Whether one is to be standard output.
    pub(crate) fn takes_stdout(&self) -> bool {
        self.wanted.iter().any(|(path, _)| is_stdout(path))
    }

    /// Each report with its place.
    pub(crate) fn texts(
        &self,
        runs: &[RunResult],
        cut: Option<Cut<'_>>,
    ) -> anyhow::Result<Vec<(PathBuf, String)>> {
        let text = |(path, format): &(PathBuf, Format)| Ok((path.clone(), format(runs, cut)?));
        self.wanted.iter().map(text).collect()
    }

    /// In a workflow on GitHub: annotations on standard error, which its runner reads as well as
    /// standard output, and a summary in the file that it names.
    pub(crate) fn tell_github(&self, runs: &[RunResult]) {
        if !on_github() {
            return;
        }
        let root = var("GITHUB_WORKSPACE").map(PathBuf::from);
        say(&github::annotations(runs, &|run| {
            let name = base_name(&run.scenario.name);
            let source = match self.sources.get(name) {
                Some(path) => path.clone(),
                None => format!("scenarios/{name}.toml"),
            };
            in_repository(Path::new(&source), root.as_deref())
        }));
        if let Some(path) = var("GITHUB_STEP_SUMMARY") {
            // What the run found is known already; a summary less does not undo it.
            if let Err(error) = append(Path::new(&path), &github::summary(runs)) {
                say(&format!("ipirig: {error:#}\n"));
            }
        }
    }
}

/// In a workflow on GitHub: an annotation of something that is not as it should be.
pub(crate) fn annotate_on_github(title: &str, message: &str) {
    if on_github() {
        say(&github::command("error", None, title, message));
    }
}

fn on_github() -> bool {
    var("GITHUB_ACTIONS").is_some_and(|value| value == "true")
}

/// An environment variable that says something.
fn var(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Checks that each of `paths` can be written, and that standard output is asked for once at most, by them and by
/// those that were checked `elsewhere`.
pub(crate) fn check_places<'p>(
    paths: impl Iterator<Item = &'p Path> + Clone,
    elsewhere: Option<&'p Path>,
) -> Result<(), Failure> {
    let all = paths.clone().chain(elsewhere);
    if all.filter(|path| is_stdout(path)).count() > 1 {
        let error = anyhow!("`-` is given twice: standard output has room for one");
        return Err(Failure::usage(error));
    }
    for path in paths.filter(|path| !is_stdout(path)) {
        check_writable(path).map_err(Failure::usage)?;
    }
    Ok(())
}

/// Whether `path` stands for standard output.
pub(crate) fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

/// The path of an existing file as GitHub wants it, from the root of the repository.
fn in_repository(path: &Path, root: Option<&Path>) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let root = root.and_then(|root| root.canonicalize().ok());
    let inside = path.strip_prefix(root?).ok()?;
    Some(inside.to_str()?.to_owned())
}

fn append(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write the summary {}", path.display()))
}
