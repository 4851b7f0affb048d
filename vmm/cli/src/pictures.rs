//! Results for people, in files: a report as a web page, a trace for a trace viewer.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, anyhow};
use ipirig_args::PictureOptions;
use ipirig_observation::Report;
use ipirig_pictures::html::{Provenance, html, observation};
use ipirig_pictures::trace::chrome_trace;
use ipirig_verdict::result::RunResult;

use crate::failure::Failure;
use crate::output::{check_writable, not_written, write_file, write_file_by};

/// Checks, as far as can be told beforehand, that the files can be written when the runs are over.
pub(crate) fn check(options: &PictureOptions) -> Result<(), Failure> {
    for (option, path) in [("--html", &options.html), ("--trace", &options.trace)] {
        check_file(option, path.as_deref())?;
    }
    Ok(())
}

/// The same for the file of one option.
pub(crate) fn check_file(option: &str, path: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    if path == Path::new("-") {
        let error = anyhow!("{option} -: standard output has the result; give a file");
        return Err(Failure::usage(error));
    }
    check_writable(path).map_err(Failure::usage)
}

/// Writes the page of an observation, if it is asked for.
pub(crate) fn write_observation(path: Option<&Path>, report: &Report) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let page = observation(report, &made()).context("cannot show the report")?;
    write_file(path, &page).map_err(not_written)
}

fn made() -> Provenance {
    Provenance {
        command: command_line(),
        time: Some(SystemTime::now()),
    }
}

/// Writes what is asked for.
pub(crate) fn write(options: &PictureOptions, runs: &[RunResult]) -> Result<(), Failure> {
    if let Some(path) = &options.trace {
        let trace = &mut |out: &mut dyn io::Write| chrome_trace(runs, out);
        write_file_by(path, trace).map_err(not_written)?;
    }
    if let Some(path) = &options.html {
        let page = html(runs, &made()).context("cannot show the results")?;
        write_file(path, &page).map_err(not_written)?;
    }
    Ok(())
}

/// The command line of this process, for a shell. `None` if it is no text, or has what no shell can
/// be given.
fn command_line() -> Option<String> {
    let args: Result<Vec<String>, _> = std::env::args_os()
        .skip(1)
        .map(std::ffi::OsString::into_string)
        .collect();
    let args = args.ok()?;
    let words = std::iter::once("ipirig").chain(args.iter().map(String::as_str));
    shlex::try_join(words).ok()
}
