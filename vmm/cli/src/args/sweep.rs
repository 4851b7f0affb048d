//! The arguments of `ipirig sweep`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::{ReportArgs, RunOptions};

const AFTER: &str = "\
Examples:
  ipirig sweep                               every path, every event
  ipirig sweep syscall syscall-exit --event nmi
  ipirig sweep --point nmi@syscall+5         this point again
  ipirig sweep sender-flip --event entry     the sender's side
  ipirig sweep --shard 2/8 --json part2.json
  ipirig sweep --resume part2.json --json part2.json --shard 2/8
  ipirig lab -- sweep syscall --event nmi    without /dev/kvm: on an emulated host

A path is an entry kind of entry-matrix (`syscall`, `page-fault`, ...): its instructions from the
first in the kernel to the first instrumentable code; with `-exit`, those from the last
instrumentable code back to user space. At each of them each event comes once, and the guest is
put back in between:
  nmi, timer, reschedule   the CPU is interrupted there
  flip, vunmap             the CPU stands there while the control vCPU patches text or frees memory
The paths sender-flip and sender-vunmap are the control vCPU's own: what decides whom such an
operation interrupts. Their event is
  entry                    the control vCPU stands there while the isolated one enters the kernel

A cell of a strip is an instruction: `.` held, `X` violated, `-` missed (the CPU cannot take the
event there), `?` error. What is violated is explained below the strips, with the command that
shows it again.

Exit codes:
  0  held at each point
  1  violated at one or more
  2  what was given is wrong
  3  error: nothing can be said of a point, or the sweep did not come to its end
  4  skipped: host or kernel lacks what is needed";

/// What is to be swept.
#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER)]
pub(crate) struct SweepArgs {
    /// Paths: entry kinds, with `-exit` for the way back [default: all]
    #[arg(value_name = "PATH", conflicts_with = "point")]
    pub(crate) paths: Vec<String>,
    /// Events [default: all]
    #[arg(
        long,
        value_name = "EVENTS",
        value_delimiter = ',',
        conflicts_with = "point"
    )]
    pub(crate) event: Vec<String>,
    /// Only this point, as EVENT@PATH+NUMBER
    #[arg(long, value_name = "POINT", conflicts_with = "shard")]
    pub(crate) point: Option<String>,
    /// Only every NUMBERth point, from the INDEXth on
    #[arg(long, value_name = "INDEX/NUMBER", default_value = "1/1")]
    pub(crate) shard: String,
    /// The JSON of a sweep that did not come to its end: what it has is not done again, but for errors
    #[arg(long, value_name = "FILE", conflicts_with = "point")]
    pub(crate) resume: Option<PathBuf>,
    /// Write the strips as a web page that needs nothing else; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reports: ReportArgs,
    #[command(flatten)]
    pub(crate) options: RunOptions,
}

const AFTER_MERGE: &str = "\
Examples:
  ipirig sweep --shard 1/2 --json 1.json
  ipirig sweep --shard 2/2 --json 2.json
  ipirig merge 1.json 2.json --html sweep.html

Exit codes are those of `ipirig sweep`; 2 if the results are not of one sweep.";

/// Results of the parts of a sweep.
#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER_MERGE)]
pub(crate) struct MergeArgs {
    /// JSON of `ipirig sweep --shard`
    #[arg(required = true, value_name = "FILE")]
    pub(crate) results: Vec<PathBuf>,
    /// Write the whole as JSON; `-` is standard output, and the strips go to standard error
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the strips as a web page that needs nothing else; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reports: ReportArgs,
}
