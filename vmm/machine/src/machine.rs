//! The machine: made from a [`Config`], started, waited for, sampled, stopped.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipirig_abi::{DOORBELL_PORT, MAGIC, MAX_CPUS, Mailbox, Role, VERSION};
use ipirig_apic::{Bus, LocalApic};
use ipirig_image::Symbols;
use kvm_bindings::CpuId;
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use thiserror::Error;
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::affinity;
use crate::assist::Assist;
use crate::boot::{self, BootError, BootPlan};
use crate::clock;
use crate::config::{ApicMode, Config};
use crate::console::Console;
use crate::cpuid::{self, CpuidError, Policy};
use crate::fleet::Fleet;
use crate::host::{Host, HostFacts};
use crate::kick;
use crate::memory::{self, MailboxMemory, MemoryError};
use crate::observer::Observer;
use crate::placement::{Placement, PlacementError};
use crate::report::{CONSOLE_LINES, CrashReport, VcpuState};
use crate::stop::StopReason;
use crate::vcpu::{Timers, Vcpu};
use crate::vm;
use crate::wakeups::{Heard, Wakeups};

/// How long a kernel that panicked may go on to print.
const LAST_WORDS_NS: u64 = 3_000_000_000;
/// How often [`Machine::wait`] looks for a panic on the console.
const PANIC_POLL: Duration = Duration::from_millis(200);

/// Why a machine could not be made or started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MachineError {
    /// The number of vCPUs is out of range.
    #[error("{0} vCPUs asked for; a machine has 1 to {MAX_CPUS}")]
    Cpus(usize),
    /// The kernel, the initramfs or the command line cannot be booted.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The vCPUs cannot be placed as asked.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// No memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// x2APIC was asked for by name.
    #[error("this host's KVM does not bring x2APIC registers to user space; use --apic xapic")]
    NoX2apic,
    /// The CPUID table does not fit.
    #[error(transparent)]
    Cpuid(#[from] CpuidError),
    /// The console's log cannot be written.
    #[error("cannot create the console log {}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A vCPU does not answer: there is none of that number, or the machine stopped.
    #[error("vCPU {0} does not answer")]
    NoAnswer(usize),
    /// A guest kernel cannot be stopped at an instruction here.
    #[error("this host's KVM cannot step a guest kernel")]
    NoStepping,
    /// There are four debug registers.
    #[error("vCPU {0} has more addresses to stop at than debug registers")]
    TooManyStops(usize),
    /// A KVM ioctl failed.
    #[error("{ioctl} failed")]
    Kvm {
        /// The ioctl.
        ioctl: &'static str,
        /// Its error.
        #[source]
        source: errno::Error,
    },
    /// A host facility failed.
    #[error("{what} failed")]
    Host {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl MachineError {
    /// Whether what the user gave is at fault, rather than the host.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Cpus(_) | Self::Boot(_) | Self::Placement(_) | Self::Log { .. }
        )
    }
}

pub(crate) fn failed(ioctl: &'static str) -> impl FnOnce(errno::Error) -> MachineError {
    move |source| MachineError::Kvm { ioctl, source }
}

fn host(what: &'static str) -> impl FnOnce(io::Error) -> MachineError {
    move |source| MachineError::Host { what, source }
}

/// What [`Machine::wait`] came back for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wakeup {
    /// The guest rang: something changed in the mailbox.
    Doorbell,
    /// The guest no longer runs.
    Stopped(StopReason),
    /// SIGINT or SIGTERM came.
    Interrupted,
    /// Nothing of that by then.
    Deadline,
}

/// A virtual machine. Dropping it stops it.
#[derive(Debug)]
pub struct Machine {
    wakeups: Wakeups,
    placement: Placement,
    kernel: PathBuf,
    cmdline: String,
    x2apic: bool,
    vcpus: Vec<Vcpu>,
    pub(crate) threads: Vec<JoinHandle<VcpuState>>,
    states: Vec<VcpuState>,
    /// Whether a guest kernel can be stepped here.
    pub(crate) single_step: bool,
    // The VM goes after its vCPUs, the memory after the VM: KVM uses it until then.
    _vm: VmFd,
    pub(crate) fleet: Arc<Fleet>,
    mailbox: MailboxMemory,
}

impl Machine {
    /// Makes a machine, ready to start: guest loaded, vCPUs created, nothing running.
    ///
    /// # Errors
    /// See [`MachineError`]; [`MachineError::is_usage`] tells whose fault it is.
    pub fn new(
        host_: &Host,
        config: &Config,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, MachineError> {
        let facts = host_.facts();
        let cpus = config.roles.len();
        let count = u8::try_from(cpus)
            .ok()
            .filter(|&n| n > 0 && cpus <= MAX_CPUS);
        let count = count.ok_or(MachineError::Cpus(cpus))?;
        let x2apic = match (config.apic, facts.x2apic) {
            (ApicMode::Xapic, _) | (ApicMode::Auto, false) => false,
            (ApicMode::Auto | ApicMode::X2apic, true) => true,
            (ApicMode::X2apic, false) => return Err(MachineError::NoX2apic),
        };
        let placement = Placement::new(&config.roles, &facts.cores, config.pin.as_deref())?;
        let quirks = host_.cmdline();
        let cmdline = [config.cmdline.as_str(), quirks.as_str()]
            .join(" ")
            .trim()
            .to_owned();
        let ram = memory::ram(config.memory_mib.saturating_mul(boot::layout::MIB))?;
        let loaded = boot::load(
            &ram,
            &BootPlan {
                kernel: &config.kernel,
                initramfs: &config.initramfs,
                cmdline: &cmdline,
                cpus: count,
                memory_mib: config.memory_mib,
            },
        )?;
        let console = Console::new(&config.console).map_err(|source| MachineError::Log {
            path: config.console.log.clone().unwrap_or_default(),
            source,
        })?;
        let mailbox = MailboxMemory::new()?;
        prepare(mailbox.mailbox(), config);

        kick::install().map_err(host("installing the kick signal"))?;
        let follow: Vec<_> = assists(host_)
            .iter()
            .filter_map(|assist| assist.msrs())
            .collect();
        let vm = vm::create(&host_.kvm, &follow)
            .map_err(|(ioctl, source)| MachineError::Kvm { ioctl, source })?;
        memory::map(&vm, 0, &ram)?;
        mailbox.map(&vm, 1)?;
        let doorbell = event()?;
        vm.register_ioevent(
            &doorbell,
            &IoEventAddress::Pio(u64::from(DOORBELL_PORT)),
            NoDatamatch,
        )
        .map_err(failed("KVM_IOEVENTFD"))?;
        let stopped = event()?;
        let heard_stopped = stopped.try_clone().map_err(host("dup"))?;
        let wakeups = Wakeups::new(doorbell, heard_stopped).map_err(host("making an epoll set"))?;

        let bus = Bus::new(cpus).map_err(|_| MachineError::Cpus(cpus))?;
        let fleet = Arc::new(Fleet::new(
            Arc::clone(&bus),
            observer,
            ram,
            console,
            stopped,
        ));
        let policy = Policy {
            cpus,
            x2apic,
            tsc_deadline: tsc_deadline_khz(facts).is_some(),
            tsc_khz: facts.tsc_khz,
            hide: host_
                .remedies
                .iter()
                .flat_map(|remedy| remedy.hide.clone())
                .collect(),
        };
        let mut vcpus = Vec::with_capacity(cpus);
        for cpu in 0..cpus {
            let apic = LocalApic::new(Arc::clone(&bus), cpu, x2apic)
                .map_err(|_| MachineError::Cpus(cpus))?;
            let table = cpuid::table(&host_.supported, &policy, cpu)?;
            let timers = Timers {
                tsc_khz: tsc_deadline_khz(facts),
                slack_ns: host_
                    .remedies
                    .iter()
                    .map(|r| r.timer_slack_ns)
                    .max()
                    .unwrap_or(0),
                exact_in_user: config.roles.get(cpu) == Some(&Role::Isolated),
            };
            vcpus.push(vcpu(
                host_,
                &vm,
                cpu,
                &table,
                apic,
                Arc::clone(&fleet),
                timers,
            )?);
        }
        if let Some(first) = vcpus.first() {
            first.set_boot(&loaded).map_err(failed("KVM_SET_SREGS"))?;
        }
        Ok(Self {
            wakeups,
            placement,
            kernel: config.kernel.clone(),
            cmdline,
            x2apic,
            vcpus,
            threads: vec![],
            states: vec![],
            single_step: facts.single_step,
            _vm: vm,
            fleet,
            mailbox,
        })
    }

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

    /// Starts every vCPU's thread. Each may use every core until [`Machine::settle`]: a boot has one
    /// busy vCPU after the other, and on a small host those that will share a core would only wait
    /// for one another. A second call does nothing.
    ///
    /// # Errors
    /// No threads; nothing runs then.
    pub fn start(&mut self) -> Result<(), MachineError> {
        for (cpu, vcpu) in self.vcpus.drain(..).enumerate() {
            let body = move || vcpu.run();
            let thread = thread::Builder::new()
                .name(format!("vcpu{cpu}"))
                .spawn(body);
            match thread {
                Ok(thread) => self.threads.push(thread),
                Err(source) => {
                    self.fleet.stop(None);
                    return Err(MachineError::Host {
                        what: "starting a vCPU thread",
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    /// Pins each vCPU to its core of [`Machine::placement`]. To be called when the guest has booted,
    /// before anything is measured.
    ///
    /// # Errors
    /// The host refuses a core, or a vCPU does not run any more.
    pub fn settle(&self) -> Result<(), MachineError> {
        for (slot, &core) in self.fleet.slots.iter().zip(&self.placement.cores) {
            let thread = slot.kicker.thread();
            let gone = || io::Error::from_raw_os_error(libc::ESRCH);
            thread
                .ok_or_else(gone)
                .and_then(|id| affinity::pin(id, core))
                .map_err(host("pinning a vCPU thread"))?;
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
            if crate::interrupt::requested() {
                return Ok(Wakeup::Interrupted);
            }
            if self.fleet.stopping() {
                return Ok(Wakeup::Stopped(self.stop_reason()));
            }
            if let Some(panic) = self.fleet.console.panic()
                && clock::now().saturating_sub(panic.at) > LAST_WORDS_NS
            {
                return Ok(Wakeup::Stopped(self.stop_reason()));
            }
            if heard == Heard::Doorbell {
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
        self.fleet.console.tail(lines)
    }

    /// Stops the machine, if it still runs, and says what state it was in. A panic on the console
    /// is a better reason than what the dying guest did next.
    #[must_use]
    pub fn report(&mut self, reason: StopReason) -> CrashReport {
        let states = self.stop().to_vec();
        let reason = match self.fleet.console.panic() {
            Some(panic) => StopReason::Panic { line: panic.line },
            None => reason,
        };
        // A kernel without symbols makes a poorer report, not none.
        let symbols = Symbols::from_vmlinux(&self.kernel).unwrap_or_default();
        let console = self.fleet.console.tail(CONSOLE_LINES);
        CrashReport::new(reason, states, &symbols, console)
    }

    /// Stops the machine and waits for its threads; gives each vCPU's last state. A second call
    /// gives the same.
    pub fn stop(&mut self) -> &[VcpuState] {
        self.fleet.stop(None);
        for thread in self.threads.drain(..) {
            // A vCPU thread that panicked is a bug; its message is on stderr already.
            if let Ok(state) = thread.join() {
                self.states.push(state);
            }
        }
        // A full disk loses the log's end, which the report does not need.
        let _ = self.fleet.console.flush();
        &self.states
    }

    fn stop_reason(&self) -> StopReason {
        match (self.fleet.console.panic(), self.fleet.reason()) {
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

fn event() -> Result<EventFd, MachineError> {
    EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(host("eventfd"))
}

fn assists(host_: &Host) -> Vec<Box<dyn Assist>> {
    host_
        .remedies
        .iter()
        .filter_map(|remedy| remedy.assist)
        .map(|make| make())
        .collect()
}

fn vcpu(
    host_: &Host,
    vm: &VmFd,
    cpu: usize,
    table: &CpuId,
    apic: LocalApic,
    fleet: Arc<Fleet>,
    timers: Timers,
) -> Result<Vcpu, MachineError> {
    let fd = vm
        .create_vcpu(cpu as u64)
        .map_err(failed("KVM_CREATE_VCPU"))?;
    if host_.facts().enforce_pv {
        vm::enforce_pv_cpuid(&fd).map_err(failed("KVM_CAP_ENFORCE_PV_FEATURE_CPUID"))?;
    }
    fd.set_cpuid2(table).map_err(failed("KVM_SET_CPUID2"))?;
    Vcpu::new(cpu, fd, apic, fleet, assists(host_), timers).map_err(failed("KVM_GET_SREGS"))
}

/// The TSC's frequency, if the guest is to have the TSC-deadline timer: where its MSR comes to user
/// space. Without the mode Linux has to calibrate the APIC timer against the TSC's frequency, by
/// CPUID leaf 0x15 on Intel; on others it looks for a PIT (`apic_needs_pit`), unless ACPI tells it
/// that there is none.
fn tsc_deadline_khz(facts: &HostFacts) -> Option<u32> {
    let offer = facts.tsc_deadline && facts.tsc_khz != 0;
    offer.then_some(facts.tsc_khz)
}

fn prepare(mailbox: &Mailbox, config: &Config) {
    use std::sync::atomic::Ordering::Relaxed;
    mailbox.header.magic.store(MAGIC, Relaxed);
    mailbox.header.version.store(VERSION, Relaxed);
    mailbox
        .header
        .cpus
        .store(config.roles.len() as u32, Relaxed);
    for (slot, &role) in mailbox.cpus.iter().zip(&config.roles) {
        slot.role.store(role.into(), Relaxed);
    }
}
