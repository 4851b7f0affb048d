//! Stacks by hand, whole and broken ones.

use proptest::prelude::*;

use super::*;
use crate::MAX_FRAMES;
use crate::testing::{
    FUNCTION, IRQ_STACK, STACK, TEXT, Words, inside, with_frame_pointers, with_orc,
};

/// A frame of `size` bytes up to the return address, from RSP; RBP untouched.
fn call(size: i16) -> OrcEntry {
    OrcEntry {
        sp_offset: size + 8,
        bp_offset: 0,
        sp: OrcBase::Sp,
        bp: OrcBase::Undefined,
        kind: OrcKind::Call,
        signal: false,
    }
}

fn of_kind(kind: OrcKind) -> OrcEntry {
    OrcEntry {
        sp_offset: 0,
        kind,
        signal: true,
        ..call(0)
    }
}

fn registers(rip: u64, rsp: u64, rbp: u64) -> UnwindRegisters {
    UnwindRegisters {
        rip,
        rsp,
        rbp,
        ..UnwindRegisters::default()
    }
}

/// A `struct pt_regs`.
fn pt_regs(registers: &UnwindRegisters, cs: u64) -> [u64; PT_REGS / 8] {
    let mut words = [0; PT_REGS / 8];
    for (offset, value) in [
        (R13, registers.r13),
        (RBP, registers.rbp),
        (R10, registers.r10),
        (RAX, registers.rax),
        (RDX, registers.rdx),
        (RDI, registers.rdi),
        (RIP, registers.rip),
        (RIP + CS, cs),
        (RIP + RSP, registers.rsp),
    ] {
        words[offset / 8] = value;
    }
    words
}

fn unwind(kernel: &Kernel, registers: &UnwindRegisters, memory: &Words) -> (Vec<u64>, End) {
    let chain = kernel.unwind(registers, memory, &mut Prologues::default());
    (chain.addresses().to_vec(), chain.end)
}

fn user() -> [u64; PT_REGS / 8] {
    pt_regs(&registers(0x40_1000, 0x7fff_0000, 0), 0x33)
}

#[test]
fn orc_leads_from_call_to_call_to_the_entry_from_user_space() {
    let kernel = with_orc(&[call(0), call(16), of_kind(OrcKind::Registers)]);
    let mut memory = Words::default();
    let rsp = STACK - 0x200;
    memory.set(rsp, &[inside(1), 7, 7, inside(2)]);
    memory.set(rsp + 32, &user());
    let found = unwind(&kernel, &registers(inside(0), rsp, 0), &memory);
    assert_eq!(found, (vec![inside(0), inside(1), inside(2)], End::User));
}

#[test]
fn a_stack_of_five_levels_of_page_tables_is_in_the_kernel_s_half_as_well() {
    let rsp = 0xff87_c235_8000_3eb8;
    let mut memory = Words::default();
    memory.set(rsp, &[inside(1), inside(2)]);
    let kernel = with_orc(&[call(0), call(0), of_kind(OrcKind::EndOfStack)]);
    let found = unwind(&kernel, &registers(inside(0), rsp, 0), &memory);
    assert_eq!(found, (vec![inside(0), inside(1), inside(2)], End::Start));
}

#[test]
fn the_entry_before_a_return_address_counts_and_that_of_an_interrupted_one() {
    // A call that does not return, at the very end of f1: what comes next is another function.
    let at_end = TEXT + 2 * FUNCTION;
    let mut entries = [call(0), call(0), of_kind(OrcKind::Undefined)];
    let mut memory = Words::default();
    let rsp = STACK - 0x100;
    memory.set(rsp, &[at_end, inside(3)]);
    let kernel = with_orc(&[
        entries[0],
        entries[1],
        entries[2],
        of_kind(OrcKind::EndOfStack),
    ]);
    let found = unwind(&kernel, &registers(inside(0), rsp, 0), &memory);
    assert_eq!(found, (vec![inside(0), at_end, inside(3)], End::Start));
    // Interrupted at the first instruction of f2.
    entries[1] = of_kind(OrcKind::InterruptFrame);
    entries[2] = call(0);
    let kernel = with_orc(&[
        entries[0],
        entries[1],
        entries[2],
        of_kind(OrcKind::EndOfStack),
    ]);
    memory.set(rsp, &[inside(1), at_end, 0x10, 2, rsp + 0x80, 0x18]);
    memory.set(rsp + 0x80, &[inside(3)]);
    let found = unwind(&kernel, &registers(inside(0), rsp, 0), &memory);
    let expected = vec![inside(0), inside(1), at_end, inside(3)];
    assert_eq!(found, (expected, End::Start));
}

#[test]
fn orc_goes_on_where_an_interrupt_on_a_stack_of_its_own_came() {
    // f0 called by f1, which call_on_irqstack() put there: the old RSP is on top of the IRQ stack.
    let switch = OrcEntry {
        sp: OrcBase::SpIndirect,
        sp_offset: 8,
        ..call(0)
    };
    let by_bp = OrcEntry {
        sp: OrcBase::Bp,
        sp_offset: 16,
        bp: OrcBase::PreviousSp,
        bp_offset: -16,
        ..call(0)
    };
    let kernel = with_orc(&[
        call(8),
        switch,
        of_kind(OrcKind::Registers),
        by_bp,
        of_kind(OrcKind::EndOfStack),
    ]);
    let mut memory = Words::default();
    let (irq, task) = (IRQ_STACK - 24, STACK - 0x400);
    memory.set(irq, &[0, inside(1), task]);
    memory.set(task, &[inside(2)]);
    let interrupted = registers(inside(3), task + 0x200, task + 0x240);
    memory.set(task + 8, &pt_regs(&interrupted, 0x10));
    memory.set(task + 0x240, &[0x55, inside(4)]);
    let found = unwind(&kernel, &registers(inside(0), irq, 0), &memory);
    let expected = vec![inside(0), inside(1), inside(2), inside(3), inside(4)];
    assert_eq!(found, (expected, End::Start));
}

#[test]
fn registers_that_only_the_first_frame_knows_are_used_there_and_nowhere_else() {
    let by_r10 = OrcEntry {
        sp: OrcBase::R10,
        ..call(0)
    };
    let kernel = with_orc(&[by_r10, by_r10]);
    let mut memory = Words::default();
    let top = STACK - 0x80;
    memory.set(top - 8, &[inside(1)]);
    let first = UnwindRegisters {
        r10: top,
        ..registers(inside(0), STACK - 0x100, 0)
    };
    let found = unwind(&kernel, &first, &memory);
    let end = End::Cut(Broken::BadEntry);
    assert_eq!(found, (vec![inside(0), inside(1)], end));
}

#[test]
fn code_without_an_entry_is_taken_to_have_a_frame_pointer() {
    let kernel = with_orc(&[call(0), of_kind(OrcKind::EndOfStack)]);
    let mut memory = Words::default();
    let (rsp, bpf) = (STACK - 0x100, 0xffff_ffff_c000_0123);
    memory.set(rsp, &[bpf]);
    memory.set(rsp + 0x40, &[STACK - 8, inside(1)]);
    let found = unwind(&kernel, &registers(inside(0), rsp, rsp + 0x40), &memory);
    assert_eq!(found, (vec![inside(0), bpf, inside(1)], End::Start));
}

/// Code of every function: PUSH RBP; MOV RBP, RSP; NOPs.
fn framed_code(memory: &mut Words) {
    for index in 0..16 {
        let nops = u64::from_le_bytes([0x90; 8]);
        let prologue = u64::from_le_bytes([0x55, 0x48, 0x89, 0xe5, 0x90, 0x90, 0x90, 0x90]);
        let start = TEXT + index * FUNCTION;
        memory.set(start, &[nops; FUNCTION as usize / 8]);
        memory.set(start, &[prologue]);
    }
}

#[test]
fn frame_pointers_lead_to_the_entry_from_user_space() {
    let kernel = with_frame_pointers();
    let mut memory = Words::default();
    framed_code(&mut memory);
    let rsp = STACK - 0x300;
    memory.set(rsp + 0x20, &[rsp + 0x80, inside(1)]);
    memory.set(rsp + 0x80, &[0, inside(2)]);
    memory.set(rsp + 0x90, &user());
    let found = unwind(&kernel, &registers(inside(0), rsp, rsp + 0x20), &memory);
    assert_eq!(found, (vec![inside(0), inside(1), inside(2)], End::User));
}

#[test]
fn a_function_that_has_no_frame_does_not_hide_its_caller() {
    let kernel = with_frame_pointers();
    let rsp = STACK - 0x300;
    // No frame at all; two words pushed; a frame that is taken down again, at its RET; one that is
    // taken down on a way out before.
    let nop = [0x90; 4];
    for (code, above) in [
        ([nop, nop, nop].concat(), Some(0)),
        ([&[0x53, 0x41, 0x54][..], &nop].concat(), Some(16)),
        (vec![0x55, 0x48, 0x89, 0xe5, 0x5d], Some(0)),
        (vec![0x55, 0x48, 0x89, 0xe5, 0x5d, 0xc3, 0x90], None),
    ] {
        let mut memory = Words::default();
        framed_code(&mut memory);
        let mut words = code.clone();
        words.resize(16, 0x90);
        for (at, word) in (TEXT..).step_by(8).zip(words.as_chunks::<8>().0) {
            memory.set(at, &[u64::from_le_bytes(*word)]);
        }
        let mut expected = vec![TEXT + code.len() as u64, inside(2)];
        if let Some(above) = above {
            memory.set(rsp + above, &[inside(1)]);
            expected.insert(1, inside(1));
        }
        memory.set(rsp + 0x80, &[0, inside(2)]);
        memory.set(rsp + 0x90, &user());
        let found = unwind(&kernel, &registers(expected[0], rsp, rsp + 0x80), &memory);
        assert_eq!(found, (expected, End::User), "{code:x?}");
    }
}

#[test]
fn frame_pointers_go_on_where_an_interrupt_came() {
    let kernel = with_frame_pointers();
    let mut memory = Words::default();
    framed_code(&mut memory);
    let (irq, task) = (IRQ_STACK - 0x100, STACK - 0x400);
    // Entry code leaves the address of what it saved, its lowest bit set.
    memory.set(irq + 0x20, &[(task + 0x40) | 1, inside(1)]);
    let interrupted = registers(inside(2), task + 0x200, task + 0x240);
    memory.set(task + 0x40, &pt_regs(&interrupted, 0x10));
    memory.set(task + 0x240, &[(task + 0x280) | 1, inside(3)]);
    // A kernel thread: nothing was saved.
    memory.set(task + 0x280, &[0; PT_REGS / 8]);
    let found = unwind(&kernel, &registers(inside(0), irq, irq + 0x20), &memory);
    let expected = vec![inside(0), inside(1), inside(2), inside(3)];
    assert_eq!(found, (expected, End::Start));
}

#[test]
fn a_stack_that_leads_nowhere_ends_the_chain_and_says_why() {
    let rsp = STACK - 0x300;
    let orc = |entries: &[OrcEntry], words: &[u64]| {
        let mut memory = Words::default();
        memory.set(rsp, words);
        unwind(&with_orc(entries), &registers(inside(0), rsp, 0), &memory).1
    };
    let pointers = |rbp: u64, words: &[u64]| {
        let mut memory = Words::default();
        framed_code(&mut memory);
        memory.set(rsp, words);
        unwind(
            &with_frame_pointers(),
            &registers(inside(0), rsp, rbp),
            &memory,
        )
        .1
    };
    let unknown = Kernel::new(
        crate::testing::symbols(2),
        Frames::Unknown("no tables".into()),
        0,
        Vec::new(),
    );
    let nothing = unwind(&unknown, &registers(inside(0), rsp, 0), &Words::default());
    assert_eq!(nothing, (vec![inside(0)], End::Cut(Broken::NoMethod)));
    let undefined = of_kind(OrcKind::Undefined);
    let by_dx = OrcEntry {
        sp: OrcBase::Unknown(12),
        ..call(0)
    };
    // RBP points to itself, and so does the stack.
    let itself = OrcEntry {
        sp: OrcBase::SpIndirect,
        ..call(0)
    };
    for (found, broken) in [
        (orc(&[call(0)], &[]), Broken::Unreadable),
        (orc(&[call(0)], &[0x40_1000]), Broken::NoReturnAddress),
        (orc(&[call(0)], &[inside(0); 64]), Broken::TooLong),
        (orc(&[undefined], &[]), Broken::Undefined),
        (orc(&[by_dx], &[]), Broken::BadEntry),
        (orc(&[of_kind(OrcKind::Unknown(7))], &[]), Broken::BadEntry),
        (pointers(rsp + 4, &[0; 4]), Broken::NoFramePointer),
        (pointers(0x7fff_0000, &[0; 4]), Broken::NoFramePointer),
        (pointers(rsp, &[rsp, inside(1)]), Broken::NoProgress),
        (pointers(rsp, &[rsp, 0x40_1000]), Broken::NoReturnAddress),
        (pointers(rsp, &[]), Broken::Unreadable),
    ] {
        assert_eq!(found, End::Cut(broken));
    }
    let mut memory = Words::default();
    memory.set(rsp - 8, &[inside(0), rsp]);
    let kernel = with_orc(&[OrcEntry {
        sp_offset: 0,
        ..itself
    }]);
    let found = unwind(&kernel, &registers(inside(0), rsp, 0), &memory);
    assert_eq!(found.1, End::Cut(Broken::NoProgress));
}

/// Memory that has something everywhere, the same each time, and mostly what a walk hopes for.
#[derive(Debug)]
struct Anything(u64);

impl Memory for Anything {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        for (at, byte) in (address..).zip(buffer) {
            let hash = |x: u64| {
                (x ^ self.0)
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    .rotate_left(29)
            };
            let random = hash(hash(at & !7));
            let word = match random % 5 {
                0 => inside(random >> 8 & 15),
                1 => at & !7 | 8,
                2 => STACK - (random >> 8 & 0xffff),
                3 => (at & !7).wrapping_sub(random >> 8 & 0xff8) | random >> 7 & 1,
                _ => random,
            };
            if random % 97 == 0 {
                return false;
            }
            *byte = word.to_le_bytes()[(at & 7) as usize];
        }
        true
    }
}

fn any_entry() -> impl Strategy<Value = OrcEntry> {
    let base = prop::sample::select(vec![
        OrcBase::Undefined,
        OrcBase::PreviousSp,
        OrcBase::Ax,
        OrcBase::Dx,
        OrcBase::Di,
        OrcBase::Bp,
        OrcBase::Sp,
        OrcBase::Sp,
        OrcBase::R10,
        OrcBase::BpIndirect,
        OrcBase::SpIndirect,
    ]);
    let kind = prop::sample::select(vec![
        OrcKind::Undefined,
        OrcKind::EndOfStack,
        OrcKind::Call,
        OrcKind::Call,
        OrcKind::Call,
        OrcKind::Registers,
        OrcKind::InterruptFrame,
    ]);
    (
        any::<i16>(),
        any::<i16>(),
        base.clone(),
        base,
        kind,
        any::<bool>(),
    )
        .prop_map(|(sp_offset, bp_offset, sp, bp, kind, signal)| OrcEntry {
            sp_offset,
            bp_offset,
            sp,
            bp,
            kind,
            signal,
        })
}

proptest! {
    #[test]
    fn whatever_a_guest_makes_of_its_stack_the_chain_is_bounded_and_ends(
        seed in any::<u64>(),
        entries in prop::collection::vec(any_entry(), 16),
        rip in prop_oneof![(0_u64..16).prop_map(inside), any::<u64>()],
        rsp in prop_oneof![(0_u64..0x1000).prop_map(|x| STACK - 8 * x), any::<u64>()],
        rbp in prop_oneof![(0_u64..0x1000).prop_map(|x| STACK - x), any::<u64>()],
    ) {
        let first = UnwindRegisters { rax: rsp, rdx: rsp, rdi: rbp, r10: rsp, r13: rbp, ..registers(rip, rsp, rbp) };
        for kernel in [with_orc(&entries), with_frame_pointers()] {
            let chain = kernel.unwind(&first, &Anything(seed), &mut Prologues::default());
            prop_assert!(chain.addresses().len() <= MAX_FRAMES);
            prop_assert_eq!(chain.addresses()[0], rip);
            prop_assert!(chain.addresses()[1..].iter().all(|&address| address >= KERNEL_HALF));
        }
    }

    #[test]
    fn one_damaged_word_cuts_a_chain_short_or_bends_it_but_keeps_what_is_below(
        place in 0_usize..8,
        word in any::<u64>(),
    ) {
        let kernel = with_orc(&[call(0); 15]);
        let rsp = STACK - 0x400;
        let mut memory = Words::default();
        let calls: Vec<u64> = (1..9).map(inside).collect();
        memory.set(rsp, &calls);
        memory.set(rsp + 8 * place as u64, &[word]);
        let (found, _) = unwind(&kernel, &registers(inside(0), rsp, 0), &memory);
        prop_assert_eq!(&found[1..=place], &calls[..place]);
    }
}
