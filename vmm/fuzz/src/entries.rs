//! Records of entries whose instructions and registers make no sense, and the host's trace of KVM.

use std::collections::BTreeSet;

use ipirig_entry::{
    Began, Ended, Extent, KernelLayout, Listing, Paging, Pending, PendingInput, Record, audit,
};
use ipirig_image::{Site, SiteKind, Sites, Symbols};
use ipirig_instruction::{
    Code, Step, StepRegisters, disassemble, disassemble_at, length, successor,
};

use crate::Numbers;

const TEXT: u64 = 0xffff_ffff_8100_0000;
const ENTRY: u64 = TEXT + 0x40_0040;
/// What KASLR adds.
const SLIDE: u64 = 2 << 20;
/// Most instructions of a record: the audit's time grows with them.
const STEPS: usize = 64;

/// A kernel with an entry, a flag, and a site that is patched.
fn layout() -> Option<KernelLayout> {
    let symbols = Symbols::from_functions([
        (0x15000, 0, "kernel_cr3"),
        (0x17000, 0, "__per_cpu_end"),
        (TEXT, 0, "_stext"),
        (TEXT + 0x1000, TEXT + 0x2000, "do_work"),
        (TEXT + 0x20_0000, 0, "__noinstr_text_start"),
        (TEXT + 0x20_1000, 0, "__noinstr_text_end"),
        (TEXT + 0x40_0000, 0, "__entry_text_start"),
        (ENTRY, ENTRY + 0x400, "entry_SYSCALL_64"),
        (TEXT + 0x40_2000, 0, "__entry_text_end"),
        (TEXT + 0x60_0000, 0, "_etext"),
    ]);
    let site = Site {
        address: ENTRY + 12,
        len: 5,
        kind: SiteKind::Ftrace,
    };
    KernelLayout::from_parts(symbols, Sites::from_iter([site]), ENTRY + SLIDE).ok()
}

/// An address that means something, mostly.
fn address(numbers: &mut Numbers) -> u64 {
    let offset = numbers.next_u64() & 0xff;
    match numbers.below(6) {
        0 => ENTRY + SLIDE + offset,
        1 => TEXT + SLIDE + 0x1000 + offset,
        2 => 0xffff_c900_0010_4000 - offset,
        3 => u64::MAX - offset,
        4 => offset,
        _ => numbers.next_u64(),
    }
}

/// The bytes are instructions, one after the other; how many of them each step has, and its registers, follow from them.
pub(crate) fn entry(bytes: &[u8]) {
    let Some(layout) = layout() else { return };
    let seed = bytes.iter().fold(1_u64, |seed, byte| {
        seed.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*byte)
    });
    let mut numbers = Numbers::new(seed);
    let mut rest = bytes;
    let mut steps = Vec::new();
    while !rest.is_empty() && steps.len() < STEPS {
        check_code(rest, &mut numbers);
        // Most steps have the whole instruction, and some a part of it.
        let size = length(rest).unwrap_or(1) + numbers.below(8).saturating_sub(6);
        let (code, more) = rest.split_at(size.clamp(1, rest.len()));
        rest = more;
        let registers = StepRegisters {
            general: std::array::from_fn(|_| address(&mut numbers)),
            rip: address(&mut numbers),
            rflags: numbers.next_u64(),
            cr3: numbers.next_u64(),
            cr4: numbers.next_u64(),
            fs_base: address(&mut numbers),
            gs_base: address(&mut numbers),
            cpl: 0,
        };
        let descriptor =
            (numbers.below(2) == 0).then(|| [numbers.next_u64(), address(&mut numbers)]);
        steps.push(Step {
            registers,
            code: Code::new(code),
            descriptor,
        });
    }
    for step in &steps {
        let _ = successor(step);
    }
    check_record(steps, &layout, &mut numbers);
}

/// An instruction is as long as instructions are, and those that have a length have a text.
fn check_code(code: &[u8], numbers: &mut Numbers) {
    let length = length(code);
    assert!(length.is_none_or(|length| (1..=15).contains(&length) && length <= code.len()));
    assert_eq!(disassemble(code).is_some(), length.is_some());
    let at = disassemble_at(code, address(numbers));
    assert_eq!(at.is_some(), length.is_some());
}

fn check_record(steps: Vec<Step>, layout: &KernelLayout, numbers: &mut Numbers) {
    let began = match numbers.below(4) {
        0 => Began::Syscall,
        1 => Began::FaultingReturn(numbers.next_u64() as u8),
        2 => Began::Call,
        _ => Began::Vector(numbers.next_u64() as u8),
    };
    let ended = match numbers.below(4) {
        0 => Ended::User,
        1 => Ended::Limit,
        2 => Ended::Halted,
        _ => Ended::Interrupted,
    };
    let number = steps.len();
    let record = Record {
        cpu: 0,
        began,
        handlers: BTreeSet::from([address(numbers), ENTRY + SLIDE]),
        steps,
        ended,
    };
    let pending = |numbers: &mut Numbers| match numbers.below(2) {
        0 => Pending::everything("unknown"),
        _ => {
            let ranges = (0..numbers.below(8)).map(|_| address(numbers)..address(numbers));
            ranges.collect::<Vec<_>>().into_iter().collect()
        }
    };
    let input = PendingInput {
        text: pending(numbers),
        translations: pending(numbers),
        alternatives_open: numbers.below(2) == 0,
        paging: Paging {
            pcids: numbers.below(2) == 0,
            isolated: numbers.below(2) == 0,
            global: numbers.below(2) == 0,
        },
    };
    let audit = audit(&record, layout, &input);
    assert_eq!(audit.steps, number);
    assert!(audit.danger_zone <= number);
    assert!(audit.catch_up.is_none_or(|step| step <= number));
    assert!(
        audit
            .first_instrumentable
            .is_none_or(|step| (1..=number).contains(&step))
    );
    let listing = Listing::new(&record, layout, &audit);
    for extent in [Extent::Ends, Extent::Whole] {
        let text = listing.text(extent);
        assert!(text.lines().count() <= 8 * number + 64, "{text}");
    }
    let _ = record.check(began);
}
