//! A kernel of a few hundred bytes: the entry points that matter, assembled, with a vmlinux around
//! them.

use iced_x86::code_asm::*;

pub(super) const TEXT: u64 = 0xffff_ffff_8100_0000;
/// Noinstr text comes first; the ordinary functions are all in there.
const ENTRY: u64 = TEXT + 0x100;
pub(super) const DATA: u64 = 0xffff_ffff_8180_0000;
const JUMPS: u64 = DATA;
const ALTERNATIVES: u64 = DATA + 0x100;
/// A key that is read-only after boot, and one that is not.
const BOOT_KEY: u64 = DATA + 0x200;
const RUN_KEY: u64 = DATA + 0x300;
const FLAG: u64 = 0x15000;
const PTI: u16 = 7 * 32 + 11;
const PCID: u16 = 4 * 32 + 17;
const USER_TABLE: i32 = 0x1000;

/// What is wrong with the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    None,
    /// SYSCALL does not set the flag.
    NotSet,
    /// SYSCALL sets it after the page table is loaded.
    SetLate,
    /// SYSRET clears it before the page table is loaded.
    ClearedEarly,
    /// SYSRET does not clear it.
    NotCleared,
    /// The paranoid exit clears it whenever it returns to the user's page table.
    Derived,
    /// The paranoid entry writes it before GS is the kernel's.
    UserGs,
    /// SYSCALL increments it.
    Unclear,
    /// Nothing before C loads the kernel's page table.
    NoSwitch,
    /// A branch of a static key is before the switch.
    StaticKey {
        /// Whether it can change at run time.
        run: bool,
    },
    /// A fixed address in vmalloc memory is read, and one in a module.
    Vmalloc,
    /// A pointer from a per-CPU variable is followed before the switch.
    Pointer,
    /// A function that nothing enters writes CR3.
    Unreached,
    /// SYSCALL has 24 branches in a row, each of which leaves another value behind.
    Ways,
}

/// What the vmlinux lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Without {
    Nothing,
    /// The flag: a stock kernel.
    Flag,
    /// All symbols.
    Symbols,
    /// All bytes of code and data.
    Bytes,
}

struct Assembled {
    code: Vec<u8>,
    symbols: Vec<(&'static str, u64)>,
    alternatives: Vec<(u64, u8, u16, Vec<u8>)>,
    /// Branch, target, key.
    jumps: Vec<(u64, u64, u64)>,
}

/// Sites that are known only when all is assembled.
#[derive(Default)]
struct Labels {
    symbols: Vec<(&'static str, CodeLabel)>,
    alternatives: Vec<(CodeLabel, u8, u16, Vec<u8>)>,
    jumps: Vec<(CodeLabel, CodeLabel, u64)>,
}

struct Code {
    asm: CodeAssembler,
    labels: Labels,
    bug: Bug,
}

impl Code {
    fn here(&mut self) -> CodeLabel {
        let mut label = self.asm.create_label();
        self.set(&mut label);
        label
    }

    fn set(&mut self, label: &mut CodeLabel) {
        self.asm.set_label(label).unwrap();
        // An instruction can have one label only.
        self.asm.zero_bytes().unwrap();
    }

    fn function(&mut self, name: &'static str) {
        let label = self.here();
        self.labels.symbols.push((name, label));
    }

    /// ALTERNATIVE "jmp end", "", X86_FEATURE_PTI.
    fn unless_pti(&mut self, end: CodeLabel) {
        let label = self.here();
        self.asm.jmp(end).unwrap();
        self.labels.alternatives.push((label, 2, PTI, Vec::new()));
    }

    fn note(&mut self, loaded: u32) {
        if let Bug::StaticKey { run } = self.bug
            && loaded == 1
        {
            let branch = self.here();
            self.asm.db(&[0x66, 0x90]).unwrap();
            let target = self.here();
            let key = if run { RUN_KEY } else { BOOT_KEY };
            self.labels.jumps.push((branch, target, key));
        }
        self.asm.mov(byte_ptr(FLAG).gs(), loaded).unwrap();
    }

    /// SWITCH_TO_KERNEL_CR3.
    fn kernel_cr3(&mut self, scratch: AsmRegister64, syscall: bool) {
        let mut end = self.asm.create_label();
        let bug = if syscall { self.bug } else { Bug::None };
        if bug == Bug::NoSwitch {
            return;
        }
        self.unless_pti(end);
        match bug {
            Bug::Unclear => self.asm.inc(byte_ptr(FLAG).gs()).unwrap(),
            Bug::NotSet | Bug::SetLate => {}
            _ => self.note(1),
        }
        if bug == Bug::Pointer {
            self.asm.mov(rax, qword_ptr(FLAG + 8).gs()).unwrap();
            self.asm.inc(qword_ptr(rax)).unwrap();
        }
        self.asm.mov(scratch, cr3).unwrap();
        // ALTERNATIVE "", "bts $63", X86_FEATURE_PCID.
        let label = self.here();
        self.asm.db(&[0x90; 5]).unwrap();
        let mut bts = CodeAssembler::new(64).unwrap();
        bts.bts(scratch, 63).unwrap();
        self.labels
            .alternatives
            .push((label, 5, PCID, bts.assemble(0).unwrap()));
        self.asm.and(scratch, !0x1800_i32).unwrap();
        self.asm.mov(cr3, scratch).unwrap();
        if bug == Bug::SetLate {
            self.note(1);
        }
        self.set(&mut end);
    }

    /// SWITCH_TO_USER_CR3 with what jumps over it.
    fn user_cr3(&mut self, sysret: bool) {
        let mut end = self.asm.create_label();
        let bug = if sysret { self.bug } else { Bug::None };
        self.unless_pti(end);
        if bug == Bug::ClearedEarly {
            self.note(0);
        }
        self.asm.mov(rdi, cr3).unwrap();
        self.asm.or(rdi, USER_TABLE).unwrap();
        self.asm.mov(cr3, rdi).unwrap();
        if !matches!(bug, Bug::ClearedEarly | Bug::NotCleared) {
            self.note(0);
        }
        self.set(&mut end);
    }

    fn c(&mut self) {
        self.asm.call(TEXT).unwrap();
    }

    fn syscall(&mut self) {
        self.function("entry_SYSCALL_64");
        if self.bug == Bug::Ways {
            self.asm.xor(eax, eax).unwrap();
            for bit in 0..24 {
                let mut skip = self.asm.create_label();
                self.asm.cmp(rcx, rdx).unwrap();
                self.asm.jne(skip).unwrap();
                self.asm.bts(rax, bit).unwrap();
                self.set(&mut skip);
            }
        }
        self.asm.swapgs().unwrap();
        self.kernel_cr3(rsp, true);
        self.asm.mov(rsp, qword_ptr(0x16000).gs()).unwrap();
        self.c();
        self.function("syscall_return_via_sysret");
        self.user_cr3(true);
        self.asm.swapgs().unwrap();
        self.asm.sysretq().unwrap();
    }

    fn page_fault(&mut self) {
        self.function("asm_exc_page_fault");
        let mut from_kernel = self.asm.create_label();
        self.asm.test(byte_ptr(rsp + 0x10), 3).unwrap();
        self.asm.je(from_kernel).unwrap();
        self.asm.swapgs().unwrap();
        self.kernel_cr3(rax, false);
        self.c();
        self.user_cr3(false);
        self.asm.swapgs().unwrap();
        self.asm.iretq().unwrap();
        self.set(&mut from_kernel);
        self.c();
        self.asm.iretq().unwrap();
    }

    fn paranoid(&mut self) {
        self.function("asm_exc_double_fault");
        let mut entry = self.asm.create_label();
        self.asm.call(entry).unwrap();
        self.c();
        // The way out.
        let (mut same_table, mut same_flag) = (self.asm.create_label(), self.asm.create_label());
        self.unless_pti(same_table);
        self.asm.bt(r14, 12).unwrap();
        self.asm.jae(same_table).unwrap();
        self.asm.mov(cr3, r14).unwrap();
        if self.bug == Bug::Derived {
            self.note(0);
        }
        self.set(&mut same_table);
        if self.bug != Bug::Derived {
            self.asm.test(r13, r13).unwrap();
            self.asm.je(same_flag).unwrap();
            self.note(0);
        }
        self.set(&mut same_flag);
        let mut same_gs = self.asm.create_label();
        self.asm.test(ebx, ebx).unwrap();
        self.asm.jne(same_gs).unwrap();
        self.asm.swapgs().unwrap();
        self.set(&mut same_gs);
        self.asm.iretq().unwrap();

        self.set(&mut entry);
        self.labels.symbols.push(("paranoid_entry", entry));
        self.asm.xor(r13d, r13d).unwrap();
        let mut switched = self.asm.create_label();
        self.unless_pti(switched);
        self.asm.mov(rax, cr3).unwrap();
        self.asm.mov(r14, rax).unwrap();
        self.asm.bt(rax, 12).unwrap();
        self.asm.jae(switched).unwrap();
        self.asm.and(rax, !0x1800_i32).unwrap();
        self.asm.mov(cr3, rax).unwrap();
        self.set(&mut switched);
        if self.bug == Bug::UserGs {
            self.paranoid_note();
        }
        let mut kernel_gs = self.asm.create_label();
        self.asm.mov(ebx, 1).unwrap();
        self.asm.mov(ecx, 0xc000_0101_u32).unwrap();
        self.asm.rdmsr().unwrap();
        self.asm.test(edx, edx).unwrap();
        self.asm.js(kernel_gs).unwrap();
        self.asm.xor(ebx, ebx).unwrap();
        self.asm.swapgs().unwrap();
        self.set(&mut kernel_gs);
        if self.bug != Bug::UserGs {
            self.paranoid_note();
        }
        self.asm.ret().unwrap();
    }

    /// PARANOID_NOTE_KERNEL_CR3.
    fn paranoid_note(&mut self) {
        let mut end = self.asm.create_label();
        self.unless_pti(end);
        self.asm.cmp(byte_ptr(FLAG).gs(), 0).unwrap();
        self.asm.jne(end).unwrap();
        self.asm.mov(r13d, 1).unwrap();
        self.asm.mov(byte_ptr(FLAG).gs(), 1).unwrap();
        self.asm.mov(rax, cr3).unwrap();
        self.asm.mov(cr3, rax).unwrap();
        self.set(&mut end);
        self.asm.nop().unwrap();
    }

    fn other(&mut self) {
        self.function("asm_load_gs_index");
        match self.bug {
            Bug::Vmalloc => {
                // MOV with an absolute address: A1.
                for address in [0xffff_c900_0000_1000_u64, 0xffff_ffff_c000_0000] {
                    let mut mov = vec![0x48, 0xa1];
                    mov.extend(address.to_le_bytes());
                    self.asm.db(&mov).unwrap();
                }
            }
            Bug::Unreached => self.asm.mov(cr3, rax).unwrap(),
            _ => {}
        }
        self.asm.ret().unwrap();
    }
}

fn assemble(bug: Bug) -> Assembled {
    let mut code = Code {
        asm: CodeAssembler::new(64).unwrap(),
        labels: Labels::default(),
        bug,
    };
    code.syscall();
    code.page_fault();
    code.paranoid();
    code.other();
    let options = iced_x86::BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
    let result = code.asm.assemble_options(ENTRY, options).unwrap();
    let at = |label: &CodeLabel| result.label_ip(label).unwrap();
    let Labels {
        symbols,
        alternatives,
        jumps,
    } = &code.labels;
    Assembled {
        symbols: symbols
            .iter()
            .map(|(name, label)| (*name, at(label)))
            .collect(),
        alternatives: alternatives
            .iter()
            .map(|(label, len, feature, new)| (at(label), *len, *feature, new.clone()))
            .collect(),
        jumps: jumps
            .iter()
            .map(|(a, b, key)| (at(a), at(b), *key))
            .collect(),
        code: result.inner.code_buffer.clone(),
    }
}

/// The vmlinux of a kernel with `bug`.
pub(super) fn vmlinux(bug: Bug, without: Without) -> Vec<u8> {
    let Assembled {
        code,
        mut symbols,
        alternatives,
        jumps,
    } = assemble(bug);
    // A C function with a branch of a static key, and the table of alternatives' replacements.
    let mut text = vec![0x66, 0x90, 0xc3];
    text.resize(0x100, 0xcc);
    text.extend(&code);
    let end = TEXT + text.len() as u64;
    let relative = |to: u64, from: u64| (to.wrapping_sub(from) as u32).to_le_bytes();
    let mut data = vec![0; 0x400];
    let mut at = ALTERNATIVES;
    for (address, len, feature, new) in &alternatives {
        let replacement = TEXT + text.len() as u64;
        let mut entry = relative(*address, at).to_vec();
        entry.extend(relative(replacement, at + 4));
        entry.extend(feature.to_le_bytes());
        entry.extend([0, 0, *len, new.len() as u8]);
        text.extend(new);
        let offset = (at - DATA) as usize;
        data[offset..offset + 14].copy_from_slice(&entry);
        at += 14;
    }
    // The first of two names for one address is the one that is shown.
    symbols.push(("do_syscall_64", TEXT));
    symbols.push(("__alt_instructions", ALTERNATIVES));
    symbols.push(("__alt_instructions_end", at));
    let mut at = JUMPS;
    let in_c = (TEXT, TEXT + 2, RUN_KEY);
    for (branch, target, key) in jumps.iter().chain([&in_c]) {
        let mut entry = relative(*branch, at).to_vec();
        entry.extend(relative(*target, at + 4));
        entry.extend(key.wrapping_sub(at + 8).to_le_bytes());
        let offset = (at - DATA) as usize;
        data[offset..offset + 16].copy_from_slice(&entry);
        at += 16;
    }
    symbols.extend([
        ("__start___jump_table", JUMPS),
        ("__stop___jump_table", at),
        ("__start_ro_after_init", BOOT_KEY),
        ("boot_key", BOOT_KEY),
        ("__end_ro_after_init", BOOT_KEY + 0x10),
        ("run_key", RUN_KEY),
        ("end_of_data", RUN_KEY + 0x10),
        ("__noinstr_text_start", TEXT),
        ("__noinstr_text_end", TEXT + 0x100),
        ("__entry_text_start", ENTRY),
        ("__entry_text_end", end),
        ("end_of_text", TEXT + text.len() as u64),
        ("kernel_cr3", FLAG),
        ("__per_cpu_end", FLAG + 0x1000),
    ]);
    match without {
        Without::Symbols => symbols.clear(),
        Without::Flag => symbols.retain(|(name, _)| *name != "kernel_cr3"),
        Without::Nothing | Without::Bytes => {}
    }
    elf(&text, &data, &symbols, without != Without::Bytes)
}

/// An ELF file with `.text`, `.data` and symbols; without bytes, as `objcopy --only-keep-debug` leaves
/// it.
fn elf(text: &[u8], data: &[u8], symbols: &[(&str, u64)], bytes: bool) -> Vec<u8> {
    let (mut names, mut symtab) = (vec![0], vec![0; 24]);
    for &(name, address) in symbols {
        symtab.extend((names.len() as u32).to_le_bytes());
        // A global function, absolute.
        symtab.extend([0x12, 0, 0xf1, 0xff]);
        symtab.extend(address.to_le_bytes());
        symtab.extend([0; 8]);
        names.extend(name.bytes());
        names.push(0);
    }
    let kind = if bytes { 1 } else { 8 };
    let sections: [(u32, u64, u64, &[u8], u32); 5] = [
        (0, 0, 0, &[], 0),
        (kind, 6, TEXT, text, 0),
        (kind, 3, DATA, data, 0),
        (2, 0, 0, &symtab, 4),
        (3, 0, 0, &names, 0),
    ];
    let (mut contents, mut headers) = (Vec::<u8>::new(), Vec::<u8>::new());
    for (kind, flags, address, bytes, link) in sections {
        headers.extend([0; 4]);
        headers.extend(kind.to_le_bytes());
        for field in [
            flags,
            address,
            64 + contents.len() as u64,
            bytes.len() as u64,
        ] {
            headers.extend(field.to_le_bytes());
        }
        headers.extend(link.to_le_bytes());
        headers.extend([0; 12]);
        headers.extend((if kind == 2 { 24_u64 } else { 0 }).to_le_bytes());
        contents.extend(bytes);
    }
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend([0; 16]); // entry, program headers
    file.extend((64 + contents.len() as u64).to_le_bytes());
    file.extend([0; 4]);
    file.extend([64, 0, 0, 0, 0, 0, 64, 0, 5, 0, 4, 0]);
    file.extend(contents);
    file.extend(headers);
    file
}
