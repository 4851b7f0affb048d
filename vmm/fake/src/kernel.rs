//! The kernel of the fake guest: a System.map, and what a CPU executes on its way into it.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that fails should stop its test"
)]

use std::collections::BTreeSet;

use ipirig_entry::{Began, Ended, KernelLayout, Paging, Record};
use ipirig_image::{Site, SiteKind, Sites, Symbols};
use ipirig_instruction::{Code, Step, StepRegisters};

/// What the fake vCPU executes when it enters the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Path {
    /// As it should.
    #[default]
    Right,
    /// As it should, with more instructions before, as on another host.
    Longer,
    /// It never loads the kernel page table before ordinary code.
    NoCatchUp,
    /// It sets the flag after it has loaded the kernel page table.
    FlagLate,
    /// It clears the flag before it loads the user page table.
    FlagClearedEarly,
    /// It executes a static key's branch first.
    StaticKey,
    /// The record breaks off before anything has happened.
    BrokenOff,
    /// It keeps translations when it loads the kernel page table.
    KeepsNoflush,
    /// It goes to other address spaces without flushing their PCIDs.
    StalePcids,
    /// It goes to fewer address spaces than there are.
    FewSpaces,
    /// Nothing is recorded.
    NotSeen,
    /// A step is missing.
    Hole,
    /// Another interrupt comes first.
    Other,
    /// There was no debug register for it.
    NoBreakpoint,
}

const ENTRY: u64 = 0xffff_ffff_8140_0040;
const PATCHABLE: u64 = ENTRY + 0x100;
const WORK: u64 = 0xffff_ffff_8100_1000;
const FLAG: u64 = 0x15000;
const KERNEL_GS: u64 = 0xffff_8880_3f00_0000;
const KERNEL_CR3: u64 = 0x0100_0000;
/// The user's page table is the next page (PTI_USER_PGTABLE_BIT, arch/x86/entry/calling.h).
const USER_CR3: u64 = KERNEL_CR3 | 1 << 12;

/// CR4.PCIDE, and the bit that keeps translations in a value for CR3.
const PCIDE: u64 = 1 << 17;
const NOFLUSH: u64 = 1 << 63;

/// Where the fake kernel patches text.
pub const POKED: u64 = WORK + 0x40;
/// Where it unmaps memory.
pub const UNMAPPED: u64 = 0xffff_c900_0020_0000;
/// The function that patches text, which is watched.
pub const TEXT_POKE: u64 = 0xffff_ffff_8100_2000;
/// The function that flushes translations, which is watched.
pub const FLUSH: u64 = 0xffff_ffff_8100_3000;
/// The function that storms trace: the third of those that can be traced.
const TRACED: u64 = 0xffff_ffff_8100_5000;
/// The handler of call-function IPIs.
pub const CALL_HANDLER: u64 = 0xffff_ffff_8140_1000;

const MAP: &str = "\
0000000000015000 D kernel_cr3
0000000000016000 D __per_cpu_end
ffffffff81000000 T _stext
ffffffff81001000 T do_work
ffffffff81002000 T __text_poke
ffffffff81003000 T flush_tlb_kernel_range
ffffffff81004000 T text_poke_bp
ffffffff81005000 T kernel_power_off
ffffffff81200000 T __noinstr_text_start
ffffffff81201000 T __noinstr_text_end
ffffffff81400000 T __entry_text_start
ffffffff81400040 T entry_SYSCALL_64
ffffffff81401000 T asm_sysvec_call_function
ffffffff81402000 T __entry_text_end
ffffffff81600000 T _etext
ffffffff81800000 D a_key
ffffffff81800008 D text_mutex
ffffffff81800010 D __end
";

/// What one has besides that puts its vmalloc memory where it likes.
const RANDOMIZED: &str = "ffffffff81800018 D vmalloc_base\n";
/// Where that is.
pub const VMALLOC_BASE: u64 = 0xffff_ffff_8180_0018;

/// Where things are in it.
pub fn layout(lstar: u64) -> Result<KernelLayout, String> {
    layout_by(MAP, lstar)
}

/// The same of one that puts its vmalloc memory where it likes.
pub fn randomized_layout(lstar: u64) -> Result<KernelLayout, String> {
    layout_by(&format!("{MAP}{RANDOMIZED}"), lstar)
}

fn layout_by(text: &str, lstar: u64) -> Result<KernelLayout, String> {
    let dir = tempfile::tempdir().unwrap();
    let map = dir.path().join("System.map");
    std::fs::write(&map, text).unwrap();
    let symbols = Symbols::from_system_map(&map).unwrap();
    let site = |address, kind| Site {
        address,
        len: 5,
        kind,
    };
    let key = SiteKind::StaticKey {
        key: 0xffff_ffff_8180_0000,
    };
    let traced = [WORK, WORK + 0x80, TRACED + 4, TRACED + 0x100];
    let sites: Sites = [site(PATCHABLE, key), site(TRACED, key)]
        .into_iter()
        .chain(traced.map(|address| site(address, SiteKind::Ftrace)))
        .collect();
    KernelLayout::from_parts(symbols, sites, lstar).map_err(|error| error.to_string())
}

/// Where SYSCALL goes.
pub fn lstar() -> u64 {
    ENTRY
}

/// What `cpu` executes on its way in, by `began`, through `spaces` address spaces besides its task's, and out.
pub fn record(cpu: usize, began: Began, path: Path, spaces: u64, paging: Paging) -> Option<Record> {
    let mut way = Way {
        began: if path == Path::Other {
            Began::Vector(0xf6)
        } else {
            began
        },
        registers: StepRegisters {
            rip: ENTRY,
            cr3: USER_CR3,
            cr4: if paging.pcids { PCIDE } else { 0 },
            gs_base: 0x7fff_0000,
            ..StepRegisters::default()
        },
        steps: vec![],
    };
    way.registers.general[0] = match path {
        Path::KeepsNoflush => KERNEL_CR3 | NOFLUSH,
        _ => KERNEL_CR3,
    };
    let set = |way: &mut Way| way.flag(1);
    way.execute(&[0x0f, 0x01, 0xf8]); // swapgs
    way.registers.gs_base = KERNEL_GS;
    match path {
        Path::NotSeen => return None,
        Path::BrokenOff => return Some(way.record(cpu, Ended::Limit)),
        Path::Longer => {
            for _ in 0..3 {
                way.execute(&[0x90]); // nop
            }
        }
        Path::StaticKey => {
            let next = way.registers.rip + JMP;
            way.jump(PATCHABLE);
            way.execute(&[0x0f, 0x1f, 0x44, 0x00, 0x00]); // a nop of five bytes
            way.jump(next);
        }
        _ => {}
    }
    if path != Path::FlagLate {
        set(&mut way);
    }
    match path {
        Path::NoCatchUp => {}
        Path::KeepsNoflush => way.load_cr3(KERNEL_CR3 | NOFLUSH),
        _ => way.load_cr3(KERNEL_CR3),
    }
    if path == Path::FlagLate {
        set(&mut way);
    }
    way.jump(WORK);
    if spaces > 0 {
        way.through(spaces, path);
    }
    way.jump(ENTRY + 0x200);
    way.set_rax(USER_CR3);
    if path == Path::FlagClearedEarly {
        way.flag(0);
    }
    way.load_cr3(USER_CR3);
    if path != Path::FlagClearedEarly {
        way.flag(0);
    }
    way.execute(&[0x48, 0x0f, 0x07]); // sysretq
    if path == Path::Hole {
        way.steps.remove(4);
    }
    if path == Path::NoBreakpoint {
        way.steps.clear();
        return Some(way.record(cpu, Ended::NoBreakpoint));
    }
    Some(way.record(cpu, Ended::User))
}

/// The place of RSP among the general registers.
const RSP: usize = 4;
/// Bytes of a JMP.
const JMP: u64 = 5;

/// A record in the making.
struct Way {
    began: Began,
    registers: StepRegisters,
    steps: Vec<Step>,
}

impl Way {
    fn execute(&mut self, code: &[u8]) {
        self.steps.push(Step {
            registers: self.registers,
            code: Code::new(code),
            descriptor: None,
        });
        self.registers.rip += code.len() as u64;
    }

    /// `movb $value, %gs:FLAG`.
    fn flag(&mut self, value: u8) {
        let [a, b, c, d, ..] = FLAG.to_le_bytes();
        self.execute(&[0x65, 0xc6, 0x04, 0x25, a, b, c, d, value]);
    }

    fn jump(&mut self, to: u64) {
        let by = to.wrapping_sub(self.registers.rip + JMP) as u32;
        let [a, b, c, d] = by.to_le_bytes();
        self.execute(&[0xe9, a, b, c, d]);
        self.registers.rip = to;
    }

    /// `mov $value, %eax`.
    fn set_rax(&mut self, value: u64) {
        let [a, b, c, d, ..] = value.to_le_bytes();
        self.execute(&[0xb8, a, b, c, d]);
        self.registers.general[0] = value;
    }

    /// `mov %rax, %cr3`, with `value` in RAX.
    fn load_cr3(&mut self, value: u64) {
        self.execute(&[0x0f, 0x22, 0xd8]);
        self.registers.cr3 = value & !NOFLUSH;
    }

    /// `push %rax` in other address spaces, and in this one again.
    fn through(&mut self, spaces: u64, path: Path) {
        let spaces = if path == Path::FewSpaces {
            spaces / 2
        } else {
            spaces
        };
        let noflush = if path == Path::StalePcids { NOFLUSH } else { 0 };
        let others = (1..=spaces).map(|space| (KERNEL_CR3 + (space << 24)) | space | noflush);
        for table in others.chain([KERNEL_CR3]) {
            // mov $table, %rax
            let code: Vec<u8> = [0x48, 0xb8]
                .into_iter()
                .chain(table.to_le_bytes())
                .collect();
            self.execute(&code);
            self.registers.general[0] = table;
            self.load_cr3(table);
            self.execute(&[0x50]);
            let rsp = &mut self.registers.general[RSP];
            *rsp = rsp.wrapping_sub(8);
        }
    }

    fn record(self, cpu: usize, ended: Ended) -> Record {
        Record {
            cpu,
            began: self.began,
            handlers: BTreeSet::new(),
            steps: self.steps,
            ended,
        }
    }
}
