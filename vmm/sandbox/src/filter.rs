//! Which system calls there are for a vCPU's thread, and with which arguments.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

/// Whatever their arguments are.
const ANY: [libc::c_long; 28] = [
    // Locks, `park`, channels, condition variables.
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // Clocks: in user space, but where the host's TSC is not stable. The timer of the vCPU's APIC.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_timer_settime,
    libc::SYS_timer_delete,
    // What the handler of the kick comes back by, and what ends a thread.
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    // The end of all, where something is not allowed.
    libc::SYS_exit_group,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // The console, its log, the doorbell's eventfd; what goes with the last who holds it.
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_read,
    libc::SYS_close,
    // Who it is, for kicks; seeds of hash maps; where it runs, for the allocator.
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getcpu,
    libc::SYS_sched_getaffinity,
    libc::SYS_rseq,
    // Which `refusals` refuses.
    libc::SYS_openat,
];

/// What the standard library reads for the backtrace of a panic: the program, its debug information, the mappings.
const BACKTRACE: [libc::c_long; 8] = [
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_pread64,
];

/// Ioctls of KVM have this in their second byte (KVMIO in linux/kvm.h).
const KVMIO: u64 = 0xae << 8;

/// Has the opening of files fail (EACCES), or of those that would be changed by it, where `backtraces` may be read. It is
/// not the end of all, because the C library tries to read a setting as its heap shrinks (check_may_shrink_heap in
/// malloc-sysdep.h), and does without.
pub(crate) fn refusals(backtraces: bool) -> Result<BpfProgram, BackendError> {
    let changes = [
        (libc::O_ACCMODE, libc::O_WRONLY),
        (libc::O_ACCMODE, libc::O_RDWR),
        (libc::O_CREAT, libc::O_CREAT),
        (libc::O_TRUNC, libc::O_TRUNC),
    ];
    let rules = changes.map(|(mask, value)| masked(2, mask as u64, value as u64));
    let rules = if backtraces {
        rules.into_iter().collect::<Result<_, _>>()?
    } else {
        vec![]
    };
    SeccompFilter::new(
        BTreeMap::from([(libc::SYS_openat, rules)]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EACCES as u32),
        TargetArch::x86_64,
    )?
    .try_into()
}

/// Has those system calls be made that there are here, and the others trap.
pub(crate) fn program(backtraces: bool) -> Result<BpfProgram, BackendError> {
    let process = u64::from(std::process::id());
    let no_code = || masked(2, libc::PROT_EXEC as u64, 0);
    let mut rules = BTreeMap::new();
    for call in ANY {
        rules.insert(call, vec![]);
    }
    for (call, rule) in [
        (libc::SYS_ioctl, masked(1, 0xff00, KVMIO)?),
        // Which the standard library asks, with debug assertions, before it closes a file.
        (libc::SYS_fcntl, equal(1, libc::F_GETFD as u64)?),
        // Kicks go to threads of this process.
        (libc::SYS_tgkill, equal(0, process)?),
        (libc::SYS_mmap, no_code()?),
        (libc::SYS_mprotect, no_code()?),
    ] {
        rules.insert(call, vec![rule]);
    }
    if backtraces {
        for call in BACKTRACE {
            rules.insert(call, vec![]);
        }
    }
    SeccompFilter::new(
        rules,
        SeccompAction::Trap,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?
    .try_into()
}

/// The argument's bits of `mask` are `value`.
fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, BackendError> {
    rule(argument, SeccompCmpOp::MaskedEq(mask), value)
}

fn equal(argument: u8, value: u64) -> Result<SeccompRule, BackendError> {
    rule(argument, SeccompCmpOp::Eq, value)
}

// The kernel takes these arguments for 32 bits.
fn rule(argument: u8, compares: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    let width = SeccompCmpArgLen::Dword;
    SeccompRule::new(vec![SeccompCondition::new(
        argument, width, compares, value,
    )?])
}
