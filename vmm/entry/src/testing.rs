//! A small kernel, and records of ways into it, step by step.

use std::collections::BTreeSet;
use std::fs;

use ipirig_image::{Site, SiteKind, Sites, Symbols};
use ipirig_instruction::{Code, Step, StepRegisters};
use tempfile::TempDir;

use crate::layout::{KernelLayout, LayoutError};
use crate::record::{Began, Ended, Record};

/// What KASLR adds.
pub(crate) const SLIDE: u64 = 0x0200_0000;
/// Run-time addresses.
pub(crate) const ENTRY: u64 = 0xffff_ffff_8140_0040 + SLIDE;
pub(crate) const NOINSTR: u64 = 0xffff_ffff_8120_0000 + SLIDE;
pub(crate) const WORK: u64 = 0xffff_ffff_8100_1000 + SLIDE;
/// Link address of a static key.
pub(crate) const KEY: u64 = 0xffff_ffff_8180_0000;
/// Base of the kernel's GS, and the user's.
pub(crate) const GS: u64 = 0xffff_8880_3f00_0000;
pub(crate) const USER_GS: u64 = 0x7fff_0000;
/// Where the task's stack ends.
pub(crate) const STACK: u64 = 0xffff_c900_0010_4000;
/// Page tables with their PCIDs.
pub(crate) const USER_CR3: u64 = 0x0100_1801;
pub(crate) const KERNEL_CR3: u64 = 0x0100_0001;
pub(crate) const NOFLUSH: u64 = 1 << 63;
/// CR4 with PGE and PCIDE.
pub(crate) const CR4: u64 = 1 << 17 | 1 << 7;

/// The kernel's System.map.
pub(crate) const MAP: &str = "\
0000000000006000 D cpu_tss_rw
0000000000015000 D kernel_cr3
0000000000016000 D pcpu_hot
0000000000017000 D __per_cpu_end
ffffffff81000000 T _stext
ffffffff81001000 T do_work
ffffffff81200000 T do_syscall_64
ffffffff81200000 T __noinstr_text_start
ffffffff81201000 T __noinstr_text_end
ffffffff81400000 T __entry_text_start
ffffffff81400040 T entry_SYSCALL_64
ffffffff81402000 T __entry_text_end
ffffffff81600000 T _etext
ffffffff81800000 D housekeeping_overridden
ffffffff81800010 D __end
";

pub(crate) fn symbols(map: &str) -> Symbols {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("System.map");
    fs::write(&path, map).unwrap();
    Symbols::from_system_map(&path).unwrap()
}

pub(crate) fn try_layout(
    map: &str,
    sites: &[Site],
    lstar: u64,
) -> Result<KernelLayout, LayoutError> {
    let sites: Sites = sites.iter().copied().collect();
    KernelLayout::from_parts(symbols(map), sites, lstar)
}

pub(crate) fn layout() -> KernelLayout {
    try_layout(MAP, &[], ENTRY).unwrap()
}

/// A layout with a site of `kind` at the run-time address `address`.
pub(crate) fn layout_with(address: u64, kind: SiteKind) -> KernelLayout {
    let site = Site {
        address: address - SLIDE,
        len: 5,
        kind,
    };
    try_layout(MAP, &[site], ENTRY).unwrap()
}

pub(crate) fn step(registers: StepRegisters, code: &[u8]) -> Step {
    Step {
        registers,
        code: Code::new(code),
        descriptor: None,
    }
}

/// A record in the making: registers as they are before the next instruction.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) registers: StepRegisters,
    steps: Vec<Step>,
    other_gs: u64,
}

impl Way {
    /// Just entered by SYSCALL.
    pub(crate) fn syscall() -> Self {
        let mut registers = StepRegisters {
            rip: ENTRY,
            cr3: USER_CR3,
            cr4: CR4,
            gs_base: USER_GS,
            ..StepRegisters::default()
        };
        registers.general[4] = 0x7ffe_1000;
        Self {
            registers,
            steps: Vec::new(),
            other_gs: GS,
        }
    }

    /// Executes `code`, which changes nothing that matters.
    pub(crate) fn step(mut self, code: &[u8]) -> Self {
        self.steps.push(step(self.registers, code));
        self.registers.rip += code.len() as u64;
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut StepRegisters)) -> Self {
        change(&mut self.registers);
        self
    }

    pub(crate) fn swapgs(self) -> Self {
        let mut way = self.step(&[0x0f, 0x01, 0xf8]);
        std::mem::swap(&mut way.registers.gs_base, &mut way.other_gs);
        way
    }

    /// MOVB to `%gs:kernel_cr3`.
    pub(crate) fn flag(self, value: u8) -> Self {
        self.step(&[0x65, 0xc6, 0x04, 0x25, 0x00, 0x50, 0x01, 0x00, value])
    }

    /// MOV from RAX to CR3.
    pub(crate) fn cr3(self, value: u64) -> Self {
        self.with(|registers| registers.general[0] = value)
            .step(&[0x0f, 0x22, 0xd8])
            .with(|registers| registers.cr3 = value & !NOFLUSH)
    }

    /// INVPCID (%rdi), %rax: of type `kind`, with `descriptor` on the task's stack.
    pub(crate) fn invpcid(mut self, kind: u64, descriptor: [u64; 2]) -> Self {
        self.registers.general[0] = kind;
        self.registers.general[7] = STACK - 64;
        let mut way = self.step(&[0x66, 0x0f, 0x38, 0x82, 0x07]);
        if let Some(step) = way.steps.last_mut() {
            step.descriptor = Some(descriptor);
        }
        way
    }

    /// MOV from `%gs:pcpu_hot+0x10` to RSP, then a PUSH.
    pub(crate) fn stack(self) -> Self {
        self.step(&[0x65, 0x48, 0x8b, 0x24, 0x25, 0x10, 0x60, 0x01, 0x00])
            .with(|registers| registers.general[4] = STACK)
            .step(&[0x50])
            .with(|registers| registers.general[4] -= 8)
    }

    /// CALL to `target`.
    pub(crate) fn call(self, target: u64) -> Self {
        let relative = target.wrapping_sub(self.registers.rip + 5) as u32;
        let mut code = vec![0xe8];
        code.extend(relative.to_le_bytes());
        self.step(&code).with(|registers| {
            registers.general[4] -= 8;
            registers.rip = target;
        })
    }

    /// JMP to `target`.
    pub(crate) fn jump(self, target: u64) -> Self {
        let relative = target.wrapping_sub(self.registers.rip + 5) as u32;
        let mut code = vec![0xe9];
        code.extend(relative.to_le_bytes());
        self.step(&code).with(|registers| registers.rip = target)
    }

    /// From the stack into C code and back: 4 instructions and RET.
    pub(crate) fn work(self) -> Self {
        let back = self.registers.rip + 5;
        let mut load = vec![0x48, 0xb8];
        load.extend((USER_CR3 | NOFLUSH).to_le_bytes());
        self.call(NOINSTR)
            .step(&load)
            .with(|registers| registers.general[0] = USER_CR3 | NOFLUSH)
            .jump(WORK)
            .step(&[0x90])
            .step(&[0xc3])
            .with(|registers| {
                registers.general[4] += 8;
                registers.rip = back;
            })
    }

    /// User page table, flag, SWAPGS and SYSRET.
    pub(crate) fn leave(self) -> Self {
        self.cr3(USER_CR3 | NOFLUSH).flag(0).swapgs().sysret()
    }

    pub(crate) fn sysret(self) -> Self {
        self.step(&[0x48, 0x0f, 0x07])
    }

    pub(crate) fn end(self, ended: Ended) -> Record {
        Record {
            cpu: 3,
            began: Began::Syscall,
            handlers: BTreeSet::new(),
            steps: self.steps,
            ended,
        }
    }
}

/// SWAPGS, and RSP saved to `%gs:cpu_tss_rw+0x14`: 2 instructions.
pub(crate) fn entered() -> Way {
    Way::syscall()
        .swapgs()
        .step(&[0x65, 0x48, 0x89, 0x24, 0x25, 0x14, 0x60, 0x00, 0x00])
}

/// A way in and out as it should be.
pub(crate) fn good() -> Record {
    entered()
        .flag(1)
        .step(&[0x0f, 0x20, 0xd8])
        .cr3(KERNEL_CR3)
        .stack()
        .work()
        .leave()
        .end(Ended::User)
}
