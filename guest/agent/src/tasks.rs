//! The isolated tasks as their parent sees them: started, spinning, dead.
//!
//! Each is a process, not a thread: with an address space of its own, what the control task maps
//! and unmaps never concerns an isolated CPU.

use std::os::unix::process::parent_id;
use std::sync::atomic::{AtomicU32, Ordering};

use ipirig_abi::module::Probe;
use ipirig_abi::{CpuSlot, Gaps, KICK_SIGNAL, Mailbox, Order, STAY_LIMIT_MS, TaskState};

use crate::compat::{self, Compat};
use crate::device::Device;
use crate::exception;
use crate::not_produced::NotProduced;
use crate::page::AbsentPage;
use crate::signals::{self, Signals};
use crate::sigreturn::Returns;
use crate::spinner::{self, EntryPaths};
use ipirig_system::{
    During, Errno, Failure,
    sys::{self, Fork},
};

/// The isolated tasks that run.
#[derive(Debug)]
pub(crate) struct Tasks(Vec<Task>);

#[derive(Debug)]
struct Task {
    cpu: usize,
    pid: i32,
    slot: &'static CpuSlot,
}

/// How far a task came that gave up: its exit code. The error goes into its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Pin = 1,
    LockMemory = 2,
    HandleSignals = 4,
    MapPage = 5,
}

/// Exit code of a task that panicked; its message went to the console.
pub(crate) const PANICKED: i32 = 3;

impl Tasks {
    /// Starts one task on each CPU of `cpus`, and waits in user space until all spin.
    pub(crate) fn start(
        mailbox: &'static Mailbox,
        cpus: &[usize],
        device: Option<&Device>,
    ) -> Result<Self, Failure> {
        sys::watch_children().during(|| "install the SIGCHLD handler")?;
        let mut tasks = Self(Vec::with_capacity(cpus.len()));
        let slots = mailbox.cpus.iter().zip(&mailbox.gaps).enumerate();
        for (cpu, (slot, gaps)) in slots.filter(|(cpu, _)| cpus.contains(cpu)) {
            slot.task
                .state
                .store(TaskState::Starting.into(), Ordering::Relaxed);
            match sys::fork().during(|| format!("fork the isolated task of CPU {cpu}"))? {
                Fork::Child => become_task(cpu, slot, gaps, device),
                Fork::Parent(pid) => tasks.0.push(Task { cpu, pid, slot }),
            }
        }
        while !tasks.all_spin() {
            if let Some(failure) = tasks.bury(mailbox).into_iter().next() {
                return Err(failure);
            }
        }
        Ok(tasks)
    }

    /// Marks the slots of tasks that died since the last call; what happened to each comes back, and is in the
    /// mailbox's text by the time that the slot says so. Without a death there is no system call.
    pub(crate) fn bury(&mut self, mailbox: &Mailbox) -> Vec<Failure> {
        let mut failures = Vec::new();
        if !sys::child_died() {
            return failures;
        }
        while let Some((pid, status)) = sys::collect_child() {
            let Some(at) = self.0.iter().position(|task| task.pid == pid) else {
                continue;
            };
            let Task { cpu, slot, .. } = self.0.swap_remove(at);
            let failure = obituary(cpu, status, slot.task.errno.load(Ordering::Relaxed));
            // The rig looks at the slot, and then at the text at once.
            mailbox.text.set(failure.to_string().as_bytes());
            failures.push(failure);
            slot.task
                .state
                .store(TaskState::Failed.into(), Ordering::Release);
        }
        failures
    }

    /// Their processes.
    pub(crate) fn pids(&self) -> Vec<i32> {
        self.0.iter().map(|task| task.pid).collect()
    }

    /// The process of `cpu`; ESRCH if none runs there.
    pub(crate) fn pid(&self, cpu: u64) -> Result<i32, Errno> {
        let task = self.0.iter().find(|task| task.cpu as u64 == cpu);
        task.map(|task| task.pid).ok_or(Errno(libc::ESRCH))
    }

    /// Sends [`KICK_SIGNAL`] to the task of `cpu`.
    pub(crate) fn signal(&self, cpu: u64) -> Result<(), Failure> {
        self.pid(cpu)
            .and_then(|pid| sys::kill(pid, KICK_SIGNAL as i32))
            .during(|| format!("signal the isolated task of CPU {cpu}"))
    }

    fn all_spin(&self) -> bool {
        let spinning = u32::from(TaskState::Spinning);
        self.0
            .iter()
            .all(|task| task.slot.task.state.load(Ordering::Acquire) == spinning)
    }
}

/// What the task does from its birth on.
fn become_task(cpu: usize, slot: &CpuSlot, gaps: &Gaps, device: Option<&Device>) -> ! {
    let give_up = |step: Step, errno: Errno| -> ! {
        slot.task.errno.store(errno.code(), Ordering::Relaxed);
        sys::exit(step as i32)
    };
    if let Err(errno) = sys::pin(cpu) {
        give_up(Step::Pin, errno);
    }
    // The rehearsal in `spin` faults in what the loop needs; to fault in the whole program here
    // would take longer than all else that the agent does.
    if let Err(errno) = sys::lock_memory() {
        give_up(Step::LockMemory, errno);
    }
    if let Err(errno) = signals::handle() {
        give_up(Step::HandleSignals, errno);
    }
    // After the locking: the page must be one that may be dropped.
    let page = match AbsentPage::map() {
        Ok(page) => page,
        Err(errno) => give_up(Step::MapPage, errno),
    };
    let mut entry = KernelEntry {
        device,
        page,
        compat: Compat::map(),
        returns: Returns::prepare(),
        not_produced: NotProduced::read(),
        parent: parent_id(),
        stay_limit_ms: 0,
        orders: &slot.order_seq,
    };
    spinner::spin(slot, gaps, &mut entry)
}

/// Starts a process that stays in a user-space loop on `cpu`, which is not isolated, and waits until it
/// is there.
pub(crate) fn occupy(cpu: usize, slot: &'static CpuSlot) -> Result<(), Failure> {
    let what = || format!("run a user-space loop on CPU {cpu}");
    let pid = match sys::fork().during(what)? {
        Fork::Child => become_occupant(cpu, slot),
        Fork::Parent(pid) => pid,
    };
    let spinning = u32::from(TaskState::Spinning);
    while slot.task.state.load(Ordering::Acquire) != spinning {
        if let Some(status) = sys::ended(pid).during(what)? {
            return Err(Errno(libc::WEXITSTATUS(status))).during(what);
        }
    }
    Ok(())
}

/// What it does from its birth on.
fn become_occupant(cpu: usize, slot: &CpuSlot) -> ! {
    if let Err(errno) = sys::pin(cpu).and_then(|()| sys::lock_memory()) {
        sys::exit(errno.0);
    }
    slot.task
        .state
        .store(TaskState::Spinning.into(), Ordering::Release);
    for turn in 1.. {
        slot.task.heartbeat.store(turn, Ordering::Relaxed);
    }
    sys::exit(0)
}

struct KernelEntry<'a> {
    device: Option<&'a Device>,
    page: AbsentPage,
    /// Or why there are no system calls by the ways of 32-bit programs.
    compat: Result<Compat, Errno>,
    returns: Returns,
    not_produced: NotProduced,
    /// The process that started it: to ask would be an entry.
    parent: u32,
    /// 0 until the rehearsal is over: nobody would let go of the task.
    stay_limit_ms: u32,
    /// Grows with each order.
    orders: &'a AtomicU32,
}

impl EntryPaths for KernelEntry<'_> {
    fn carry_out(&mut self, order: Order) -> Result<Option<Probe>, Errno> {
        match order {
            _ if self.not_produced.has(order) => return Err(Errno(libc::EPROTO)),
            Order::Probe => {
                let mut seen = Probe::default();
                self.device.ok_or(Errno(libc::ENODEV))?.probe(&mut seen)?;
                return Ok(Some(seen));
            }
            Order::Relay => {
                let mut seen = Probe::default();
                self.device.ok_or(Errno(libc::ENODEV))?.relay(&mut seen)?;
                return Ok(Some(seen));
            }
            Order::Enter => sys::enter_kernel(),
            Order::PageFault => self.page.touch()?,
            Order::GeneralProtection => exception::general_protection()?,
            Order::InvalidOpcode => exception::invalid_opcode()?,
            Order::SingleStep => exception::single_step()?,
            Order::Breakpoint => exception::breakpoint()?,
            Order::Stay | Order::Sleep => self.device.ok_or(Errno(libc::ENODEV))?.stay(
                self.stay_limit_ms,
                order == Order::Sleep,
                self.orders,
            )?,
            Order::Leave => {}
            Order::Int80 => compat::int80(self.parent)?,
            Order::Sysenter | Order::CompatSyscall => match &self.compat {
                Ok(compat) => compat.call(order)?,
                // Not for want of a CPU or a kernel, but as good as that.
                Err(_) => return Err(Errno(libc::EPROTO)),
            },
            Order::AlignmentCheck => exception::alignment_check()?,
            Order::BadIret | Order::Espfix | Order::DoubleFault => self.returns.carry_out(order)?,
        }
        Ok(None)
    }

    fn rehearse_signal(&mut self) {
        signals::raise();
    }

    fn rehearsed(&mut self) {
        self.stay_limit_ms = STAY_LIMIT_MS;
    }

    fn signals(&self) -> Signals {
        signals::handled()
    }

    fn counter(&self) -> u64 {
        sys::counter()
    }
}

/// Why the task of `cpu` is dead, from its wait status and the errno it left.
fn obituary(cpu: usize, status: i32, errno: u32) -> Failure {
    let left = Errno(i32::try_from(errno).unwrap_or(i32::MAX));
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        let signal = signal_name(signal).map_or(format!("signal {signal}"), str::to_owned);
        return Failure::new(format!(
            "the isolated task of CPU {cpu} was killed by {signal}"
        ));
    }
    match libc::WEXITSTATUS(status) {
        code if code == Step::Pin as i32 => Failure::of(
            format!("pin the isolated task to CPU {cpu} (is the CPU online?)"),
            left,
        ),
        code if code == Step::LockMemory as i32 => Failure::of(
            format!("lock the memory of the isolated task of CPU {cpu}"),
            left,
        ),
        code if code == Step::HandleSignals as i32 => Failure::of(
            format!("install the signal handlers of the isolated task of CPU {cpu}"),
            left,
        ),
        code if code == Step::MapPage as i32 => Failure::of(
            format!("map a page for the isolated task of CPU {cpu} to fault on"),
            left,
        ),
        PANICKED => Failure::new(format!(
            "the isolated task of CPU {cpu} panicked; see the console"
        )),
        code => Failure::new(format!("the isolated task of CPU {cpu} exited with {code}")),
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGILL => "SIGILL",
        libc::SIGINT => "SIGINT",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGSYS => "SIGSYS",
        libc::SIGTERM => "SIGTERM",
        libc::SIGTRAP => "SIGTRAP",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wait status as `wait(2)` gives it: exit code in bits 8 to 15, signal in bits 0 to 6.
    fn exited(code: i32) -> i32 {
        code << 8
    }

    #[test]
    fn an_obituary_names_the_cpu_and_the_cause() {
        for (status, errno, said) in [
            (
                libc::SIGKILL,
                0,
                "the isolated task of CPU 1 was killed by SIGKILL",
            ),
            (
                libc::SIGSEGV | 0x80,
                0,
                "the isolated task of CPU 1 was killed by SIGSEGV",
            ),
            (40, 0, "the isolated task of CPU 1 was killed by signal 40"),
            (
                exited(1),
                22,
                "pin the isolated task to CPU 1 (is the CPU online?): EINVAL (Invalid argument)",
            ),
            (
                exited(2),
                12,
                "lock the memory of the isolated task of CPU 1: ENOMEM (Cannot allocate memory)",
            ),
            (
                exited(4),
                22,
                "install the signal handlers of the isolated task of CPU 1: EINVAL (Invalid argument)",
            ),
            (
                exited(5),
                12,
                "map a page for the isolated task of CPU 1 to fault on: ENOMEM (Cannot allocate memory)",
            ),
            (
                exited(PANICKED),
                0,
                "the isolated task of CPU 1 panicked; see the console",
            ),
            (exited(9), 0, "the isolated task of CPU 1 exited with 9"),
        ] {
            assert_eq!(obituary(1, status, errno).to_string(), said);
        }
    }
}
