//! Making a machine: from a kernel to boot, or from a snapshot to restore.

use std::sync::Arc;

use ipirig_abi::{DOORBELL_PORT, MAGIC, MAX_CPUS, Mailbox, Role, VERSION};
use ipirig_apic::{Bus, LocalApic};
use ipirig_sandbox::Sandbox;
use kvm_bindings::CpuId;
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::Machine;
use super::error::{MachineError, failed, host};
use crate::assist::Assist;
use crate::clock;
use crate::config::{ApicMode, Config};
use crate::console::Console;
use crate::cpuid::{self, Policy};
use crate::host::{Host, HostFacts};
use crate::memory::{self, MailboxMemory};
use crate::observer::Observer;
use crate::placement::Placement;
use crate::snapshot::{Snapshot, SnapshotError};
use crate::vcpu::{Timers, Vcpu};
use crate::vcpu_set::VcpuSet;
use crate::vm::{self, Apics, BlockedVcpu};
use crate::wakeups::Wakeups;
use ipirig_boot::{self as boot, BootPlan};

/// What a configuration comes to on a host.
#[derive(Debug)]
pub(crate) struct ResolvedConfig {
    pub(crate) cpus: u8,
    pub(crate) cmdline: String,
    pub(crate) policy: Policy,
}

impl ResolvedConfig {
    pub(crate) fn new(host_: &Host, config: &Config) -> Result<Self, MachineError> {
        let facts = host_.facts();
        let number = config.roles.len();
        let cpus = u8::try_from(number)
            .ok()
            .filter(|&n| n > 0 && number <= MAX_CPUS);
        let cpus = cpus.ok_or(MachineError::Cpus(number))?;
        let x2apic = match (config.apic, facts.x2apic) {
            (ApicMode::Xapic, _) | (ApicMode::Auto, false) => false,
            (ApicMode::Auto | ApicMode::X2apic, true) | (ApicMode::Kernel, _) => true,
            (ApicMode::X2apic, false) => return Err(MachineError::NoX2apic),
        };
        // Before the caller's words, so that those win.
        let quirks = host_.cmdline(number);
        let cmdline = [quirks.as_str(), config.cmdline.as_str()]
            .join(" ")
            .trim()
            .to_owned();
        let policy = Policy {
            cpus: number,
            x2apic,
            tsc_deadline: facts.tsc_deadline_khz().is_some(),
            tsc_khz: facts.tsc_khz,
            hide: host_
                .remedies
                .iter()
                .flat_map(|remedy| remedy.hide.clone())
                .collect(),
        };
        Ok(Self {
            cpus,
            cmdline,
            policy,
        })
    }
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
        let shape = ResolvedConfig::new(host_, config)?;
        let placement = placement(host_, config)?;
        let ram = memory::ram(config.memory_mib.saturating_mul(boot::layout::MIB))?;
        let loaded = boot::load(
            &ram,
            &BootPlan {
                kernel: &config.kernel,
                initramfs: &config.initramfs,
                cmdline: &shape.cmdline,
                cpus: shape.cpus,
                memory_mib: config.memory_mib,
            },
        )?;
        let machine = assemble(host_, config, observer, shape, placement, ram)?;
        if let Some(first) = machine.vcpus.first() {
            first.set_boot(&loaded).map_err(failed("KVM_SET_SREGS"))?;
        }
        Ok(machine)
    }

    /// Makes a machine, ready to start, restored from where [`Machine::save`] left another of the
    /// same configuration. Memory is shared with the snapshot's file until it is written to.
    ///
    /// # Errors
    /// The snapshot does not fit, or KVM does not take what is in it; see [`MachineError`] for the
    /// rest.
    pub fn restore(
        host_: &Host,
        config: &Config,
        observer: Arc<dyn Observer>,
        snapshot: &Snapshot,
    ) -> Result<Self, MachineError> {
        if config.apic == ApicMode::Kernel {
            return Err(SnapshotError::Misfit("KVM's own APICs are in none").into());
        }
        let shape = ResolvedConfig::new(host_, config)?;
        let placement = placement(host_, config)?;
        let bytes = config.memory_mib.saturating_mul(boot::layout::MIB);
        let ram = memory::ram(bytes)?;
        snapshot.map(&ram)?;
        let state = snapshot.state()?;
        let mut machine = assemble(host_, config, observer, shape, placement, ram)?;
        if state.vcpus.len() != machine.vcpus.len() {
            return Err(SnapshotError::Misfit("it has another number of vCPUs").into());
        }
        snapshot.fill_mailbox(&machine.mailbox)?;
        machine.vcpu_set.console.replay(&state.console);
        machine.vcpu_set.ports.restore(&state.serial.0);
        let now = clock::now();
        for (vcpu, saved) in machine.vcpus.iter_mut().zip(&state.vcpus) {
            vcpu.restore(saved, &host_.registers, now)?;
        }
        machine
            .vm
            .set_clock(&state.clock())
            .map_err(failed("KVM_SET_CLOCK"))?;
        for vcpu in &machine.vcpus {
            vcpu.tell_of_pause();
        }
        Ok(machine)
    }
}

fn placement(host_: &Host, config: &Config) -> Result<Placement, MachineError> {
    let cores = &host_.facts().cores;
    Ok(Placement::new(&config.roles, cores, config.pin.as_deref())?)
}

/// A machine with this memory, and vCPUs as after power-up.
fn assemble(
    host_: &Host,
    config: &Config,
    observer: Arc<dyn Observer>,
    shape: ResolvedConfig,
    placement: Placement,
    ram: GuestMemoryMmap,
) -> Result<Machine, MachineError> {
    let facts = host_.facts();
    let ResolvedConfig {
        cmdline, policy, ..
    } = shape;
    let cpus = policy.cpus;
    let console = Console::new(&config.console).map_err(|source| MachineError::Log {
        path: config.console.log.clone().unwrap_or_default(),
        source,
    })?;
    let mailbox = MailboxMemory::new()?;
    prepare(mailbox.mailbox(), config);

    ipirig_kick::install().map_err(host("installing the kick signal"))?;
    let follow: Vec<_> = assists(host_)
        .iter()
        .filter_map(|assist| assist.msrs())
        .collect();
    let apics = if config.apic == ApicMode::Kernel {
        Apics::Kernel
    } else {
        Apics::User
    };
    let vm = vm::create(&host_.kvm, &follow, apics)
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

    let sandbox = config.sandbox && facts.sandbox;
    let sandbox = sandbox.then(|| Sandbox::new(backtraces())).transpose()?;

    let bus = Bus::new(cpus).map_err(|_| MachineError::Cpus(cpus))?;
    let vcpu_set = Arc::new(VcpuSet::new(
        Arc::clone(&bus),
        observer,
        ram,
        console,
        stopped,
    ));
    let mut vcpus = Vec::with_capacity(cpus);
    for cpu in 0..cpus {
        let apic = LocalApic::new(Arc::clone(&bus), cpu, policy.x2apic)
            .map_err(|_| MachineError::Cpus(cpus))?;
        let table = cpuid::table(&host_.supported, &policy, cpu)?;
        let timers = Timers {
            tsc_khz: facts.tsc_deadline_khz(),
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
            Arc::clone(&vcpu_set),
            (timers, apics),
        )?);
    }
    let blocked = match apics {
        Apics::Kernel => keep_ipis_in_kvm(facts, &vm, cpus)?,
        Apics::User => None,
    };
    Ok(Machine {
        wakeups,
        placement,
        symbols: config.symbols.as_ref().unwrap_or(&config.kernel).clone(),
        cmdline,
        x2apic: policy.x2apic,
        vcpus,
        sandbox,
        threads: vec![],
        states: vec![],
        debug: facts.debug,
        _blocked: blocked,
        apics,
        events: None,
        registers: host_.registers.clone(),
        vm,
        vcpu_set,
        mailbox,
    })
}

/// Has KVM deliver the IPIs of a machine of `cpus` vCPUs itself, where hardware may do so.
fn keep_ipis_in_kvm(
    facts: &HostFacts,
    vm: &VmFd,
    cpus: usize,
) -> Result<Option<BlockedVcpu>, MachineError> {
    if !inhibits(&facts.ipis_past_kvm, facts.inhibits_acceleration)? {
        return Ok(None);
    }
    BlockedVcpu::new(vm, cpus as u64)
        .map(Some)
        .map_err(|(ioctl, source)| MachineError::Kvm { ioctl, source })
}

/// Whether hardware is to be kept from delivering IPIs: wherever KVM `can`, as what its modules'
/// parameters say cannot be read everywhere.
fn inhibits(parameters: &[String], can: bool) -> Result<bool, MachineError> {
    if !can && !parameters.is_empty() {
        return Err(MachineError::IpisPastKvm {
            parameters: parameters.to_vec(),
        });
    }
    Ok(can)
}

/// Whether a panic is to print where it came from, for which the standard library reads files (std::backtrace).
fn backtraces() -> bool {
    std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0")
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
    vcpu_set: Arc<VcpuSet>,
    (timers, apics): (Timers, Apics),
) -> Result<Vcpu, MachineError> {
    let fd = vm
        .create_vcpu(cpu as u64)
        .map_err(failed("KVM_CREATE_VCPU"))?;
    if host_.facts().enforce_pv {
        vm::enforce_pv_cpuid(&fd).map_err(failed("KVM_CAP_ENFORCE_PV_FEATURE_CPUID"))?;
    }
    fd.set_cpuid2(table).map_err(failed("KVM_SET_CPUID2"))?;
    let mut vcpu = Vcpu::new(cpu, fd, (apic, apics), vcpu_set, assists(host_), timers)
        .map_err(failed("KVM_GET_SREGS"))?;
    if host_.sync_regs {
        vcpu.sync_registers();
    }
    Ok(vcpu)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_whose_hardware_delivers_ipis_is_refused_only_where_kvm_cannot_inhibit_it() {
        let parameters = ["kvm_intel.enable_ipiv", "kvm_intel.enable_apicv"].map(str::to_owned);
        assert!(matches!(inhibits(&parameters, true), Ok(true)));
        assert!(matches!(inhibits(&[], true), Ok(true)));
        assert!(matches!(inhibits(&[], false), Ok(false)));
        assert_eq!(
            inhibits(&parameters, false).unwrap_err().to_string(),
            "hardware delivers IPIs past KVM's own APICs here (kvm_intel.enable_ipiv, \
             kvm_intel.enable_apicv), and this KVM cannot be made to deliver them for one machine: \
             load the module with kvm_intel.enable_ipiv=0 kvm_intel.enable_apicv=0, or do without \
             --apic kernel"
        );
    }
}
