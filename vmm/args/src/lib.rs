//! The arguments as they are typed. What they mean together is checked by `ipirig_scenario::plan`.
//!
//! What this crate does not do: anything with them. The commands are `ipirig`'s.

#![forbid(unsafe_code)]
#![expect(
    missing_docs,
    reason = "a comment on an argument is its help, and some speak for themselves"
)]

use std::num::NonZeroUsize;
use std::path::PathBuf;

use ipirig_guest::Flavour;
use ipirig_report::attribution::To;

use clap::{Args as ClapArgs, Parser, Subcommand};

mod examples;
mod lab;
mod options;
mod sweep;

pub use lab::{Cpu, LabArgs};
use options::flavours;
pub use options::{Apic, ConsoleStyle, PictureOptions, ReportArgs, RunOptions, Switch};
pub use sweep::{MergeArgs, SweepArgs};

use examples::{
    AFTER, AFTER_AUDIT, AFTER_BLAME, AFTER_BUILD, AFTER_COMPARE, AFTER_COMPLETIONS, AFTER_CONFIG,
    AFTER_DOCTOR, AFTER_ENTRY, AFTER_GATE, AFTER_LIST, AFTER_MAN, AFTER_MUTANTS, AFTER_OBSERVE,
    AFTER_PATH, AFTER_RUN, AFTER_SCHEMA,
};

/// Proves that isolated CPUs get no IPIs: boots a kernel in a VMM of its own, provokes the
/// operations that send IPIs, and counts every one.
#[derive(Debug, Parser)]
#[command(name = "ipirig", version, after_help = AFTER, max_term_width = 100)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

/// What the parsed arguments have as a field; where they cannot be parsed, its text is looked for.
pub const BISECT: &str = "--bisect";

impl Args {
    /// How scenarios are run, where the command runs any.
    pub fn run_options(&mut self) -> Option<&mut RunOptions> {
        match &mut self.command {
            Command::Run(args) => Some(&mut args.options),
            Command::Entry(args) => Some(&mut args.options),
            Command::Observe(args) => Some(&mut args.options),
            Command::Blame(args) => Some(&mut args.options),
            Command::Gate(args) => Some(&mut args.options),
            Command::Sweep(args) => Some(&mut args.options),
            // Each by its name: one that is forgotten would run another kernel than it was given.
            Command::Merge(_)
            | Command::Audit(_)
            | Command::Mutants(_)
            | Command::Compare(_)
            | Command::Completions { .. }
            | Command::Man { .. }
            | Command::Lab(_)
            | Command::LabInit
            | Command::List
            | Command::Schema { .. }
            | Command::Doctor
            | Command::Guest(_) => None,
        }
    }

    /// Whether the exit code is for `git bisect run`.
    pub fn bisect(&self) -> bool {
        matches!(&self.command, Command::Run(args) if args.bisect)
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a scenario and print the verdict
    Run(Box<RunArgs>),
    /// Run a scenario and list what each first entry into the kernel executed
    Entry(Box<EntryArgs>),
    /// Place events at each instruction of kernel entry and exit, and judge what follows
    Sweep(Box<SweepArgs>),
    /// Put the results of a sweep's parts together
    Merge(MergeArgs),
    /// Run a command on the other vCPUs and say who interrupts the isolated ones
    Observe(Box<ObserveArgs>),
    /// Judge the entry code of a vmlinux without booting it
    Audit(AuditArgs),
    /// Run a scenario, or read a result, and say who sent IPIs to whom, and why
    Blame(Box<BlameArgs>),
    /// Build kernels with known bugs and see whether the checks notice
    Mutants(MutantsArgs),
    /// Run scenarios, or take results, and say what is not as it was
    Gate(Box<GateArgs>),
    /// Compare the results of two kernels or of two commits
    Compare(CompareArgs),
    /// Run ipirig on a host with SVM or VMX that is emulated, for machines that have neither
    Lab(Box<LabArgs>),
    /// Process 1 of an emulated host
    #[command(name = ipirig_lab::init::INIT_COMMAND, hide = true)]
    LabInit,
    /// List the scenarios
    #[command(after_help = AFTER_LIST)]
    List,
    /// Print the JSON Schema of what --json writes, or of a scenario file
    #[command(after_help = AFTER_SCHEMA)]
    Schema {
        /// Of which command's, or of what
        #[arg(value_enum, default_value_t = SchemaOf::Run)]
        of: SchemaOf,
    },
    /// Say what this host offers and what to do about what is missing
    #[command(after_help = AFTER_DOCTOR)]
    Doctor,
    /// Print a shell's completions
    #[command(after_help = AFTER_COMPLETIONS)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write man pages
    #[command(after_help = AFTER_MAN)]
    Man {
        /// The directory that they go to; created when missing
        dir: PathBuf,
    },
    /// Build the reference guest
    #[command(subcommand)]
    Guest(GuestCommand),
}

#[derive(Debug, Subcommand)]
pub enum GuestCommand {
    /// Build kernel, module and initramfs, unless they are in the cache
    Build(GuestBuildArgs),
    /// Print the paths of kernel and initramfs, building them if need be
    Path(GuestPathArgs),
    /// Print what a kernel of your own needs to be configured with
    #[command(after_help = AFTER_CONFIG)]
    Config,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER_BUILD)]
pub struct GuestBuildArgs {
    /// Which kernel; tracing: slower to boot, with tracepoints, kprobes, ftrace and BPF; rt: the
    /// same with PREEMPT_RT
    #[arg(long, value_parser = flavours(), default_value_t = Flavour::Fast)]
    pub flavour: Flavour,
    /// Instead of it, a kernel as Debian ships its source: 7.2, 6.12, 6.1 and what else apt offers
    #[arg(long, value_name = "VERSION", conflicts_with = "flavour")]
    pub stock: Option<String>,
    /// Put the reference series onto the source of --stock first: 6.12 and 7.2 have one
    #[arg(long, requires = "stock")]
    pub series: bool,
    /// The source of the stock kernel: a linux-source package or a tarball of a kernel
    #[arg(long, value_name = "FILE", requires = "stock")]
    pub source: Option<PathBuf>,
    /// Look for a newer kernel source
    #[arg(long)]
    pub update: bool,
    /// Compilers to run at once [default: one a core]
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// As root, install the Debian packages that building needs without asking
    #[arg(long)]
    pub install_tools: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER_PATH)]
pub struct GuestPathArgs {
    /// Instead of a kernel of ours, that of a built kernel tree
    #[arg(long, value_name = "DIR", conflicts_with_all = ["flavour", "patch"])]
    pub tree: Option<PathBuf>,
    /// Have make bring a kernel of the source --tree up to date first
    #[arg(long, requires = "tree")]
    pub build: bool,
    /// Which kernel
    #[arg(long, value_parser = flavours(), default_value_t = Flavour::Fast)]
    pub flavour: Flavour,
    /// A patch on top of the series; may be given several times
    #[arg(long, value_name = "FILE")]
    pub patch: Vec<PathBuf>,
    /// An initramfs whose process 1 lies and floods, for tests of ipirig itself
    #[arg(long, hide = true, conflicts_with_all = ["tree", "patch"])]
    pub hostile: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER_ENTRY)]
pub struct EntryArgs {
    /// A scenario's name (see `ipirig list`), or the path of a .toml file
    pub scenario: String,
    #[command(flatten)]
    pub options: RunOptions,
    /// Only these entry kinds, by their names in scenario files
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    pub kind: Vec<String>,
    /// Every instruction, not only the way in and the way out
    #[arg(long)]
    pub whole: bool,
    #[command(flatten)]
    pub pictures: PictureOptions,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER_OBSERVE)]
pub struct ObserveArgs {
    #[command(flatten)]
    pub options: RunOptions,
    /// Seconds after which the command is killed, if it has not ended by then
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub limit: u64,
    /// Isolated vCPUs
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=63))]
    pub isolated: u8,
    /// Which vCPUs are isolated, as the kernel has lists of CPUs: `1-3,5`. Not 0, which boots
    #[arg(long, value_name = "LIST", conflicts_with_all = ["isolated", "vcpus"])]
    pub isolated_cpus: Option<String>,
    /// A file that the guest is to have [default for GUEST: /bin/NAME]
    #[arg(long, value_name = "HOST[:GUEST]")]
    pub file: Vec<String>,
    /// A directory whose files the guest is to have, from its root on: a static busybox, a program with its
    /// libraries, what debootstrap made
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Write what the command prints to a file, up to a MiB
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Take an exit code other than 0, or a signal, for an end of the command like any other
    #[arg(long)]
    pub ignore_exit_code: bool,
    /// Leave on what the rig else switches off in the guest: the kernel's periodic work that interrupts
    /// isolated CPUs
    #[arg(long)]
    pub as_is: bool,
    /// Write the report as one web page that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Fail if an isolated vCPU gets more IPIs than this
    #[arg(long, value_name = "N")]
    pub max_ipis: Option<u64>,
    /// The command, after `--`
    #[arg(last = true, value_name = "COMMAND", default_values = ["load", "idle"])]
    pub command: Vec<String>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER_AUDIT)]
pub struct AuditArgs {
    /// The kernel, with its symbols
    pub vmlinux: PathBuf,
    /// Write the audit as JSON; `-` is standard output, and the text goes to standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What a schema is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SchemaOf {
    /// `ipirig run`
    Run,
    /// `ipirig audit`
    Audit,
    /// A scenario file
    Scenario,
    /// `ipirig sweep`
    Sweep,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER_BLAME)]
pub struct BlameArgs {
    /// A scenario's name, the path of its .toml file, or the path of a result's .json file
    pub what: String,
    #[command(flatten)]
    pub options: RunOptions,
    /// The IPIs to which vCPUs: isolated, all, or the number of one
    #[arg(long, value_name = "VCPUS", default_value = "isolated", value_parser = targets)]
    pub to: To,
    /// Write the chains as folded stacks, which flame-graph tools read
    #[arg(long, value_name = "FILE")]
    pub folded: Option<PathBuf>,
}

fn targets(word: &str) -> Result<To, &'static str> {
    match word {
        "isolated" => Ok(To::Isolated),
        "all" => Ok(To::All),
        number => {
            let cpu = number.parse().map(To::One);
            cpu.map_err(|_| "give `isolated`, `all` or the number of a vCPU")
        }
    }
}

#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER_MUTANTS)]
pub struct MutantsArgs {
    /// Only these, or patches of your own: paths of files like guest/kernel/mutants/*.patch [default: all]
    pub names: Vec<String>,
    /// Try them on the source in this git tree, as it is there now, instead of the reference series; it is copied,
    /// and built as `--tree DIR --build` does
    #[arg(long, value_name = "DIR")]
    pub tree: Option<PathBuf>,
    /// Try them on the series for this version, of Debian's linux-source-VERSION
    #[arg(long, value_name = "VERSION", conflicts_with = "tree")]
    pub stock: Option<String>,
    /// Also run the mutants that nothing is expected to notice yet
    #[arg(long)]
    pub survivors: bool,
    /// Seconds that each phase of a run may take [default: 120 for the boot, 60 for others]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// Write the table as JSON; `-` is standard output, and the table goes to standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER_RUN)]
pub struct RunArgs {
    /// Scenarios: names (see `ipirig list`), paths of .toml files, or `all`. One that is named twice is
    /// run twice; the second run is called NAME:2
    #[arg(required_unless_present = "group")]
    pub scenarios: Vec<String>,
    /// All scenarios of a group; may be given several times
    #[arg(long, value_name = "GROUP")]
    pub group: Vec<String>,
    #[command(flatten)]
    pub options: RunOptions,
    #[command(flatten)]
    pub reports: ReportArgs,
    #[command(flatten)]
    pub pictures: PictureOptions,
    /// Scenarios that may be skipped, or `all`: several runs hold without them, if one holds [default: none]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub allow_skipped: Vec<String>,
    /// Judge isolation alone: hold also where it cannot be told whether deferred work was done
    #[arg(long)]
    pub isolation_only: bool,
    /// Exit as `git bisect run` wants: 0 held, 1 violated, 125 cannot tell, more if it makes no sense
    /// to go on
    #[arg(long)]
    pub bisect: bool,
}

/// What says how to run, or reports of runs: nothing to a gate that runs nothing.
const NOT_WITH_FROM: [&str; 27] = [
    "vcpus",
    "apic",
    "deferral",
    "flavour",
    "kernel",
    "vmlinux",
    "symbols",
    "tree",
    "stock",
    "series",
    "without",
    "initramfs",
    "pin",
    "memory",
    "json",
    "console",
    "log",
    "append",
    "timeout",
    "cold",
    "no_stacks",
    "cross_check",
    "isolation_only",
    "ktap",
    "junit",
    "html",
    "trace",
];

#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER_GATE)]
pub struct GateArgs {
    /// Scenarios: names (see `ipirig list`), paths of .toml files, or `all`
    #[arg(required_unless_present_any = ["group", "from", "sweep"])]
    pub scenarios: Vec<String>,
    /// All scenarios of a group; may be given several times
    #[arg(long, value_name = "GROUP")]
    pub group: Vec<String>,
    /// Run nothing; take the result of a sweep in a file that `sweep --json` or `merge --json` wrote
    #[arg(long, value_name = "FILE", conflicts_with_all = ["scenarios", "group", "from"])]
    pub sweep: Option<PathBuf>,
    /// Run nothing; take the results in files that `run --json` wrote. Without scenarios: all there
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = NOT_WITH_FROM)]
    pub from: Vec<PathBuf>,
    /// Make what is now the baseline; tolerances in it stay
    #[arg(long)]
    pub accept: bool,
    /// Judge isolation alone: hold also where it cannot be told whether deferred work was done
    #[arg(long)]
    pub isolation_only: bool,
    /// Where baselines are [default: results/baseline of the checkout, or those inside the program]
    #[arg(long, value_name = "DIR")]
    pub baseline: Option<PathBuf>,
    #[command(flatten)]
    pub options: RunOptions,
    #[command(flatten)]
    pub reports: ReportArgs,
    #[command(flatten)]
    pub pictures: PictureOptions,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER_COMPARE)]
pub struct CompareArgs {
    /// What `run --json` wrote before
    pub first: PathBuf,
    /// And after
    pub second: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    /// Lines after a help that are broken once more where they are too long for it.
    fn too_long(command: &clap::Command, found: &mut Vec<String>) {
        let text = command.get_after_help().map(ToString::to_string);
        let lines = text.iter().flat_map(|text| text.lines());
        found.extend(lines.filter(|line| line.len() > 100).map(str::to_owned));
        for command in command.get_subcommands() {
            too_long(command, found);
        }
    }

    #[test]
    fn no_line_of_a_help_is_broken_twice() {
        let mut found = Vec::new();
        too_long(&<Args as clap::CommandFactory>::command(), &mut found);
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn pins_are_a_list_and_an_appended_line_may_start_with_a_dash() {
        let args = Args::try_parse_from(["ipirig", "run", "s", "--pin", "0,0,1", "--append", "-x"]);
        let Ok(Args {
            command: Command::Run(run),
        }) = args
        else {
            panic!("{args:?}")
        };
        assert_eq!(
            (run.options.pin, run.options.append.as_deref()),
            (Some(vec![0, 0, 1]), Some("-x"))
        );
    }

    #[test]
    fn guests_have_a_flavour_that_is_fast_by_default() {
        let flavour = |line: &[&str]| match Args::try_parse_from(line).map(|args| args.command) {
            Ok(Command::Guest(GuestCommand::Build(args))) => Some(args.flavour),
            Ok(Command::Guest(GuestCommand::Path(args))) => Some(args.flavour),
            _ => None,
        };
        for command in ["build", "path"] {
            let line = ["ipirig", "guest", command, "--flavour", "tracing"];
            assert_eq!(flavour(&line[..3]), Some(Flavour::Fast));
            assert_eq!(flavour(&line), Some(Flavour::Tracing));
            assert_eq!(flavour(&[&line[..4], &["slow"]].concat()), None);
        }
    }

    #[test]
    fn an_initramfs_needs_its_kernel() {
        assert!(Args::try_parse_from(["ipirig", "run", "s", "--initramfs", "i"]).is_err());
    }
}
