//! One vCPU and its thread: run, look at the exit, look at the APIC, run again.

mod annotate;
mod cause;
mod debug;
mod exits;
mod follower;
mod inject;
mod placed;
mod pushed_flags;
mod recorder;
mod saved;
mod sender;
mod stops;

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ipirig_apic::{Icr, Line, LocalApic, Work};
use ipirig_entry::Record;
use ipirig_kick::ImmediateExit;
use ipirig_sandbox::Sandbox;
use kvm_bindings::{
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, kvm_regs, kvm_segment, kvm_sregs,
    kvm_vcpu_events,
};
use kvm_ioctls::{SyncReg, VcpuFd};
use vmm_sys_util::errno;

use crate::assist::{Assist, Cpu};
use crate::clock::{self, Moment};
use crate::msr;
use crate::report::{Counters, VcpuState};
use crate::stop::StopReason;
use crate::sys;
use crate::threads::Arrival;
use crate::timer::KickTimer;
use crate::vcpu_set::{Sample, Slot, VcpuSet};
use crate::vm::Apics;
use ipirig_boot as boot;

use annotate::Annotate;
use follower::Follower;
pub use placed::Placed;
use placed::Placing;
use recorder::Recorder;
use stops::Stops;

/// How often both clocks are read for one moment.
const LOOKS: usize = 8;

/// Assists look at the guest every so many turns of the loop.
const LOOK_EVERY: u64 = 256;
/// What failed, when the call was an assist's.
const ASSIST_FAILED: &str = "an assist's ioctl";
/// Bytes kept at RIP for reports: the longest instruction.
const INSTRUCTION: usize = 15;

/// A vCPU, before and while its thread runs.
pub(crate) struct Vcpu {
    cpu: usize,
    fd: VcpuFd,
    cr8: sys::Cr8,
    immediate_exit: ImmediateExit,
    apic: LocalApic,
    apics: Apics,
    vcpu_set: Arc<VcpuSet>,
    assists: Vec<Box<dyn Assist>>,
    timers: Timers,
    /// When the last timer interrupt was injected.
    last_tick: u64,
    reset: (kvm_sregs, kvm_regs),
    counters: Counters,
    halted: bool,
    /// The last exit was for an access that KVM completes at the next entry (KVM API 5).
    unfinished: bool,
    stops: Stops,
    recorder: Recorder,
    /// An event that is to come at an instruction.
    placing: Option<Placing>,
    /// Interrupts that are recorded, if any.
    follower: Option<Follower>,
    /// Re-entries at the same RIP after bytes that changed under the emulator.
    raced: u32,
    /// KVM leaves the registers in `kvm_run` at each exit (KVM API 5, `kvm_valid_regs`).
    synced: bool,
}

impl fmt::Debug for Vcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vcpu")
            .field("cpu", &self.cpu)
            .finish_non_exhaustive()
    }
}

/// How a vCPU's APIC timer works on this host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timers {
    /// TSC frequency in kHz, if the guest is offered the TSC-deadline mode.
    pub(crate) tsc_khz: Option<u32>,
    /// Nanoseconds between two timer interrupts while at work; 0 on most hosts.
    pub(crate) slack_ns: u64,
    /// Interrupts in CPL 3 are on time all the same.
    pub(crate) exact_in_user: bool,
}

/// The loop ends.
#[derive(Debug)]
enum Break {
    /// Somebody asked for it.
    Requested,
    /// This vCPU has a reason.
    Because(StopReason),
}

/// Ends the machine with the thread of a vCPU, however that ends.
struct EndOfThread<'a> {
    vcpu_set: &'a VcpuSet,
    cpu: usize,
}

impl Drop for EndOfThread<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let cpu = self.cpu;
            self.vcpu_set.stop(Some(StopReason::Bug { cpu }));
        }
    }
}

impl Vcpu {
    pub(crate) fn new(
        cpu: usize,
        mut fd: VcpuFd,
        (mut apic, apics): (LocalApic, Apics),
        vcpu_set: Arc<VcpuSet>,
        assists: Vec<Box<dyn Assist>>,
        timers: Timers,
    ) -> Result<Self, errno::Error> {
        let reset = (fd.get_sregs()?, fd.get_regs()?);
        if timers.tsc_khz.is_some() {
            apic.offer_tsc_deadline();
        }
        let counters = Counters::new(assists.iter().map(|assist| assist.name()));
        Ok(Self {
            cpu,
            cr8: sys::Cr8::of(&mut fd),
            immediate_exit: sys::immediate_exit(&mut fd),
            fd,
            apic,
            apics,
            vcpu_set,
            assists,
            timers,
            last_tick: 0,
            reset,
            counters,
            halted: false,
            unfinished: false,
            stops: Stops::default(),
            recorder: Recorder::default(),
            placing: None,
            follower: None,
            raced: 0,
            synced: false,
        })
    }

    /// Has KVM leave the general registers in `kvm_run` at each exit. Only where it can, and the system
    /// registers as well.
    pub(crate) fn sync_registers(&mut self) {
        self.fd.set_sync_valid_reg(SyncReg::Register);
        self.synced = true;
    }

    /// Sets the registers of the boot CPU.
    pub(crate) fn set_boot(&self, loaded: &boot::Loaded) -> Result<(), errno::Error> {
        self.fd.set_sregs(&boot::cpu::boot_sregs(self.reset.0))?;
        self.fd.set_regs(&boot::cpu::boot_regs(loaded))
    }

    /// Runs until the machine stops, once it has announced that it can be kicked; gives back the
    /// vCPU's last state.
    pub(crate) fn run(mut self, arrival: Arrival, sandbox: Option<&Sandbox>) -> VcpuState {
        let vcpu_set = Arc::clone(&self.vcpu_set);
        let Some(slot) = vcpu_set.slots.get(self.cpu) else {
            return self.state();
        };
        let _end = EndOfThread {
            vcpu_set: &vcpu_set,
            cpu: self.cpu,
        };
        let _attached = ipirig_kick::attach(&slot.kicker, &self.immediate_exit);
        arrival.announce();
        let end = match self.confine(sandbox) {
            Ok(mut timer) => loop {
                if let Err(end) = self.turn(slot, &mut timer) {
                    break end;
                }
            },
            Err(end) => end,
        };
        self.end(end);
        self.state()
    }

    /// Takes from the calling thread what it will not need any more; with the timer, which it does.
    fn confine(&self, sandbox: Option<&Sandbox>) -> Result<KickTimer, Break> {
        let timer = KickTimer::for_this_thread().map_err(|e| self.host("timer_create", e))?;
        if let Some(sandbox) = sandbox {
            let confined = sandbox.enter(self.cpu);
            confined.map_err(|e| self.host("its sandbox", e))?;
        }
        Ok(timer)
    }

    /// Ends the whole machine.
    fn end(&self, end: Break) {
        self.vcpu_set.stop(match end {
            Break::Requested => None,
            Break::Because(reason) => Some(reason),
        });
    }

    /// One turn: pending requests and APIC work, then the guest until its next exit.
    fn turn(&mut self, slot: &Slot, timer: &mut KickTimer) -> Result<(), Break> {
        if self.vcpu_set.stopping() {
            return Err(Break::Requested);
        }
        if slot.answer(self) {
            // Which may have cleared `immediate_exit`, the one sign of a kick: look again.
            return Ok(());
        }
        if self.stands() {
            slot.kicker
                .park(None, || self.vcpu_set.stopping() || slot.asked());
            return Ok(());
        }
        self.counters.turns += 1;
        if self.counters.turns.is_multiple_of(LOOK_EVERY) {
            self.look()?;
        }
        if self.apics == Apics::Kernel {
            // KVM delivers, halts and starts by itself.
            self.before_entry()?;
            return if self.stands() { Ok(()) } else { self.enter() };
        }
        let now = self.timer_time()?;
        let work = self.apic.poll(now);
        if work.init || work.startup.is_some() {
            return self.take_reset(work);
        }
        if self.apic.waiting_for_startup() {
            self.park(slot, |apic, now| {
                let work = apic.poll(now);
                work.init || work.startup.is_some()
            });
            return Ok(());
        }
        let idle = self.halted;
        if self.halted {
            let open = self.fd.get_kvm_run().if_flag != 0;
            let wakes = |work: Work| work.nmi || work.init || (open && work.interrupt.is_some());
            if !wakes(work) {
                self.park(slot, |apic, now| wakes(apic.poll(now)));
                return Ok(());
            }
            self.halted = false;
        }
        // Before anything is injected: where a record ends, what had to wait for that is due.
        self.before_entry()?;
        if self.stands() {
            // What follows the last instruction that was taken down is not for the guest to execute.
            return Ok(());
        }
        self.deliver(work, now, idle)?;
        // Once it has passed and must wait, the next look is when it need not any more. By the true
        // time: `now` is before every deadline that waits.
        let passed = clock::now();
        let due = self
            .apic
            .timer_deadline()
            .map(|at| if at > passed { at } else { self.next_tick() });
        timer.set(due).map_err(|e| self.host("timer_settime", e))?;
        // CR8 is input and output of KVM_RUN without an in-kernel APIC (KVM API 5).
        self.fd.get_kvm_run().cr8 = u64::from(self.apic.cr8());
        self.enter()
    }

    /// What time it is for the APIC timer: just before its deadline, if that has passed but the
    /// interrupt must wait.
    fn timer_time(&self) -> Result<u64, Break> {
        let now = clock::now();
        let held = held_back(now, self.apic.timer_deadline(), self.next_tick());
        if held < now && self.may_wait()? {
            return Ok(held);
        }
        Ok(now)
    }

    /// Before then the timer does not interrupt this vCPU, if it may be late.
    fn next_tick(&self) -> u64 {
        self.last_tick.saturating_add(self.timers.slack_ns)
    }

    /// Whether a timer interrupt of this vCPU may be late.
    fn may_wait(&self) -> Result<bool, Break> {
        if self.halted {
            return Ok(self.vcpu_set.booting());
        }
        Ok(!self.timers.exact_in_user || self.cpl()? == 0)
    }

    fn park(&mut self, slot: &Slot, busy: impl FnOnce(&mut LocalApic, u64) -> bool) {
        self.counters.parks += 1;
        let deadline = self.apic.timer_deadline();
        let least = if self.vcpu_set.booting() {
            self.next_tick()
        } else {
            0
        };
        let vcpu_set = &self.vcpu_set;
        let apic = &mut self.apic;
        let longest = deadline.map(|at| {
            let left = at.max(least).saturating_sub(clock::now());
            Duration::from_nanos(left)
        });
        slot.kicker.park(longest, || {
            let now = held_back(clock::now(), deadline, least);
            vcpu_set.stopping() || slot.asked() || busy(apic, now)
        });
    }

    /// INIT and SIPI (SDM vol. 3, 9.4 and 11.6.1).
    fn take_reset(&mut self, work: Work) -> Result<(), Break> {
        let vcpu_set = Arc::clone(&self.vcpu_set);
        let observer = Annotate::taking(vcpu_set.observer.as_ref(), None, false);
        if work.init {
            if self.cpu == 0 {
                // The boot CPU would start at the firmware's reset vector; there is no firmware.
                return Err(Break::Because(StopReason::Reset));
            }
            self.complete_exit();
            self.apic.accept_init(&observer);
            self.halted = false;
        }
        if work.startup.is_some()
            && let Some(vector) = self.apic.accept_startup(&observer)
        {
            let (sregs, regs) = self.reset;
            self.fd
                .set_sregs(&boot::cpu::sipi_sregs(sregs, vector))
                .and_then(|()| self.fd.set_regs(&boot::cpu::sipi_regs(regs)))
                .and_then(|()| self.fd.set_vcpu_events(&no_events()))
                .map_err(|e| self.host("KVM_SET_SREGS", e))?;
            self.not_ready();
        }
        Ok(())
    }

    /// Lets KVM finish the access that the last exit was for, which it else would do at the next
    /// entry, to registers that a reset has changed by then (KVM API 5).
    fn complete_exit(&mut self) {
        self.immediate_exit.set();
        // EINTR is what it is asked for.
        let _ = self.fd.run();
        self.immediate_exit.clear();
        self.unfinished = false;
    }

    fn look(&mut self) -> Result<(), Break> {
        let cpu = Cpu {
            fd: &self.fd,
            memory: &self.vcpu_set.memory,
        };
        for assist in &mut self.assists {
            if let Err(error) = assist.look(&cpu) {
                return Err(self.host(ASSIST_FAILED, error));
            }
        }
        self.stop_where_wanted()
    }

    /// The vCPU as assists and the recorder look at it.
    fn access(&self) -> Cpu<'_> {
        Cpu {
            fd: &self.fd,
            memory: &self.vcpu_set.memory,
        }
    }

    fn regs(&self) -> Result<kvm_regs, Break> {
        self.fd.get_regs().map_err(|e| self.host("KVM_GET_REGS", e))
    }

    fn sregs(&self) -> Result<kvm_sregs, Break> {
        let sregs = self.fd.get_sregs();
        sregs.map_err(|e| self.host("KVM_GET_SREGS", e))
    }

    fn set_regs(&self, regs: &kvm_regs) -> Result<(), Break> {
        self.fd
            .set_regs(regs)
            .map_err(|e| self.host("KVM_SET_REGS", e))
    }

    fn cpl(&self) -> Result<u8, Break> {
        let sregs = self.sregs()?;
        Ok(privilege(&sregs.ss, &sregs.cs))
    }

    /// Gives away the record of a kernel entry, if one is finished.
    pub(crate) fn take_record(&mut self) -> Option<Record> {
        self.recorder.take()
    }

    /// Instructions of the record so far.
    pub(crate) fn recorded(&self) -> usize {
        self.recorder.steps()
    }

    /// Raises a line of the APIC.
    pub(crate) fn raise(&mut self, line: Line) -> bool {
        self.apic.raise(line)
    }

    /// Has an IPI with `vector` come, from itself. The observer does not hear of who sent it. `false`: the
    /// APIC does not take it.
    pub(crate) fn raise_ipi(&mut self, vector: u8) -> bool {
        let sent = self.vcpu_set.bus.send(self.cpu, Icr::self_ipi(vector), &());
        sent.ipi.targets.contains(self.cpu)
    }

    /// Where SYSCALL goes.
    pub(crate) fn lstar(&self) -> Result<u64, errno::Error> {
        recorder::lstar(&self.fd)
    }

    /// Now, by the guest's IA32_TIME_STAMP_COUNTER (SDM vol. 4, table 2-2) and by the machine's clock. Of some looks
    /// the quickest: in another this thread may have lost its CPU between the two clocks.
    pub(crate) fn moment(&self) -> Result<Moment, errno::Error> {
        let (mut quickest, mut moment) = (u64::MAX, Moment::default());
        for _ in 0..LOOKS {
            let before = clock::now();
            let tsc = msr::read(&self.fd, msr::TSC)?;
            let took = clock::now().saturating_sub(before);
            if took < quickest {
                let time_ns = before + took / 2;
                (quickest, moment) = (took, Moment { tsc, time_ns });
            }
        }
        Ok(moment)
    }

    /// Reads at a guest-virtual address; `false` where nothing is mapped there.
    pub(crate) fn read_virtual(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.access().read_virtual(address, buffer)
    }

    /// The guest-physical address of a guest-virtual one.
    pub(crate) fn translate(&self, address: u64) -> Option<u64> {
        let translation = self.fd.translate_gva(address).ok()?;
        (translation.valid != 0).then_some(translation.physical_address)
    }

    pub(crate) fn sample(&self) -> Result<Sample, errno::Error> {
        let regs = self.fd.get_regs()?;
        let sregs = self.fd.get_sregs()?;
        Ok(Sample {
            rip: regs.rip,
            rsp: regs.rsp,
            rflags: regs.rflags,
            cr3: sregs.cr3,
            cr4: sregs.cr4,
            cpl: privilege(&sregs.ss, &sregs.cs),
            parked: self.halted || self.apic.waiting_for_startup(),
            timer: self.apic.timer_deadline(),
        })
    }

    fn host(&self, what: &'static str, error: impl fmt::Display) -> Break {
        Break::Because(StopReason::Host {
            cpu: self.cpu,
            what,
            error: error.to_string(),
        })
    }

    /// Everything a report says about this vCPU.
    fn state(&self) -> VcpuState {
        let regs = self.fd.get_regs().unwrap_or_default();
        let sregs = self.fd.get_sregs().unwrap_or_default();
        let cpu = self.access();
        let mut instruction = vec![0; INSTRUCTION];
        while !instruction.is_empty() && !cpu.read_virtual(regs.rip, &mut instruction) {
            instruction.pop();
        }
        VcpuState {
            cpu: self.cpu,
            regs,
            cr2: sregs.cr2,
            cr3: sregs.cr3,
            cpl: privilege(&sregs.ss, &sregs.cs),
            halted: self.halted,
            waiting_for_startup: self.apic.waiting_for_startup(),
            instruction,
            counters: self.counters.clone(),
        }
    }
}

/// `now`, but just before `deadline` while that has passed and `least` has not.
fn held_back(now: u64, deadline: Option<u64>, least: u64) -> u64 {
    match deadline {
        Some(at) if at <= now && now < least => at.saturating_sub(1),
        _ => now,
    }
}

/// The events of a CPU after a reset: none pending, NMIs not blocked.
fn no_events() -> kvm_vcpu_events {
    kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        ..kvm_vcpu_events::default()
    }
}

/// CPL is the DPL of SS (SDM vol. 3, 5.5); in real mode, where a fresh CPU starts, of CS.
fn privilege(ss: &kvm_segment, cs: &kvm_segment) -> u8 {
    if ss.unusable == 0 { ss.dpl } else { cs.dpl }
}
