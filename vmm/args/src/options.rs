//! Options that several commands share.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args as ClapArgs, ValueEnum};
use ipirig_guest::Flavour;

/// Results in other people's formats.
#[derive(Clone, Debug, ClapArgs)]
pub struct ReportArgs {
    /// Write the results as KTAP, for kernel CI; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub ktap: Option<PathBuf>,
    /// Write the results as JUnit XML, for what shows test reports; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
}

/// Results for people, beside what is printed.
#[derive(Clone, Debug, ClapArgs)]
pub struct PictureOptions {
    /// Write a report of all runs as one web page that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write a Chrome trace of all runs, for ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

impl PictureOptions {
    /// Whether none is asked for.
    #[must_use]
    pub fn none(&self) -> bool {
        self.html.is_none() && self.trace.is_none()
    }
}

/// How the guest's console is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConsoleStyle {
    /// Without its control characters.
    Text,
    /// As it comes: the guest can then do with the terminal what it likes.
    Raw,
}

/// How a scenario is run.
#[derive(Clone, Debug, ClapArgs)]
pub struct RunOptions {
    /// vCPUs in all: one for control, the scenario's isolated ones, the rest housekeeping
    #[arg(long, value_name = "N")]
    pub vcpus: Option<usize>,
    /// The APIC that the guest sees; auto: x2APIC where the host can. kernel: KVM's own, with IPIs counted
    /// by the host's trace (needs tracefs and root): a second opinion, with less evidence
    #[arg(long, value_enum, default_value_t = Apic::Auto)]
    pub apic: Apic,
    /// Whether the kernel is told to defer IPIs
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub deferral: Switch,
    /// Which reference kernel; rt: with tracing and PREEMPT_RT [default: what the scenario
    /// needs]
    #[arg(long, value_parser = flavours(), conflicts_with_all = ["kernel", "tree", "stock"])]
    pub flavour: Option<Flavour>,
    /// A vmlinux or bzImage to run instead of the reference kernel
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// The vmlinux of --kernel, with code and symbols, where that is a bzImage or stripped
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub vmlinux: Option<PathBuf>,
    /// The System.map of --kernel, or a copy of its /proc/kallsyms: for names in call chains
    #[arg(
        long,
        value_name = "FILE",
        requires = "kernel",
        conflicts_with = "vmlinux"
    )]
    pub symbols: Option<PathBuf>,
    /// A built kernel tree to run the kernel of, with ipirig.ko built against it: the source, or what `make
    /// O=` named
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kernel", "initramfs"])]
    pub tree: Option<PathBuf>,
    /// Have make bring a kernel of the source --tree up to date first, with the rig's own configuration and
    /// in a directory of the cache
    #[arg(long, requires = "tree")]
    pub build: bool,
    /// A kernel as Debian ships its source, built here, with a module for it: 7.2, 6.12 and
    /// what else apt offers. It defers nothing
    #[arg(long, value_name = "VERSION", conflicts_with_all = ["kernel", "tree", "initramfs"])]
    pub stock: Option<String>,
    /// Put the reference series onto the source of --stock first: 6.12 and 7.2 have one
    #[arg(long, requires = "stock")]
    pub series: bool,
    /// An initramfs with the agent, for --kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initramfs: Option<PathBuf>,
    /// Host core of each vCPU, in order, such as 0,0,1
    #[arg(long, value_name = "CORES", value_delimiter = ',')]
    pub pin: Option<Vec<usize>>,
    /// Guest memory in MiB, 64 to 3072 [default: 128; with --kernel 512]
    #[arg(long, value_name = "MIB")]
    pub memory: Option<u64>,
    /// Write the result as JSON; `-` is standard output, and the table goes to standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Show the guest's console on standard error, without its control characters; `raw`: with them
    #[arg(long, value_name = "STYLE", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    pub console: Option<ConsoleStyle>,
    /// Write the guest's console to a file
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Boot, whatever snapshot of a booted guest there is, and keep none
    #[arg(long)]
    pub cold: bool,
    /// Words of the rig's own to leave off the kernel command line, such as pti,nowatchdog
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    pub without: Vec<String>,
    /// More kernel command line; comes last, so it wins. Of nohz_full= and isolcpus= the kernel keeps the
    /// first: --without takes the rig's off
    #[arg(long, value_name = "CMDLINE", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// Do not take the stacks of who sends IPIs: senders are then named, but not their reasons
    #[arg(long)]
    pub no_stacks: bool,
    /// Have the guest's kernel trace its IPIs as well, and compare its record with ours, IPI by IPI.
    /// Boots the kernel with tracing, unless --kernel gives one; adds the check cross-check, and
    /// how long IPIs took. Takes some 20 s more where guests are emulated
    #[arg(long)]
    pub cross_check: bool,
    /// Let the threads of vCPUs make any system call. Else they may make those only that they need, where
    /// the host's kernel has seccomp; any other ends ipirig with an error that names it
    #[arg(long)]
    pub no_sandbox: bool,
    /// Seconds that each phase may take [default: 120 for the boot, 60 for others]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// The build id of --vmlinux.
    #[arg(skip)]
    pub build_id: Option<String>,
    /// Where the kernel of --stock comes from.
    #[arg(skip)]
    pub package: Option<String>,
    /// The verdict is on isolation alone; an option of the commands that give one.
    #[arg(skip)]
    pub isolation_only: bool,
}

/// Reads the name of a flavour.
pub(crate) fn flavours() -> impl TypedValueParser<Value = Flavour> {
    let names = PossibleValuesParser::new(Flavour::ALL.map(Flavour::name));
    names.map(|name| Flavour::find(&name).unwrap_or_default())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Apic {
    Auto,
    Xapic,
    X2apic,
    Kernel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}
