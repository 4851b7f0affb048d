//! What goes wrong with a fake guest, one thing at a time.

use ipirig_abi::Command;
use ipirig_entry::Paging;
use ipirig_machine::{GuestDebug, Levels};
use ipirig_scenario::EntryKind;

use crate::kernel::Path;

/// What goes wrong. The default is a kernel that defers as it should.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// The agent never gets ready.
    pub silent: bool,
    /// The guest stops at the first wait for which this holds.
    pub stops_in: Option<Moment>,
    /// The guest stops while something is asked of it, which fails.
    pub stops_between: bool,
    /// SIGINT arrives then.
    pub interrupted_in: Option<Moment>,
    /// More gaps come at once than are kept of them, each time.
    pub gaps_lost: bool,
    /// The agent fails with this text at that moment.
    pub fails: Option<(Moment, &'static str)>,
    /// The isolated task dies of its first order, and the agent says so.
    pub task_dies: bool,
    /// Commands and orders are not obeyed.
    pub deaf: bool,
    /// Isolated tasks do not spin once the storm has begun.
    pub heart_stops: bool,
    /// They do not spin for this many looks from the beginning of the storm on: others have the host's CPUs.
    pub heart_rests: u32,
    /// Isolated vCPUs get the storm's IPIs, this many an operation.
    pub ipis_per_operation: u64,
    /// Housekeeping vCPUs get nothing.
    pub no_witness: bool,
    /// IPIs that housekeeping vCPUs get an operation besides the first.
    pub further_witness_ipis: u64,
    /// Timer interrupts on isolated vCPUs in the window.
    pub timers: u64,
    /// IPIs that reach an isolated vCPU while a timer interrupt has it in the kernel.
    pub ipis_in_kernel: u64,
    /// Timer interrupts on isolated vCPUs all the time.
    pub never_quiet: bool,
    /// Isolated vCPUs are in the kernel once the storm has begun.
    pub in_kernel: bool,
    /// Operations that the guest leaves out, without saying so in the status.
    pub lazy: u64,
    /// It says that it did so many operations that it did not do.
    pub pretended: u64,
    /// The storm's command fails with this error number.
    pub storm_errno: u32,
    /// The first entry still sees the old branch and page.
    pub stale: bool,
    /// The first entry's system call fails.
    pub probe_errno: u32,
    /// The guest has no module.
    pub no_module: bool,
    /// What the kernel's counters say.
    pub counters: Counting,
    /// IPIs to nobody in the window.
    pub undeliverable: u64,
    /// Call-function interrupts that /proc/interrupts shows and no APIC delivered.
    pub hidden: u32,
    /// The status of each command is this code.
    pub status: Option<u32>,
    /// What a vCPU executes when it enters the kernel.
    pub path: Path,
    /// How the kernel's page tables are set up.
    pub paging: Paging,
    /// What the kernel's variable `vmalloc_base` has; `None`: it cannot be read.
    pub vmalloc_base: Option<u64>,
    /// What of guest debugging works on the host.
    pub debug: Debugging,
    /// Entry kinds that the machine cannot produce.
    pub unproducible: Vec<EntryKind>,
    /// Nobody sees what the kernel changes.
    pub changes_unseen: bool,
    /// So many looks find an isolated vCPU's timer armed.
    pub armed_timers: u32,
    /// So many looks after the storm find the isolated vCPU in the last IPI's handler.
    pub in_handler: u32,
    /// How often a record of an entry is looked at, and has grown, before it is finished; each look takes 100 ms.
    pub slow_record: usize,
    /// What the kernel lacks for a command.
    pub lacks: Option<(Command, &'static str)>,
    /// What the kernel lacks for tracing.
    pub no_tracing: Option<&'static str>,
    /// What happens to the lines of the trace.
    pub doctored: Option<fn(&mut Vec<String>)>,
    /// Events that the buffer of the control vCPU loses, by its stats.
    pub trace_lost: u64,
    /// Bytes that go missing from a file that is handed over.
    pub bytes_dropped: u64,
    /// Operations of a command that is executed.
    pub command_operations: u64,
    /// The results of executing it, instead of those of one that prints a line and exits with 0.
    pub command_results: Option<[u64; 4]>,
    /// Nothing of what it printed can be read.
    pub mute: bool,
    /// It cannot be started.
    pub fails_to_start: bool,
    /// How the kernel is set up, as the agent says.
    pub setup: &'static str,
    /// What the kernel says of a partition that was made; `None`: that it is isolated.
    pub partition: Option<&'static str>,
    /// The parts of what the kernel says of itself otherwise, whatever is asked for.
    pub kernel_text: &'static [&'static [u8]],
    /// The guest stops because KVM cannot emulate this, not because of a triple fault.
    pub unknown_instruction: &'static [u8],
}

/// What of guest debugging works on the fake's host: by default all.
#[derive(Clone, Copy, Debug)]
pub struct Debugging(pub GuestDebug);

impl Default for Debugging {
    fn default() -> Self {
        Self(GuestDebug::ALL)
    }
}

impl Debugging {
    /// As QEMU 7.2 emulates SVM: VMRUN arms no breakpoint.
    pub const NO_BREAKPOINTS: Self = Self(GuestDebug {
        breakpoints: Levels {
            kernel: false,
            entry: false,
        },
        ..GuestDebug::ALL
    });

    /// As the machine says it.
    #[must_use]
    pub fn lack(self) -> Option<String> {
        self.0.lack()
    }
}

/// How the fake kernel counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counting {
    /// As it should.
    #[default]
    Right,
    /// It has no counters.
    Absent,
    /// They are no table.
    Nonsense,
    /// Nothing was deferred.
    NothingDeferred,
    /// Deferred, never caught up.
    NeverCaughtUp,
    /// One of the deferred things is forgotten.
    OneForgotten,
    /// Something was deferred for each CPU before there was a task.
    BeforeTasks,
    /// What is deferred for isolated CPUs is deferred for housekeeping ones as well.
    Everywhere,
}

/// When something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The guest boots.
    Boot,
    /// It is about to obey this.
    Command(Command),
    /// An isolated task is about to follow an order.
    Order,
}
