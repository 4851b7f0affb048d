//! System calls by the ways of 32-bit programs, from a 64-bit one.
//!
//! SYSENTER and the SYSCALL of compatibility mode are made in a code segment of 32 bits, to which a far
//! return leads. Linux does not return from them to where they were, but to the place in the vDSO where
//! a 32-bit program waits (`do_fast_syscall_32` of arch/x86/entry/common.c): the offset is that of the
//! 32-bit vDSO, whatever the process has. So the vDSO is moved below 4 GiB, which the kernel follows,
//! and NOPs are put in its place: wherever in them it returns to, it comes to the code behind them.
#![expect(
    unsafe_code,
    reason = "code of another segment, and memory to run it in"
)]

use std::arch::asm;
use std::arch::x86_64::__cpuid;
use std::fs;
use std::os::unix::process::parent_id;
use std::ptr;
use std::sync::atomic::Ordering;

use ipirig_abi::Order;

use crate::signals::EXPECTED;
use ipirig_system::Errno;

/// The number of `getppid` among 32-bit system calls (arch/x86/entry/syscalls/syscall_32.tbl).
const GETPPID: u32 = 64;
/// Selectors of user code of 32 and of 64 bits (`__USER32_CS`, `__USER_CS` of
/// arch/x86/include/asm/segment.h).
const CODE_32: u64 = 0x23;
const CODE_64: u64 = 0x33;

const PAGE: usize = 4096;
/// Where the kernel may return to: more than the 32-bit vDSO has.
const SLED: usize = 4 * PAGE;
/// The code is in the page after that, and its data with it.
const SPACE: usize = SLED + PAGE + STACK;
/// Enough for the frame of a signal.
const STACK: usize = 4 * PAGE;

// Places in the page of the code.
const FAR_JUMP: usize = 5;
const BACK: usize = 0x10;
const SYSENTER: usize = 0x40;
const SYSCALL: usize = 0x60;
/// Bytes of the code before SYSENTER or SYSCALL.
const BEFORE: usize = 7;
const SAVED_RSP: usize = 0x100;
const SAVED_RIP: usize = 0x108;

/// Code below 4 GiB that makes system calls as a 32-bit program does.
#[derive(Debug)]
pub(crate) struct Compat {
    /// The page of the code.
    page: u64,
    parent: u32,
    /// The CPU has SYSENTER in IA-32e mode.
    sysenter: bool,
}

impl Compat {
    /// Moves the vDSO of the calling process away, for good: nobody may use it from then on.
    pub(crate) fn map() -> Result<Self, Errno> {
        let (vdso, len) = vdso()?;
        if len > SLED {
            return Err(Errno(libc::E2BIG));
        }
        let space = map_at(ptr::null_mut(), SPACE, libc::PROT_NONE, libc::MAP_32BIT)?;
        // SAFETY: `vdso` is the kernel's own mapping, which nothing of this process keeps a reference
        // to, and goes to space that was reserved for it just now.
        let moved = unsafe {
            libc::mremap(
                vdso as *mut libc::c_void,
                len,
                len,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                space,
            )
        };
        if moved == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let space = map_at(space, SPACE, all, libc::MAP_FIXED)?;
        let page = space as u64 + SLED as u64;
        let mut code = vec![0x90; SLED];
        code.extend(page_of_code(page)?);
        // SAFETY: the space was mapped for writing just now, is longer than that, and is nobody else's.
        unsafe { ptr::copy_nonoverlapping(code.as_ptr(), space.cast(), code.len()) };
        Ok(Self {
            page,
            parent: parent_id(),
            sysenter: has_sysenter(),
        })
    }

    /// One `getppid` by SYSENTER or by SYSCALL. EPROTO unless the kernel answered.
    pub(crate) fn call(&self, order: Order) -> Result<(), Errno> {
        let entry = match order {
            Order::Sysenter if !self.sysenter => return Err(Errno(libc::EPROTO)),
            Order::Sysenter => SYSENTER,
            Order::CompatSyscall => SYSCALL,
            _ => return Err(Errno(libc::EINVAL)),
        };
        let entry = self.page + entry as u64;
        let before = EXPECTED.raised.load(Ordering::Relaxed);
        let at = (entry + BEFORE as u64).cast_signed();
        EXPECTED.from.store(at, Ordering::Relaxed);
        // The jump back comes after the two bytes of either instruction.
        EXPECTED.to.store(at + 2, Ordering::Relaxed);
        let answer = self.go(entry, CODE_32);
        EXPECTED.to.store(0, Ordering::Relaxed);
        let raised = EXPECTED.raised.load(Ordering::Relaxed) != before;
        if !raised && answer as u32 == self.parent {
            Ok(())
        } else {
            Err(Errno(libc::EPROTO))
        }
    }

    /// Goes to `entry` in the page of code, with `code` for CS, until that comes back. RAX is what it had there.
    fn go(&self, entry: u64, code: u64) -> u64 {
        let stack = self.page + (PAGE + STACK - 64) as u64;
        let answer: u64;
        // SAFETY: goes to the code of `page_of_code`, which comes back to label 2 with RSP as saved,
        // whether the instruction makes a system call or raises an exception. What a 32-bit program
        // cannot see is lost on the way, and named as such here.
        unsafe {
            asm!(
                "push rbx",
                "push rbp",
                "lea rax, [rip + 2f]",
                "mov [{page} + {rip}], rax",
                "mov [{page} + {rsp}], rsp",
                "mov rsp, {stack}",
                "push {code}",
                "push {entry}",
                // RETF with an operand of 64 bits.
                ".byte 0x48, 0xcb",
                "2:",
                "pop rbp",
                "pop rbx",
                page = in(reg) self.page,
                stack = in(reg) stack,
                entry = in(reg) entry,
                code = in(reg) code,
                rip = const SAVED_RIP,
                rsp = const SAVED_RSP,
                out("rax") answer,
                out("r12") _,
                out("r13") _,
                out("r14") _,
                out("r15") _,
                clobber_abi("C"),
            );
        }
        answer
    }
}

/// INT 0x80, which comes back where it was. EPROTO unless the kernel answered `parent`, the id of the
/// caller's parent.
pub(crate) fn int80(parent: u32) -> Result<(), Errno> {
    let before = EXPECTED.raised.load(Ordering::Relaxed);
    let answer = crate::exception::int80(GETPPID);
    let raised = EXPECTED.raised.load(Ordering::Relaxed) != before;
    if !raised && answer == parent {
        Ok(())
    } else {
        Err(Errno(libc::EPROTO))
    }
}

/// Whether the CPU has SYSENTER in IA-32e mode, by its vendor: AMD's raise #UD (APM vol. 3, "SYSENTER"). That is
/// not tried out, as QEMU's have it, and leave a code segment (CS.L and CS.D both set) with which no guest
/// can be entered again.
fn has_sysenter() -> bool {
    // EBX, EDX and ECX of leaf 0 spell the vendor (SDM vol. 2, "CPUID").
    let leaf = __cpuid(0);
    let vendor = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes);
    vendor.as_flattened() == b"GenuineIntel"
}

/// What is to be at `page`.
fn page_of_code(page: u64) -> Result<Vec<u8>, Errno> {
    let page = u32::try_from(page).map_err(|_| Errno(libc::EOVERFLOW))?;
    let mut code = vec![0x90; PAGE];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(to) = code.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    };
    let relative = |from: usize, to: usize| (to as i32 - from as i32).to_le_bytes();
    // Some hosts return in 64-bit mode (kvm_pvm on an Intel CPU, by SYSRET with an operand of 32 bits), which has no such
    // far jump. xor ecx, ecx; then in 32 bits inc ecx, in 64 bits a REX prefix of the jz that follows.
    put(0, &[0x31, 0xc9, 0x41, 0x74, (BACK - FAR_JUMP) as u8]);
    // A far jump, to the segment of 64 bits.
    put(FAR_JUMP, &[0xea]);
    put(FAR_JUMP + 1, &(page + BACK as u32).to_le_bytes());
    put(FAR_JUMP + 5, &(CODE_64 as u16).to_le_bytes());
    // mov rsp, [rip + ...]; jmp [rip + ...]
    put(BACK, &[0x48, 0x8b, 0x25]);
    put(BACK + 3, &relative(BACK + 7, SAVED_RSP));
    put(BACK + 7, &[0xff, 0x25]);
    put(BACK + 9, &relative(BACK + 13, SAVED_RIP));
    for (at, opcode) in [(SYSENTER, 0x34), (SYSCALL, 0x05)] {
        // mov eax, GETPPID; mov ebp, esp: where the kernel looks for a sixth argument.
        put(at, &[0xb8]);
        put(at + 1, &GETPPID.to_le_bytes());
        put(at + 5, &[0x89, 0xe5]);
        put(at + BEFORE, &[0x0f, opcode]);
        // jmp to the far jump
        put(at + BEFORE + 2, &[0xe9]);
        put(at + BEFORE + 3, &relative(at + BEFORE + 7, 0));
    }
    Ok(code)
}

/// Where the vDSO of this process is, and how long it is.
fn vdso() -> Result<(usize, usize), Errno> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    find_vdso(&maps).ok_or(Errno(libc::ENOENT))
}

/// The same in the text of `/proc/self/maps`.
fn find_vdso(maps: &str) -> Option<(usize, usize)> {
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let start = number(start)?;
    Some((start, number(end)?.checked_sub(start)?))
}

fn map_at(
    address: *mut libc::c_void,
    len: usize,
    protection: i32,
    flags: i32,
) -> Result<*mut libc::c_void, Errno> {
    // SAFETY: without MAP_FIXED this replaces nothing; with it, the caller's own space.
    let space = unsafe {
        libc::mmap(
            address,
            len,
            protection,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
            -1,
            0,
        )
    };
    if space == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    Ok(space)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals;
    use ipirig_system::sys::{self, Fork};

    #[test]
    fn the_vdso_is_found_with_its_length() {
        let maps = "\
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0 [stack]
7ffc9bd6a000-7ffc9bd6e000 r--p 00000000 00:00 0 [vvar]
7ffc9bd6e000-7ffc9bd70000 r-xp 00000000 00:00 0 [vdso]
";
        assert_eq!(find_vdso(maps), Some((0x7ffc_9bd6_e000, 0x2000)));
        assert_eq!(find_vdso("7ffc-7ffd r--p 0 00:00 0 [vvar]\n"), None);
    }

    /// What becomes of `job` in a process of its own, whose vDSO it may take away: its exit code.
    fn alone(job: impl FnOnce() -> Result<(), Errno>) -> i32 {
        match sys::fork().unwrap() {
            Fork::Child => {
                let done = signals::handle().and_then(|()| job());
                sys::exit(done.err().map_or(0, |errno| errno.0))
            }
            Fork::Parent(child) => {
                let status = sys::wait(child).unwrap();
                assert!(
                    libc::WIFEXITED(status),
                    "died of {}",
                    libc::WTERMSIG(status)
                );
                libc::WEXITSTATUS(status)
            }
        }
    }

    #[test]
    fn a_32_bit_system_call_is_answered_or_said_not_to_be_there_and_the_code_goes_on() {
        let each: [fn() -> Result<(), Errno>; 3] = [
            || {
                let compat = Compat::map()?;
                compat.call(Order::Sysenter)
            },
            || {
                let compat = Compat::map()?;
                // Twice: nothing is left of the first.
                let _ = compat.call(Order::CompatSyscall);
                compat.call(Order::CompatSyscall)
            },
            || int80(parent_id()),
        ];
        for job in each {
            // By the CPU's vendor and the kernel's configuration.
            let code = alone(job);
            assert!([0, libc::EPROTO].contains(&code), "{code}");
        }
    }

    #[test]
    fn the_code_comes_back_in_whichever_mode_the_kernel_returned_to_it() {
        for code in [CODE_32, CODE_64] {
            let came_back = || {
                let compat = Compat::map()?;
                compat.go(compat.page, code);
                // From the last of the NOPs before it as well.
                compat.go(compat.page - 1, code);
                Ok(())
            };
            assert_eq!(alone(came_back), 0, "CS {code:#x}");
        }
    }

    #[test]
    fn the_code_jumps_back_from_either_instruction() {
        let code = page_of_code(0x4000_0000).unwrap();
        assert_eq!(
            code[..12],
            [
                0x31, 0xc9, 0x41, 0x74, 0x0b, 0xea, 0x10, 0, 0, 0x40, 0x33, 0
            ]
        );
        assert_eq!(
            code[BACK..BACK + 13],
            [0x48, 0x8b, 0x25, 0xe9, 0, 0, 0, 0xff, 0x25, 0xeb, 0, 0, 0]
        );
        assert_eq!(
            code[SYSCALL..SYSCALL + 14],
            [
                0xb8, 64, 0, 0, 0, 0x89, 0xe5, 0x0f, 0x05, 0xe9, 0x92, 0xff, 0xff, 0xff
            ]
        );
        assert_eq!(page_of_code(1 << 32), Err(Errno(libc::EOVERFLOW)));
    }
}
