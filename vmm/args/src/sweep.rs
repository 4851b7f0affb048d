//! The arguments of `ipirig sweep`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::{ReportArgs, RunOptions};

const AFTER: &str = include_str!("help/sweep.txt").trim_ascii_end();

/// What is to be swept.
#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER)]
pub struct SweepArgs {
    /// Paths: entry kinds, with `-exit` for the way back [default: all]
    #[arg(value_name = "PATH", conflicts_with = "point")]
    pub paths: Vec<String>,
    /// Events [default: all]
    #[arg(
        long,
        value_name = "EVENTS",
        value_delimiter = ',',
        conflicts_with = "point"
    )]
    pub event: Vec<String>,
    /// At up to NUMBER points of each path, where CR3, GS base or the flag changes, an NMI comes, and its handler's own paths
    /// (PATH+NUMBER/nmi, PATH+NUMBER/nmi-exit) are swept as well
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 0,
        hide_default_value = true,
        conflicts_with = "point"
    )]
    pub pairs: usize,
    /// Only this point, as EVENT@PATH+NUMBER
    #[arg(long, value_name = "POINT", conflicts_with = "shard")]
    pub point: Option<String>,
    /// Only every NUMBERth point, from the INDEXth on
    #[arg(long, value_name = "INDEX/NUMBER", default_value = "1/1")]
    pub shard: String,
    /// End after NUMBER violated points
    #[arg(long, value_name = "NUMBER", conflicts_with = "point", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_violated: Option<u32>,
    /// The JSON of a sweep that did not come to its end: what it has is not done again, but for errors
    #[arg(long, value_name = "FILE", conflicts_with = "point")]
    pub resume: Option<PathBuf>,
    /// Write the strips as a web page that needs nothing else; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    #[command(flatten)]
    pub reports: ReportArgs,
    #[command(flatten)]
    pub options: RunOptions,
}

const AFTER_MERGE: &str = include_str!("help/merge.txt").trim_ascii_end();

/// Results of the parts of a sweep.
#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER_MERGE)]
pub struct MergeArgs {
    /// JSON of `ipirig sweep --shard`
    #[arg(required = true, value_name = "FILE")]
    pub results: Vec<PathBuf>,
    /// Write the whole as JSON; `-` is standard output, and the strips go to standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the strips as a web page that needs nothing else; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    #[command(flatten)]
    pub reports: ReportArgs,
}
