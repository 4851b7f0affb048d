//! The machine: made, started, waited for, stopped. What it is made of is [`crate::Config`]'s.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipirig_abi::Mailbox;
use ipirig_image::Symbols;
use ipirig_sandbox::Sandbox;
use ipirig_terminal::interrupt;
use kvm_ioctls::VmFd;

use crate::affinity;
use crate::clock;
use crate::host::GuestDebug;
use crate::kvm_events::KvmEvents;
use crate::memory::MailboxMemory;
use crate::placement::Placement;
use crate::report::{CONSOLE_LINES, CrashReport, VcpuState};
use crate::snapshot::RegisterList;
use crate::stop::StopReason;
use crate::threads;
use crate::vcpu::Vcpu;
use crate::vcpu_set::VcpuSet;
use crate::vm::{Apics, BlockedVcpu};
use crate::wakeups::{WaitEvent, Wakeups};

mod checkpoint;
mod error;
mod make;
mod save;
mod still;

pub use checkpoint::{Beginning, Checkpoint, Follow, Raise};
pub use error::MachineError;
pub(crate) use error::failed;
use error::host;
pub(crate) use make::ResolvedConfig;
pub use still::Still;

/// How long a kernel that panicked may go on to print.
const LAST_WORDS_NS: u64 = 3_000_000_000;
/// How often [`Machine::wait`] looks for a panic on the console.
const PANIC_POLL: Duration = Duration::from_millis(200);

/// What [`Machine::wait`] came back for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wakeup {
    /// The guest rang: something changed in the mailbox.
    Doorbell,
    /// The guest no longer runs.
    Stopped(StopReason),
    /// SIGINT, SIGTERM or SIGHUP came.
    Interrupted,
    /// Nothing of that by then.
    Deadline,
}

/// A virtual machine. Dropping it stops it.
#[derive(Debug)]
pub struct Machine {
    wakeups: Wakeups,
    placement: Placement,
    symbols: PathBuf,
    cmdline: String,
    x2apic: bool,
    vcpus: Vec<Vcpu>,
    sandbox: Option<Sandbox>,
    pub(crate) threads: Vec<JoinHandle<VcpuState>>,
    states: Vec<VcpuState>,
    /// What of guest debugging works here.
    pub(crate) debug: GuestDebug,
    apics: Apics,
    /// What KVM's own APICs do.
    events: Option<KvmEvents>,
    /// What makes up a vCPU's state.
    registers: RegisterList,
    /// Keeps hardware from delivering IPIs past KVM's own APICs.
    _blocked: Option<BlockedVcpu>,
    // The VM goes after its vCPUs, the memory after the VM: KVM uses it until then.
    vm: VmFd,
    pub(crate) vcpu_set: Arc<VcpuSet>,
    mailbox: MailboxMemory,
}

impl Machine {
    /// Which host core runs which vCPU, and what to warn of.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The whole kernel command line.
    #[must_use]
    pub fn cmdline(&self) -> &str {
        &self.cmdline
    }

    /// Whether the guest is offered x2APIC.
    #[must_use]
    pub fn x2apic(&self) -> bool {
        self.x2apic
    }

    /// The mailbox. What the guest wrote there is a claim, not a fact.
    #[must_use]
    pub fn mailbox(&self) -> &Mailbox {
        self.mailbox.mailbox()
    }

    /// Whether KVM has the APICs: then the observer hears of what they do only after
    /// [`Machine::trace_kvm`], at [`Machine::report_kvm`].
    #[must_use]
    pub fn kernel_apic(&self) -> bool {
        self.apics == Apics::Kernel
    }

    /// Has KVM's own APICs recorded, by the host's trace, and what IPIs interrupt on the vCPUs `closely`
    /// ([`crate::Observer::interrupted_user`]), where the host's trace has that. To be called before
    /// [`Machine::start`], on the same thread.
    ///
    /// # Errors
    /// There is no tracefs, or no right to it.
    pub fn trace_kvm(&mut self, closely: &[usize]) -> Result<(), MachineError> {
        self.events = Some(KvmEvents::begin(closely)?);
        Ok(())
    }

    /// Tells the observer what KVM's own APICs have done since the last time. Does nothing where there is
    /// no such record.
    ///
    /// # Errors
    /// The trace cannot be read.
    pub fn report_kvm(&self) -> Result<(), MachineError> {
        let Some(events) = &self.events else {
            return Ok(());
        };
        let vcpu = |thread| {
            let mut slots = self.vcpu_set.slots.iter();
            slots.position(|slot| slot.kicker.thread() == Some(thread))
        };
        Ok(events.report(self.vcpu_set.observer.as_ref(), vcpu)?)
    }

    /// Gives the guest a device isa-debug-exit, as test images want: a write to port 0xf4 ends it with that code.
    /// A kernel has none.
    pub fn offer_debug_exit(&self) {
        self.vcpu_set.ports.offer_debug_exit();
    }

    /// Starts every vCPU's thread, and returns when each is there: it can be kicked, asked and pinned.
    /// Each may use every core until [`Machine::settle`]: a boot has one busy vCPU after the other,
    /// and on a small host those that will share a core would only wait for one another. A second
    /// call does nothing.
    ///
    /// # Errors
    /// No threads; nothing runs then.
    pub fn start(&mut self) -> Result<(), MachineError> {
        let bodies = self.vcpus.drain(..);
        let bodies = bodies.map(|vcpu| {
            let sandbox = self.sandbox.clone();
            move |arrival| vcpu.run(arrival, sandbox.as_ref())
        });
        threads::start(bodies, &mut self.threads).map_err(|source| {
            self.vcpu_set.stop(None);
            MachineError::Host {
                what: "starting a vCPU thread",
                source,
            }
        })
    }

    /// Has timer interrupts wait in HLT as well until [`Machine::settle`], where this host's remedies
    /// space them. Before Linux has high-resolution timers an idle CPU ticks a hundred times a second,
    /// which on a slow host takes half of a core from the CPU that boots. Who waits for a tick then
    /// waits longer.
    pub fn expect_boot(&self) {
        self.vcpu_set.set_booting(true);
    }

    /// Pins each vCPU to its core of [`Machine::placement`], and ends what [`Machine::expect_boot`]
    /// began. To be called when the guest has booted, before anything is measured.
    ///
    /// A machine that has stopped meanwhile is left alone; [`Machine::wait`] says why it did.
    ///
    /// # Errors
    /// The host refuses a core, or the machine was not started.
    pub fn settle(&self) -> Result<(), MachineError> {
        self.vcpu_set.set_booting(false);
        for (slot, &core) in self.vcpu_set.slots.iter().zip(&self.placement.cores) {
            let gone = || io::Error::from_raw_os_error(libc::ESRCH);
            let thread = slot.kicker.thread().ok_or_else(gone);
            let pinned = thread.and_then(|id| affinity::pin(id, core));
            // A thread ends only after it has stopped the machine.
            if pinned.is_err() && self.vcpu_set.stopping() {
                return Ok(());
            }
            pinned.map_err(host("pinning a vCPU thread"))?;
        }
        Ok(())
    }

    /// Waits for the doorbell, the end of the guest, a signal, or `deadline`.
    ///
    /// # Errors
    /// `epoll_wait`'s.
    pub fn wait(&mut self, deadline: Instant) -> Result<Wakeup, MachineError> {
        loop {
            let now = Instant::now();
            let patience = deadline.saturating_duration_since(now).min(PANIC_POLL);
            let heard = self.wakeups.wait(patience).map_err(host("epoll_wait"))?;
            if interrupt::requested() {
                return Ok(Wakeup::Interrupted);
            }
            if self.vcpu_set.stopping() {
                return Ok(Wakeup::Stopped(self.stop_reason()));
            }
            if let Some(panic) = self.vcpu_set.console.panic()
                && clock::now().saturating_sub(panic.at) > LAST_WORDS_NS
            {
                return Ok(Wakeup::Stopped(self.stop_reason()));
            }
            if heard == WaitEvent::Doorbell {
                return Ok(Wakeup::Doorbell);
            }
            if Instant::now() >= deadline {
                return Ok(Wakeup::Deadline);
            }
        }
    }

    /// The last `lines` console lines.
    #[must_use]
    pub fn console_tail(&self, lines: usize) -> Vec<String> {
        self.vcpu_set.console.tail(lines)
    }

    /// Why the log of the console is not whole, if there is one and it is not. To be asked when the machine has
    /// stopped.
    #[must_use]
    pub fn log_fault(&self) -> Option<String> {
        self.vcpu_set.console.log_fault()
    }

    /// Stops the machine, if it still runs, and says what state it was in. A panic on the console
    /// is a better reason than what the dying guest did next.
    #[must_use]
    pub fn report(&mut self, reason: StopReason) -> CrashReport {
        let states = self.stop().to_vec();
        let reason = match self.vcpu_set.console.panic() {
            Some(panic) => StopReason::Panic { line: panic.line },
            None => reason,
        };
        // A kernel without symbols makes a poorer report, not none.
        let symbols = Symbols::from_vmlinux(&self.symbols)
            .or_else(|_| Symbols::from_system_map(&self.symbols))
            .unwrap_or_default();
        let console = self.vcpu_set.console.tail(CONSOLE_LINES);
        CrashReport::new(reason, states, &symbols, console)
    }

    /// Stops the machine and waits for its threads; gives each vCPU's last state. A second call
    /// gives the same.
    pub fn stop(&mut self) -> &[VcpuState] {
        self.vcpu_set.stop(None);
        for thread in self.threads.drain(..) {
            // A vCPU thread that panicked is a bug; its message is on stderr already.
            if let Ok(state) = thread.join() {
                self.states.push(state);
            }
        }
        self.vcpu_set.console.finish();
        &self.states
    }

    fn stop_reason(&self) -> StopReason {
        match (self.vcpu_set.console.panic(), self.vcpu_set.reason()) {
            (Some(panic), _) => StopReason::Panic { line: panic.line },
            (None, Some(reason)) => reason,
            (None, None) => StopReason::Reset,
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}
