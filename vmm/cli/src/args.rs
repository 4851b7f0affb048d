//! The arguments as they are typed. What they mean together is checked by `ipirig_rig::plan`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

const AFTER: &str = "\
Examples:
  ipirig doctor                              what this host offers
  ipirig list                                the scenarios
  ipirig run static-key-flip                 build the guest if need be, run, judge
  ipirig run static-key-flip --deferral off  see what a stock kernel does
  ipirig run vunmap-storm --json result.json
  ipirig run my.toml --kernel ~/linux/vmlinux --initramfs initramfs.cpio
  ipirig entry entry-matrix                  what the CPU executes on each way into the kernel
  ipirig mutants                             break the kernel on purpose: is it noticed?

Exit codes:
  0  held: isolated CPUs were left alone (or the command did its work)
  1  violated: they were not
  2  what was given is wrong: arguments, scenario or kernel file
  3  error: guest or rig failed, so there is no telling
  4  skipped: host or kernel lacks what is needed
  130  ended by Ctrl-C";

const AFTER_ENTRY: &str = "\
Examples:
  ipirig entry static-key-flip               the system call after the window
  ipirig entry entry-matrix --kind nmi,timer
  ipirig entry vunmap-storm --whole --kernel ~/linux/vmlinux | less

An instruction is a line: number, address, disassembly, the memory it touches, and marks (flag set,
catch-up, first instrumentable code, user page table, flag cleared). What should not be there is on
a line of its own that begins with an exclamation mark. The run's checks go to standard error.";

const AFTER_MUTANTS: &str = "\
Examples:
  ipirig mutants                             all, after the reference kernel
  ipirig mutants flag-after-cr3 never-skips
  ipirig mutants --survivors                 also run those that nothing is expected to notice

A mutant is guest/kernel/mutants/NAME.patch on top of the series; it says which checks must notice
it. Exit code 0: each of them did, and the reference kernel held; 1: one survived. The first time a
kernel tree is built and kept (some minutes, 1.7 GB); each mutant then takes seconds to a minute to
build, and comes from the cache afterwards.";

const AFTER_RUN: &str = "\
Examples:
  ipirig run static-key-flip
  ipirig run static-key-flip --vcpus 2 --apic xapic
  ipirig run all                             every scenario, in one table
  ipirig run --group must-deliver --deferral off
  ipirig run vunmap-storm --pin 0,0,1 --json - | jq .verdict
  ipirig run static-key-flip --deferral off --cross-check
  ipirig run static-key-flip --kernel bzImage --append 'loglevel=7' --console

The first run builds the reference kernel, which takes some minutes; later runs find it in the
cache. With --kernel and without --initramfs the guest gets the agent but no module, and what needs
the module is skipped.";

/// Proves that isolated CPUs get no IPIs: boots a kernel in a VMM of its own, provokes the
/// operations that send IPIs, and counts every one.
#[derive(Debug, Parser)]
#[command(name = "ipirig", version, after_help = AFTER, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a scenario and print the verdict
    Run(Box<RunArgs>),
    /// Run a scenario and list what each first entry into the kernel executed
    Entry(Box<EntryArgs>),
    /// Build kernels with known bugs and see whether the checks notice
    Mutants(MutantsArgs),
    /// List the scenarios
    List,
    /// Say what this host offers and what to do about what is missing
    Doctor,
    /// Build the reference guest
    #[command(subcommand)]
    Guest(GuestCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum GuestCommand {
    /// Build kernel, module and initramfs, unless they are in the cache
    Build(GuestBuildArgs),
    /// Print the paths of kernel and initramfs, building them if need be
    Path(GuestPathArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct GuestBuildArgs {
    /// Which kernel; tracing: slower to boot, with tracepoints, kprobes, ftrace and BPF
    #[arg(long, value_enum, default_value_t = Flavour::Fast)]
    pub(crate) flavour: Flavour,
    /// Look for a newer kernel source
    #[arg(long)]
    pub(crate) update: bool,
    /// Compilers to run at once [default: one a core]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<NonZeroUsize>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct GuestPathArgs {
    /// Which kernel
    #[arg(long, value_enum, default_value_t = Flavour::Fast)]
    pub(crate) flavour: Flavour,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER_ENTRY)]
pub(crate) struct EntryArgs {
    /// A scenario's name (see `ipirig list`), or the path of a .toml file
    pub(crate) scenario: String,
    #[command(flatten)]
    pub(crate) options: RunOptions,
    /// Only these ways into the kernel, by their names in scenario files
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    pub(crate) kind: Vec<String>,
    /// Every instruction, not only the way in and the way out
    #[arg(long)]
    pub(crate) whole: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER_MUTANTS)]
pub(crate) struct MutantsArgs {
    /// Only these [default: all]
    pub(crate) names: Vec<String>,
    /// Also run the mutants that nothing is expected to notice yet
    #[arg(long)]
    pub(crate) survivors: bool,
    /// Write the table as JSON; `-` is standard output, and the table goes to standard error
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER_RUN)]
pub(crate) struct RunArgs {
    /// Scenarios: names (see `ipirig list`), paths of .toml files, or `all`
    #[arg(required_unless_present = "group")]
    pub(crate) scenarios: Vec<String>,
    /// All scenarios of a group
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    #[command(flatten)]
    pub(crate) options: RunOptions,
}

/// How a scenario is run.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct RunOptions {
    /// vCPUs in all: one for control, the scenario's isolated ones, the rest housekeeping
    #[arg(long, value_name = "N")]
    pub(crate) vcpus: Option<usize>,
    /// The APIC that the guest sees; auto: x2APIC where the host can
    #[arg(long, value_enum, default_value_t = Apic::Auto)]
    pub(crate) apic: Apic,
    /// Whether the kernel is told to defer IPIs
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub(crate) deferral: Switch,
    /// A vmlinux or bzImage to run instead of the reference kernel
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// An initramfs with the agent, for --kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(crate) initramfs: Option<PathBuf>,
    /// Host core of each vCPU, in order, such as 0,0,1
    #[arg(long, value_name = "CORES", value_delimiter = ',')]
    pub(crate) pin: Option<Vec<usize>>,
    /// Guest memory in MiB, 64 to 3072 [default: 128; with --kernel 512]
    #[arg(long, value_name = "MIB")]
    pub(crate) memory: Option<u64>,
    /// Write the result as JSON; `-` is standard output, and the table goes to standard error
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Show the guest's console on standard error
    #[arg(long)]
    pub(crate) console: bool,
    /// Write the guest's console to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// More kernel command line; comes last, so it wins
    #[arg(long, value_name = "CMDLINE", allow_hyphen_values = true)]
    pub(crate) append: Option<String>,
    /// Have the guest's kernel trace its IPIs as well, and compare its record with ours, IPI by IPI.
    /// Boots the kernel with tracing, unless --kernel gives one; adds the check cross-check, and
    /// how long IPIs took. Takes some 20 s more where guests are emulated
    #[arg(long)]
    pub(crate) cross_check: bool,
    /// Seconds that each phase may take [default: 120 for the boot, 60 for others]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Flavour {
    Fast,
    Tracing,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Apic {
    Auto,
    Xapic,
    X2apic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
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
