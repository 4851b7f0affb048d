//! The system calls that std does not offer, one function each: by rustix, and those that it lacks by libc.
#![expect(
    unsafe_code,
    reason = "fork, clone, signal handlers, mappings, and calls that rustix lacks"
)]

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::retry_on_intr;
use rustix::mm::MlockAllFlags;
use rustix::mount::MountFlags;
use rustix::process::{self, Pid, Signal, WaitOptions};
use rustix::system::{self, RebootCommand};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::errno::Errno;

/// CPUs that a guest may have.
const CPUS: usize = 64;

/// Who came out of [`fork`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The new process.
    Child,
    /// The old one, with the new one's process id.
    Parent(i32),
}

fn check(result: i64) -> Result<(), Errno> {
    if result < 0 {
        Err(Errno::last())
    } else {
        Ok(())
    }
}

/// mount(2) of a file system that has no device and takes no options.
pub fn mount(kind: &CStr, target: &CStr) -> Result<(), Errno> {
    Ok(rustix::mount::mount(
        kind,
        target,
        kind,
        MountFlags::empty(),
        None,
    )?)
}

/// Maps `len` bytes of `file` from `offset` on, shared, for reading and writing, for good.
pub fn map_shared(file: &File, len: usize, offset: u64) -> Result<NonNull<u8>, Errno> {
    let offset = i64::try_from(offset).map_err(|_| Errno(libc::EOVERFLOW))?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: without MAP_FIXED and at no given address, this replaces no other mapping.
    let address = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            protection,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            offset,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    NonNull::new(address.cast()).ok_or(Errno(libc::EFAULT))
}

/// The kernel's log, as syslog(2) gives it: the newest 256 KiB.
///
/// # Errors
///
/// The call's.
pub fn kernel_log() -> Result<Vec<u8>, Errno> {
    /// SYSLOG_ACTION_READ_ALL.
    const READ_ALL: i32 = 3;
    const LOG: i32 = 256 << 10;
    let mut log = vec![0_u8; LOG as usize];
    // SAFETY: the buffer has as many bytes as the call is told.
    let len = unsafe { libc::klogctl(READ_ALL, log.as_mut_ptr().cast(), LOG) };
    check(len.into())?;
    log.truncate(usize::try_from(len).unwrap_or_default());
    Ok(log)
}

/// ioperm(2): lets this task, and those that it starts, read and write an I/O port.
///
/// # Errors
///
/// The call's.
pub fn permit_port(port: u16) -> Result<(), Errno> {
    // SAFETY: the call takes no pointers; what the port does is the rig's doing.
    check(unsafe { libc::ioperm(port.into(), 1, 1) }.into())
}

/// finit_module(2) without parameters.
pub fn load_module(module: &File) -> Result<(), Errno> {
    Ok(system::finit_module(module, c"", 0)?)
}

/// delete_module(2); EWOULDBLOCK if the module is in use.
pub fn unload_module(name: &CStr) -> Result<(), Errno> {
    Ok(system::delete_module(name, libc::O_NONBLOCK)?)
}

/// Attaches a classic BPF program that lets everything pass, in place of the one before it.
pub fn attach_filter(socket: &impl AsRawFd) -> Result<(), Errno> {
    let mut accept = libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: u32::MAX,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut accept,
    };
    // SAFETY: the kernel reads one `sock_fprog`, and through it one `sock_filter`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    check(result.into())
}

/// Lets the calling task run on `cpu` (below 64) alone.
pub fn pin(cpu: usize) -> Result<(), Errno> {
    confine(&[cpu])
}

/// Lets the calling task run on `cpus` (below 64) alone, and what it starts likewise.
pub fn confine(cpus: &[usize]) -> Result<(), Errno> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        if cpu >= CPUS {
            return Err(Errno(libc::EINVAL));
        }
        set.set(cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// Puts the process `pid`, a child of the caller, before all that is SCHED_OTHER: SCHED_FIFO, of the lowest priority.
pub fn put_first(pid: i32) -> Result<(), Errno> {
    let priority: libc::c_int = 1;
    // The call itself: musl's function does nothing but fail.
    // SAFETY: of `struct sched_param` the kernel reads one int (include/uapi/linux/sched/types.h), which lives on.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            pid,
            libc::SCHED_FIFO,
            &raw const priority,
        )
    };
    check(result)
}

/// Locks each page of the calling process that is present or will be, without faulting any in.
pub fn lock_memory() -> Result<(), Errno> {
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    Ok(rustix::mm::mlockall(flags)?)
}

/// fork(2). The agent has one thread, so the child may do all that the parent may.
pub fn fork() -> Result<Fork, Errno> {
    // SAFETY: with a single thread, no lock can be held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(Errno::last()),
        0 => Ok(Fork::Child),
        child => Ok(Fork::Parent(child)),
    }
}

/// Bytes of stack of a [`sleeper`], which makes one call.
const SLEEPER_STACK: usize = 4096;

/// The stack of a [`sleeper`].
#[derive(Debug)]
#[repr(align(16))]
pub struct SleeperStack([u8; SLEEPER_STACK]);

impl SleeperStack {
    /// One for a sleeper to come.
    pub const NEW: Self = Self([0; SLEEPER_STACK]);
}

extern "C" fn sleep(_: *mut libc::c_void) -> i32 {
    sleep_forever()
}

/// Starts a process that sleeps until it is killed, and returns its id. It shares the caller's
/// memory: to copy that takes a hundred times longer than all else.
///
/// # Safety
///
/// The stack is the process's as long as it lives.
pub unsafe fn sleeper(stack: &mut SleeperStack) -> Result<i32, Errno> {
    let top = stack.0.as_mut_ptr_range().end.cast();
    // SAFETY: the stack grows down from `top` and is used by nobody else, says the caller. What the
    // process does in our memory is to call pause(2), which returns only if a signal was handled:
    // never, as it is nobody's parent and is sent none but SIGKILL.
    match unsafe { libc::clone(sleep, top, libc::CLONE_VM | libc::SIGCHLD, ptr::null_mut()) } {
        -1 => Err(Errno::last()),
        pid => Ok(pid),
    }
}

/// Ends the calling process at once; runs nothing at exit.
pub fn exit(code: i32) -> ! {
    // SAFETY: touches no memory of ours.
    unsafe { libc::_exit(code) }
}

static CHILD_DIED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_child_death(_signal: i32) {
    CHILD_DIED.store(true, Ordering::Relaxed);
}

/// From now on [`child_died`] knows.
pub fn watch_children() -> Result<(), Errno> {
    // SAFETY: all zeroes is a valid `sigaction`: no flags, nothing masked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_child_death as extern "C" fn(i32) as usize;
    action.sa_flags = libc::SA_RESTART | libc::SA_NOCLDSTOP;
    // SAFETY: the handler only stores to an atomic, which is safe at any instruction.
    check(unsafe { libc::sigaction(libc::SIGCHLD, &raw const action, ptr::null_mut()) }.into())
}

/// Whether a child died since the last call. No system call.
pub fn child_died() -> bool {
    CHILD_DIED.load(Ordering::Relaxed) && CHILD_DIED.swap(false, Ordering::Relaxed)
}

/// A child that died and was not collected yet: its process id and wait status.
pub fn collect_child() -> Option<(i32, i32)> {
    let (child, status) = process::wait(WaitOptions::NOHANG).ok().flatten()?;
    Some((child.as_raw_nonzero().get(), status.as_raw()))
}

/// Waits until the child `pid` is dead; its wait status.
pub fn wait(pid: i32) -> Result<i32, Errno> {
    let child = Some(child(pid)?);
    let ended = retry_on_intr(|| process::waitpid(child, WaitOptions::empty()))?;
    let (_, status) = ended.ok_or(Errno(libc::ECHILD))?;
    Ok(status.as_raw())
}

/// The wait status of the child `pid`, if it is dead.
pub fn ended(pid: i32) -> Result<Option<i32>, Errno> {
    let ended = process::waitpid(Some(child(pid)?), WaitOptions::NOHANG)?;
    Ok(ended.map(|(_, status)| status.as_raw()))
}

/// A process id as the calls take it.
pub(crate) fn child(pid: i32) -> Result<Pid, Errno> {
    Pid::from_raw(pid).ok_or(Errno(libc::ESRCH))
}

/// Sends `signal` to the process `pid`, a child of the caller.
pub fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    let signal = Signal::from_named_raw(signal).ok_or(Errno(libc::EINVAL))?;
    Ok(process::kill_process(child(pid)?, signal)?)
}

/// Enters the kernel and leaves it again.
pub fn enter_kernel() {
    let _ = process::getppid();
}

/// The time-stamp counter. No system call: CR4.TSD is clear unless a process asks for it (prctl(2), PR_SET_TSC).
#[must_use]
pub fn counter() -> u64 {
    // SAFETY: reads a register.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// What `uname -srvm` prints.
pub fn version() -> String {
    let name = system::uname();
    let fields = [
        name.sysname(),
        name.release(),
        name.version(),
        name.machine(),
    ];
    fields.map(CStr::to_string_lossy).join(" ")
}

/// Restarts the machine; a VMM takes that as the end. Returns only on failure.
pub fn reboot() -> Errno {
    match system::reboot(RebootCommand::Restart) {
        // It does not return.
        Ok(()) => Errno(libc::EIO),
        Err(errno) => errno.into(),
    }
}

/// Sleeps for good.
pub fn sleep_forever() -> ! {
    loop {
        rustix::event::pause();
    }
}
