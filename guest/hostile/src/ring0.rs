//! Abuse of the APIC by MSRs, from ring 0: a system call whose code is overwritten by way of /dev/mem, which shows root
//! all of memory here (CONFIG_STRICT_DEVMEM is off, and there is no KASLR). It writes an MSR as the kernel's
//! `wrmsr_safe_regs` does (arch/x86/lib/msr-reg.S), which survives a #GP.
#![expect(unsafe_code, reason = "overwrites the kernel, and enters it")]

use std::arch::asm;
use std::fs::{self, OpenOptions};

use ipirig_system::sys;

use crate::lapic::next;

/// What is overwritten: a system call that nothing here uses, and its number (arch/x86/entry/syscalls/syscall_64.tbl).
const VICTIM: &str = "__x64_sys_getpriority";
const VICTIM_NUMBER: u64 = 140;
/// What is called in its place.
const WRITE: &str = "wrmsr_safe_regs";
/// Where the kernel's image is mapped: `__START_KERNEL_map`, without KASLR from physical address 0 on.
const IMAGE: u64 = 0xffff_ffff_8000_0000;
const PAGE: u64 = 0x1000;

/// SDM 3A, 11.4.4 and 11.5.4.1; x2APIC registers from `X2APIC` on: table 11-6.
const APIC_BASE: u32 = 0x1b;
const TSC_DEADLINE: u32 = 0x6e0;
const X2APIC: u32 = 0x800;
const ICR: u32 = 0x830;
const LVT_TIMER: u32 = 0x832;

/// System call [`VICTIM_NUMBER`] writes MSRs.
pub(crate) struct Ring0(());

/// What is done to MSRs.
type Abuse = fn(&Ring0);

/// By what name.
const ABUSES: [(&str, Abuse); 6] = [
    ("apic-base-random", |ring0| {
        let mut number = 3;
        for round in 0..10_000_u32 {
            number = next(number);
            // Half of them leave the page where it is, and change the mode.
            let value = if round % 2 == 0 {
                number
            } else {
                0xfee0_0000 | number & 0xd00
            };
            ring0.write(APIC_BASE, value);
        }
    }),
    ("apic-moved", |ring0| {
        // Over each MiB of RAM, enabled in either mode: there no store would leave the guest.
        for mib in 0..4096_u64 {
            ring0.write(APIC_BASE, mib << 20 | 0x900);
            ring0.write(APIC_BASE, mib << 20 | 0xd00);
        }
    }),
    ("apic-base-off", |ring0| ring0.write(APIC_BASE, 0xfee0_0100)),
    ("x2apic-random", |ring0| {
        let mut number = 5;
        for _ in 0..50_000 {
            number = next(number);
            let register = (number >> 48) as u32 & 0x3f;
            let mask = if number >> 47 & 1 == 0 {
                0xff
            } else {
                u64::MAX
            };
            ring0.write(X2APIC + register, next(number) & mask);
        }
    }),
    ("icr-msr-flood", |ring0| {
        for _ in 0..100_000 {
            ring0.write(ICR, 0xc_40fb);
        }
    }),
    ("tsc-deadline-flood", |ring0| {
        ring0.write(LVT_TIMER, 1 << 18 | 0xec);
        for _ in 0..100_000 {
            ring0.write(TSC_DEADLINE, 1);
        }
    }),
];

pub(crate) fn of_name(name: &str) -> Option<Abuse> {
    ABUSES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, abuse)| *abuse)
}

/// The address of one of the kernel's functions.
fn address(symbols: &str, name: &str) -> Option<u64> {
    symbols.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next()?;
        (words.nth(1)? == name).then(|| u64::from_str_radix(address, 16).ok())?
    })
}

impl Ring0 {
    /// Overwrites the system call.
    pub(crate) fn take() -> Option<Self> {
        let symbols = fs::read_to_string("/proc/kallsyms").ok()?;
        let victim = address(&symbols, VICTIM)?.checked_sub(IMAGE)?;
        let write = address(&symbols, WRITE)?;
        let memory = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/mem")
            .ok()?;
        // Two pages: it may begin at the end of one.
        let pages = sys::map_shared(&memory, 2 * PAGE as usize, victim & !(PAGE - 1)).ok()?;
        for (offset, byte) in (victim & (PAGE - 1)..).zip(code(write)) {
            // SAFETY: the code has less than a page, and begins in the first of two that are mapped for good.
            unsafe { pages.as_ptr().add(offset as usize).write_volatile(byte) };
        }
        Some(Self(()))
    }

    fn write(&self, msr: u32, value: u64) {
        // SAFETY: a system call that does as its code was written in `take`; it touches no memory of this process.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") VICTIM_NUMBER => _,
                in("rdi") u64::from(msr),
                in("rsi") value & 0xffff_ffff,
                in("rdx") value >> 32,
                out("rcx") _,
                out("r11") _,
            );
        }
    }
}

/// Code of a system call, which has its registers at RDI (`struct pt_regs`: RDX at 0x60, RSI at 0x68, RDI at 0x70): lays
/// out what `write` takes, EAX, ECX, EDX and five that do not matter, and calls that.
fn code(write: u64) -> Vec<u8> {
    let mut code = vec![0x48, 0x83, 0xec, 0x28]; // sub rsp, 0x28
    code.extend([0x8b, 0x47, 0x68, 0x89, 0x04, 0x24]); // mov eax, [rdi + 0x68]; mov [rsp], eax
    code.extend([0x8b, 0x47, 0x70, 0x89, 0x44, 0x24, 0x04]); // mov eax, [rdi + 0x70]; mov [rsp + 4], eax
    code.extend([0x8b, 0x47, 0x60, 0x89, 0x44, 0x24, 0x08]); // mov eax, [rdi + 0x60]; mov [rsp + 8], eax
    code.extend([0x48, 0x89, 0xe7, 0x48, 0xb8]); // mov rdi, rsp; mov rax, write
    code.extend(write.to_le_bytes());
    code.extend([0xff, 0xd0]); // call rax
    code.extend([0x48, 0x83, 0xc4, 0x28, 0x31, 0xc0, 0xc3]); // add rsp, 0x28; xor eax, eax; ret
    code
}
