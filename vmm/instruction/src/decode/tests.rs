//! Instructions as bytes, by hand and by an assembler.

use iced_x86::code_asm::{
    CodeAssembler, bx, cl, cr0, cr2, cr3, cr4, cr8, dr7, dword_ptr, dx, eax, ebx, edx, qword_ptr,
    r12, rax, rbx, rcx, rdi, rdx, rsi, rsp, word_ptr, xmmword_ptr,
};
use iced_x86::{Encoder, IcedError};

use super::*;
use crate::step::Code;

const RIP: u64 = 0xffff_ffff_8140_0040;
const STACK: u64 = 0xffff_c900_0010_4000;
const GS: u64 = 0xffff_8880_3f00_0000;

fn step(registers: StepRegisters, code: &[u8]) -> Step {
    Step {
        registers,
        code: Code::new(code),
        descriptor: None,
    }
}

fn registers() -> StepRegisters {
    let mut registers = StepRegisters {
        rip: RIP,
        cr4: 0x20080,
        fs_base: 0x7000_0000,
        gs_base: GS,
        ..StepRegisters::default()
    };
    for (number, value) in (0..).zip(&mut registers.general) {
        *value = 0x1_0000_0000 * (number + 1) + 0x1000;
    }
    registers.general[4] = STACK;
    registers
}

fn decode(code: &[u8], registers: StepRegisters) -> Option<Executed> {
    Decoder::new().decode(&step(registers, code))
}

/// What the one instruction that `write` assembles does.
fn executed(
    registers: StepRegisters,
    write: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Executed {
    let mut assembler = CodeAssembler::new(64).unwrap();
    write(&mut assembler).unwrap();
    let code = assembler.assemble(RIP).unwrap();
    let executed = decode(&code, registers).unwrap();
    assert_eq!(executed.length, code.len());
    executed
}

/// Address, size, whether it writes, whether by RSP, whether by GS.
fn accesses(
    write: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Vec<(u64, u64, bool, bool, bool)> {
    seen(&executed(registers(), write))
}

fn seen(executed: &Executed) -> Vec<(u64, u64, bool, bool, bool)> {
    executed
        .accesses
        .iter()
        .map(|a| (a.address, a.size, a.write, a.via_stack, a.per_cpu))
        .collect()
}

#[test]
fn operands_in_memory_have_their_addresses() {
    let (rdi_, rsi_) = (0x8_0000_1000, 0x7_0000_1000);
    let load = (rdi_ + 0x10, 8, false, false, false);
    assert_eq!(accesses(|a| a.mov(rax, qword_ptr(rdi + 0x10))), [load]);
    let store = (rdi_ + 4 * rsi_ - 8, 4, true, false, false);
    assert_eq!(
        accesses(|a| a.mov(dword_ptr(rdi + rsi * 4 - 8), eax)),
        [store]
    );
    let both = (rsi_, 8, true, false, false);
    assert_eq!(accesses(|a| a.add(qword_ptr(rsi), rax)), [both]);
    let local = (STACK + 8, 8, false, true, false);
    assert_eq!(accesses(|a| a.mov(rax, qword_ptr(rsp + 8))), [local]);
    // 32-bit registers wrap.
    let wraps = (0x1000, 8, false, false, false);
    assert_eq!(accesses(|a| a.mov(rax, qword_ptr(ebx))), [wraps]);
}

#[test]
fn segments_have_their_bases() {
    let per_cpu = (GS + 0x15000, 8, false, false, true);
    assert_eq!(accesses(|a| a.mov(rax, qword_ptr(0x15000).gs())), [per_cpu]);
    let tls = (0x7000_0000 + 0x28, 8, false, false, false);
    assert_eq!(accesses(|a| a.mov(rax, qword_ptr(0x28).fs())), [tls]);
    // Relative to RIP, as the kernel's are: MOVB $1, %gs:kernel_cr3(%rip).
    let code = [0x65, 0xc6, 0x05, 0xab, 0x4f, 0xc1, 0x7e, 0x01];
    let at = StepRegisters {
        rip: 0xffff_ffff_8140_004d,
        ..registers()
    };
    let executed = decode(&code, at).unwrap();
    assert_eq!(seen(&executed), [(GS + 0x15000, 1, true, false, true)]);
    assert_eq!(executed.stored, Some(1));
    assert_eq!(executed.text(), "movb $1, %gs:0x15000");
}

#[test]
fn the_stack_is_accessed_by_what_does_not_name_it() {
    let read = |offset, size| (STACK + offset, size, false, true, false);
    let write = (STACK - 8, 8, true, true, false);
    assert_eq!(accesses(|a| a.push(rax)), [write]);
    assert_eq!(accesses(|a| a.pop(rax)), [read(0, 8)]);
    assert_eq!(accesses(|a| a.call(0xffff_ffff_8120_0000)), [write]);
    assert_eq!(accesses(|a| a.ret()), [read(0, 8)]);
    let mut pushed = accesses(|a| a.push(qword_ptr(rdi)));
    pushed.sort_unstable();
    assert_eq!(pushed, [(0x8_0000_1000, 8, false, false, false), write]);
    let iret = accesses(|a| a.iretq());
    let from = iret.iter().map(|access| access.0).min();
    let to = iret.iter().map(|access| access.0 + access.1).max();
    assert_eq!((from, to), (Some(STACK), Some(STACK + 40)));
}

#[test]
fn what_only_names_memory_does_not_access_it() {
    assert_eq!(accesses(|a| a.lea(rax, qword_ptr(rdi))), []);
    assert_eq!(accesses(|a| a.nop_1(dword_ptr(rax))), []);
    assert_eq!(accesses(|a| a.invlpg(dword_ptr(rdi))), []);
    assert_eq!(accesses(|a| a.prefetcht0(dword_ptr(rdi))), []);
}

#[test]
fn a_repeated_string_instruction_accesses_all_that_is_left() {
    let with = |count: u64, rflags: u64| {
        let mut registers = registers();
        registers.general[1] = count;
        registers.rflags = rflags;
        let mut found = seen(&executed(registers, |a| a.rep().movsq()));
        found.sort_unstable();
        found
    };
    let (rdi_, rsi_) = (0x8_0000_1000, 0x7_0000_1000);
    let read = |address| (address, 24, false, false, false);
    let write = |address| (address, 24, true, false, false);
    assert_eq!(with(3, 0), [read(rsi_), write(rdi_)]);
    assert_eq!(with(3, DIRECTION), [read(rsi_ - 16), write(rdi_ - 16)]);
    assert_eq!(with(0, 0), []);
    // With 32-bit addresses ECX counts, here 0x1000: ADDR32 REP MOVSQ.
    let short = decode(&[0x67, 0xf3, 0x48, 0xa5], registers()).unwrap();
    let sizes = short.accesses.iter().map(|a| (a.address, a.size));
    assert_eq!(sizes.collect::<Vec<_>>(), [(0x1000, 0x8000); 2]);
    let once = accesses(|a| a.stosq());
    assert_eq!(once, [(rdi_, 8, true, false, false)]);
}

#[test]
fn a_bit_test_reaches_beyond_its_operand() {
    let at = |rdx_: u64| {
        let mut registers = registers();
        registers.general[2] = rdx_;
        seen(&executed(registers, |a| a.bts(qword_ptr(rdi), rdx)))[0].0
    };
    let rdi_ = 0x8_0000_1000;
    assert_eq!(at(63), rdi_);
    assert_eq!(at(64), rdi_ + 8);
    assert_eq!(at((-1_i64).cast_unsigned()), rdi_ - 8);
    let mut registers = registers();
    registers.general[2] = 3 << 5;
    let doubleword = executed(registers, |a| a.bts(dword_ptr(rdi), edx));
    assert_eq!(seen(&doubleword)[0].0, rdi_ + 3 * 4);
    registers.general[2] = 3 << 4;
    let word = executed(registers, |a| a.bts(word_ptr(rdi), dx));
    assert_eq!(seen(&word)[0].0, rdi_ + 3 * 2);
    let immediate = accesses(|a| a.bts(qword_ptr(rdi), 65));
    assert_eq!(immediate[0].0, rdi_);
}

#[test]
fn stores_of_known_values_are_known() {
    let stored = |write: fn(&mut CodeAssembler) -> Result<(), IcedError>| {
        executed(registers(), write).stored
    };
    assert_eq!(stored(|a| a.mov(dword_ptr(rdi), 7)), Some(7));
    assert_eq!(stored(|a| a.mov(dword_ptr(rdi), ebx)), Some(0x1000));
    assert_eq!(stored(|a| a.mov(word_ptr(rdi), bx)), Some(0x1000));
    assert_eq!(stored(|a| a.xchg(qword_ptr(rdi), rbx)), Some(0x4_0000_1000));
    assert_eq!(stored(|a| a.mov(rbx, qword_ptr(rdi))), None);
    assert_eq!(stored(|a| a.or(dword_ptr(rdi), 1)), None);
    // MOVB %ch, (%rdi): RCX is 0x2_0000_1000.
    assert_eq!(
        decode(&[0x88, 0x2f], registers()).unwrap().stored,
        Some(0x10)
    );
    assert_eq!(
        stored(|a| a.mov(iced_x86::code_asm::byte_ptr(rdi), cl)),
        Some(0)
    );
}

#[test]
fn effects_have_their_values() {
    let effect = |write: fn(&mut CodeAssembler) -> Result<(), IcedError>| {
        executed(registers(), write).effect
    };
    let r12_ = 0xd_0000_1000;
    assert_eq!(
        effect(|a| a.mov(cr3, r12)),
        Effect::WriteCr3 { value: r12_ }
    );
    let old = 0x20080;
    assert_eq!(
        effect(|a| a.mov(cr4, r12)),
        Effect::WriteCr4 { old, new: r12_ }
    );
    let address = 0x8_0000_1008;
    assert_eq!(
        effect(|a| a.invlpg(dword_ptr(rdi + 8))),
        Effect::Invlpg { address }
    );
    let invpcid = Effect::Invpcid {
        kind: r12_,
        descriptor: None,
    };
    assert_eq!(effect(|a| a.invpcid(r12, xmmword_ptr(rdi))), invpcid);
}

#[test]
fn a_descriptor_of_invpcid_is_found_and_taken_if_the_cpu_takes_it() {
    // INVPCID (%rax,%rbx,2), %rcx
    let code = [0x66, 0x0f, 0x38, 0x82, 0x0c, 0x58];
    let step = |kind: u64, control: u64, descriptor| {
        let mut registers = StepRegisters {
            cr4: control,
            ..registers()
        };
        registers.general[1] = kind;
        Step {
            registers,
            code: Code::new(&code),
            descriptor,
        }
    };
    let address = |step: &Step| invpcid_descriptor(step);
    let [rax_, rbx_] = [0, 3].map(|place| registers().general[place]);
    assert_eq!(address(&step(0, PCIDE, None)), Some(rax_ + 2 * rbx_));
    let mut other = step(0, PCIDE, None);
    // Its bytes within an immediate are none: MOV $0x82380f, %eax.
    other.code = Code::new(&[0xb8, 0x0f, 0x38, 0x82, 0x00]);
    assert_eq!(address(&other), None);

    let taken = |kind: u64, control: u64, descriptor| match Decoder::new()
        .decode(&step(kind, control, Some(descriptor)))
        .unwrap()
        .effect
    {
        Effect::Invpcid { descriptor, .. } => descriptor,
        other => panic!("{other:?}"),
    };
    assert_eq!(taken(0, PCIDE, [0xfff, 7]), Some((0xfff, 7)));
    assert_eq!(taken(1, PCIDE, [3, 0]), Some((3, 0)));
    // Reserved bits, and a PCID without PCIDs, end in #GP.
    assert_eq!(taken(0, PCIDE, [0x1000, 7]), None);
    assert_eq!(taken(1, 0, [3, 0]), None);
    assert_eq!(taken(1, 0, [0, 0]), Some((0, 0)));
    assert_eq!(taken(2, 0, [3, 0]), Some((3, 0)));
}

#[test]
fn serialising_is_what_both_manuals_say() {
    type Write = fn(&mut CodeAssembler) -> Result<(), IcedError>;
    let serialising: [Write; 11] = [
        |a| a.mov(cr0, rax),
        |a| a.mov(cr2, rax),
        |a| a.mov(dr7, rax),
        |a| a.cpuid(),
        |a| a.iretq(),
        |a| a.lgdt(dword_ptr(rdi)),
        |a| a.lidt(dword_ptr(rdi)),
        |a| a.ltr(eax),
        |a| a.wbinvd(),
        |a| a.serialize(),
        |a| a.invd(),
    ];
    let other: [Write; 10] = [
        |a| a.mov(cr8, rax),
        |a| a.mov(rax, cr3),
        |a| a.mov(rax, dr7),
        |a| a.swapgs(),
        |a| a.mfence(),
        |a| a.lfence(),
        |a| a.sysretq(),
        |a| a.syscall(),
        |a| a.rdmsr(),
        |a| a.clts(),
    ];
    let effect = |write| executed(registers(), write).effect;
    assert_eq!(serialising.map(effect), [Effect::Serialising; 11]);
    assert_eq!(other.map(effect), [Effect::None; 10]);
}

#[test]
fn wrmsr_serialises_but_for_some_registers() {
    let effect = |msr: u64| {
        let mut registers = registers();
        // The upper half does not count.
        registers.general[1] = msr | 5 << 32;
        executed(registers, |a| a.wrmsr()).effect
    };
    for msr in [
        0x48,
        0x49,
        0x6e0,
        0x802,
        0x830,
        0x83f,
        0xc000_0100,
        0xc000_0102,
    ] {
        assert_eq!(effect(msr), Effect::None, "{msr:#x}");
    }
    for msr in [0x10, 0x1b, 0x4a, 0x6df, 0xc000_0082, 0xc000_0103] {
        assert_eq!(effect(msr), Effect::Serialising, "{msr:#x}");
    }
}

#[test]
fn branches_have_targets() {
    let near = executed(registers(), |a| a.call(0xffff_ffff_8120_0000));
    assert_eq!(near.target(), Some(0xffff_ffff_8120_0000));
    assert_eq!(executed(registers(), |a| a.call(rcx)).target(), None);
    assert_eq!(executed(registers(), |a| a.mov(rax, rbx)).target(), None);
}

#[test]
fn bytes_that_are_no_instruction_give_none() {
    assert_eq!(decode(&[], registers()), None);
    assert_eq!(decode(&[0x06], registers()), None);
    // A CALL cut off.
    assert_eq!(decode(&[0xe8, 0, 0], registers()), None);
    assert_eq!(decode(&[0x66; 15], registers()), None);
}

#[test]
fn the_encoder_of_the_tests_writes_what_is_decoded() {
    let executed = executed(registers(), |a| a.mov(cr3, rax));
    let mut encoder = Encoder::new(64);
    encoder.encode(&executed.instruction, RIP).unwrap();
    assert_eq!(encoder.take_buffer(), [0x0f, 0x22, 0xd8]);
}
