//! The system calls that std does not offer, one function each.
#![expect(unsafe_code, reason = "raw system calls")]

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::errno::Errno;

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
    // SAFETY: both strings end in NUL; the kernel accepts a null `data`.
    let result = unsafe {
        libc::mount(
            kind.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            0,
            ptr::null(),
        )
    };
    check(result.into())
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
    // SAFETY: the descriptor is open and the parameter string ends in NUL.
    let result =
        unsafe { libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), c"".as_ptr(), 0) };
    check(result)
}

/// delete_module(2); EWOULDBLOCK if the module is in use.
pub fn unload_module(name: &CStr) -> Result<(), Errno> {
    // SAFETY: the name ends in NUL.
    let result = unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) };
    check(result)
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
    let mask = u32::try_from(cpu)
        .ok()
        .and_then(|cpu| 1_u64.checked_shl(cpu));
    let mask = mask.ok_or(Errno(libc::EINVAL))?;
    // SAFETY: the kernel reads as many bytes as it is told: those of `mask`. It takes a mask
    // shorter than its own as one that ends in zeroes (kernel/sched/syscalls.c).
    let result =
        unsafe { libc::sched_setaffinity(0, size_of_val(&mask), (&raw const mask).cast()) };
    check(result.into())
}

/// Locks each page of the calling process that is present or will be, without faulting any in.
pub fn lock_memory() -> Result<(), Errno> {
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: touches no memory of ours.
    check(unsafe { libc::mlockall(flags) }.into())
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
    let mut status = 0;
    // SAFETY: the kernel writes one `int`.
    let child = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (child > 0).then_some((child, status))
}

/// Waits until the child `pid` is dead; its wait status.
pub fn wait(pid: i32) -> Result<i32, Errno> {
    let mut status = 0;
    loop {
        // SAFETY: the kernel writes one `int`.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            return Ok(status);
        }
        match Errno::last() {
            Errno(libc::EINTR) => {}
            errno => return Err(errno),
        }
    }
}

/// The wait status of the child `pid`, if it is dead.
pub fn ended(pid: i32) -> Result<Option<i32>, Errno> {
    let mut status = 0;
    // SAFETY: the kernel writes one `int`.
    match unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } {
        0 => Ok(None),
        dead if dead == pid => Ok(Some(status)),
        _ => Err(Errno::last()),
    }
}

/// Sends `signal` to the process `pid`, a child of the caller.
pub fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: touches no memory of ours.
    check(unsafe { libc::kill(pid, signal) }.into())
}

/// Enters the kernel and leaves it again.
pub fn enter_kernel() {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::getppid() };
}

/// The time-stamp counter. No system call: CR4.TSD is clear unless a process asks for it (prctl(2), PR_SET_TSC).
#[must_use]
pub fn counter() -> u64 {
    // SAFETY: reads a register.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// What `uname -srvm` prints.
pub fn version() -> Result<String, Errno> {
    // SAFETY: all zeroes is a valid `utsname`: empty strings.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills in exactly one `utsname`.
    check(unsafe { libc::uname(&raw mut name) }.into())?;
    let fields = [&name.sysname, &name.release, &name.version, &name.machine];
    let words = fields.map(|field| {
        let bytes: Vec<u8> = field
            .iter()
            .take_while(|&&byte| byte != 0)
            .map(|&byte| byte.cast_unsigned())
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    });
    Ok(words.join(" "))
}

/// Restarts the machine; a VMM takes that as the end. Returns only on failure.
pub fn reboot() -> Errno {
    // SAFETY: touches no memory of ours.
    unsafe { libc::reboot(libc::RB_AUTOBOOT) };
    Errno::last()
}

/// Sleeps for good.
pub fn sleep_forever() -> ! {
    loop {
        // SAFETY: touches no memory of ours.
        unsafe { libc::pause() };
    }
}
