//! A small kernel, and ways through it.

use std::fs;

use ipirig_entry::passage::{Arrival, Crossed, Frame, Passage, PassageEnd};
use ipirig_entry::{KernelLayout, Paging};
use ipirig_image::{Site, SiteKind, Sites, Symbols};
use ipirig_instruction::{Code, Step, StepRegisters};
use tempfile::TempDir;

pub(crate) const ENTRY: u64 = 0xffff_ffff_8140_0040;
pub(crate) const NMI: u64 = 0xffff_ffff_8140_1000;
pub(crate) const C: u64 = 0xffff_ffff_8100_1000;
pub(crate) const GS: u64 = 0xffff_8880_3f00_0000;
pub(crate) const USER_GS: u64 = 0;
pub(crate) const STACK: u64 = 0xffff_c900_0010_3f00;
pub(crate) const USER_STACK: u64 = 0x7ffe_1000;
pub(crate) const NMI_STACK: u64 = 0xffff_fe00_0000_8f00;
pub(crate) const KERNEL_CR3: u64 = 0x0100_0000;
pub(crate) const USER_CR3: u64 = 0x0100_1000;

const MAP: &str = "\
0000000000006000 D cpu_tss_rw
0000000000015000 D kernel_cr3
0000000000017000 D __per_cpu_end
ffffffff81000000 T _stext
ffffffff81001000 T do_work
ffffffff81002000 t text_poke_bp_batch
ffffffff81003000 t __text_poke.isra.0
ffffffff81004000 t smp_call_function_many_cond
ffffffff81005000 T ipi_deferral_sync_cond
ffffffff81200000 T __noinstr_text_start
ffffffff81201000 T __noinstr_text_end
ffffffff81400000 T __entry_text_start
ffffffff81400040 T entry_SYSCALL_64
ffffffff81401000 T asm_exc_nmi
ffffffff81402000 T __entry_text_end
ffffffff81600000 T _etext
ffffffff81800000 D a_key
ffffffff81800010 D __end
";

/// Code that matters.
pub(crate) const SWAPGS: &[u8] = &[0x0f, 0x01, 0xf8];
pub(crate) const NOP: &[u8] = &[0x90];
/// movb $1, %gs:0x15000
pub(crate) const SET: &[u8] = &[0x65, 0xc6, 0x04, 0x25, 0x00, 0x50, 0x01, 0x00, 0x01];
/// movb $0, %gs:0x15000
pub(crate) const CLEAR: &[u8] = &[0x65, 0xc6, 0x04, 0x25, 0x00, 0x50, 0x01, 0x00, 0x00];
/// mov %r8, %cr3; mov %r9, %cr3
pub(crate) const KERNEL_TABLE: &[u8] = &[0x41, 0x0f, 0x22, 0xd8];
pub(crate) const USER_TABLE: &[u8] = &[0x41, 0x0f, 0x22, 0xd9];
/// mov %r10, %rsp; mov %r11, %rsp
pub(crate) const TASK_STACK: &[u8] = &[0x4c, 0x89, 0xd4];
pub(crate) const OTHER_STACK: &[u8] = &[0x4c, 0x89, 0xdc];
pub(crate) const RET: &[u8] = &[0xc3];
/// mov (%rdi), %rdx
pub(crate) const LOAD: &[u8] = &[0x48, 0x8b, 0x17];
pub(crate) const SYSRET: &[u8] = &[0x48, 0x0f, 0x07];
pub(crate) const IRET: &[u8] = &[0x48, 0xcf];

/// A kernel with a static key at each of `sites`.
pub(crate) fn layout(sites: &[u64]) -> KernelLayout {
    layout_with("", sites)
}

/// With more lines in the map.
pub(crate) fn layout_with(lines: &str, sites: &[u64]) -> KernelLayout {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("System.map");
    fs::write(&path, format!("{MAP}{lines}")).unwrap();
    let sites: Sites = sites
        .iter()
        .map(|&address| Site {
            address,
            len: 2,
            kind: SiteKind::StaticKey {
                key: 0xffff_ffff_8180_0000,
            },
        })
        .collect();
    KernelLayout::from_parts(Symbols::from_system_map(&path).unwrap(), sites, ENTRY).unwrap()
}

pub(crate) fn paging() -> Paging {
    Paging::default()
}

/// A CPU that executes what it is given, and writes it down.
#[derive(Clone, Debug)]
pub(crate) struct Cpu {
    pub(crate) registers: StepRegisters,
    pub(crate) other_gs: u64,
    pub(crate) flag: u8,
    pub(crate) steps: Vec<Crossed>,
}

impl Cpu {
    /// Just entered by SYSCALL.
    pub(crate) fn new() -> Self {
        let mut registers = StepRegisters {
            rip: ENTRY,
            cr3: USER_CR3,
            gs_base: USER_GS,
            rflags: 2,
            ..StepRegisters::default()
        };
        registers.general[4] = USER_STACK;
        registers.general[8..12].copy_from_slice(&[KERNEL_CR3, USER_CR3, STACK, USER_STACK]);
        Self {
            registers,
            other_gs: GS,
            flag: 0,
            steps: vec![],
        }
    }

    /// One that has come to `step` of a system call.
    pub(crate) fn at(step: usize) -> Self {
        let mut cpu = Self::new();
        cpu.syscall(0, true);
        let crossed = cpu.steps[step];
        let mut now = Self::new();
        now.registers = crossed.step.registers;
        now.flag = crossed.flag.unwrap();
        now.other_gs = if now.registers.gs_base == GS {
            USER_GS
        } else {
            GS
        };
        now
    }

    /// Executes one instruction: one of those above.
    pub(crate) fn execute(&mut self, code: &[u8]) -> &mut Self {
        self.note(code, false);
        match code {
            SWAPGS => std::mem::swap(&mut self.registers.gs_base, &mut self.other_gs),
            KERNEL_TABLE => self.registers.cr3 = KERNEL_CR3,
            USER_TABLE => self.registers.cr3 = USER_CR3,
            TASK_STACK => self.registers.general[4] = STACK,
            OTHER_STACK => self.registers.general[4] = USER_STACK,
            // Elsewhere it is some other memory that is written.
            SET if self.registers.gs_base == GS => self.flag = 1,
            CLEAR if self.registers.gs_base == GS => self.flag = 0,
            _ => {}
        }
        self.registers.rip += code.len() as u64;
        self
    }

    /// Calls C code, which runs freely if so, and returns.
    pub(crate) fn call(&mut self, free: bool) -> &mut Self {
        let next = self.registers.rip + 5;
        let offset = (C.wrapping_sub(next) as u32).to_le_bytes();
        let [a, b, c, d] = offset;
        self.note(&[0xe8, a, b, c, d], false);
        self.registers.rip = C;
        self.registers.general[4] -= 8;
        self.note(RET, free);
        self.registers.rip = next;
        self.registers.general[4] += 8;
        self
    }

    fn note(&mut self, code: &[u8], free: bool) {
        self.steps.push(Crossed {
            step: Step {
                registers: self.registers,
                code: Code::new(code),
                descriptor: None,
            },
            flag: Some(self.flag),
            free,
        });
    }

    /// The instructions of a system call from `number` on: the way in, C (at 5), the way out.
    pub(crate) fn syscall(&mut self, number: usize, free: bool) -> &mut Self {
        for step in number..SYSCALL {
            match step {
                0 | 10 => _ = self.execute(SWAPGS),
                1 => _ = self.execute(SET),
                2 => _ = self.execute(KERNEL_TABLE),
                3 => _ = self.execute(TASK_STACK),
                4 => _ = self.call(free),
                // The step after a call is in what it calls.
                5 => {}
                6 => _ = self.execute(NOP),
                7 => _ = self.execute(OTHER_STACK),
                8 => _ = self.execute(USER_TABLE),
                9 => _ = self.execute(CLEAR),
                _ => _ = self.execute(SYSRET),
            }
        }
        self
    }

    /// Takes an NMI that does what the reference series does, but for `wrong`.
    pub(crate) fn nmi(&mut self, wrong: Wrong) -> &mut Self {
        let (before, other) = (self.registers, self.other_gs);
        self.registers.rip = NMI;
        self.registers.general[4] = NMI_STACK;
        if before.cr3 == USER_CR3 && wrong != Wrong::NoCatchUp {
            self.execute(KERNEL_TABLE);
        }
        if wrong == Wrong::FlagBeforeGs {
            self.execute(SET);
        }
        if before.gs_base == USER_GS {
            self.execute(SWAPGS);
        }
        let found = self.flag;
        if wrong != Wrong::FlagBeforeGs && wrong != Wrong::NoFlag && found == 0 {
            self.execute(SET);
            if !matches!(wrong, Wrong::NoCatchUp | Wrong::NoSecondWrite) {
                self.execute(KERNEL_TABLE);
            }
        }
        self.call(true);
        if before.cr3 == USER_CR3 {
            self.execute(USER_TABLE);
        }
        let clear = match wrong {
            Wrong::DerivesFlag => before.cr3 == USER_CR3,
            _ => found == 0,
        };
        if clear {
            self.execute(CLEAR);
        }
        self.execute(IRET);
        self.registers = before;
        self.other_gs = other;
        self
    }

    pub(crate) fn passage(&self, arrival: Arrival) -> Passage {
        Passage {
            arrival,
            outer: None,
            steps: self.steps.clone(),
            ended: PassageEnd::User,
            frame: None,
        }
    }

    /// What the CPU pushes for an event that comes now.
    pub(crate) fn frame(&self) -> Frame {
        Frame {
            rip: self.registers.rip,
            cs: 0x10,
            rflags: self.registers.rflags,
            rsp: self.registers.general[4],
            ss: 0x18,
        }
    }
}

/// Instructions of [`Cpu::syscall`].
pub(crate) const SYSCALL: usize = 12;

/// What an NMI's entry and exit do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    Nothing,
    /// The flag is cleared if a user page table is restored.
    DerivesFlag,
    /// The flag is set before GS base is looked at.
    FlagBeforeGs,
    /// The flag is not set.
    NoFlag,
    /// The page table is not loaded.
    NoCatchUp,
    /// It is loaded before the flag is set only.
    NoSecondWrite,
}
