//! Stacks over memory that a guest has filled as it likes, by ORC tables that it has written.

use ipirig_blame::{Frames, Kernel, Memory, Prologues, UnwindRegisters};
use ipirig_image::{OrcTable, Symbols};

use crate::Numbers;

/// Memory of which each word is an address that means something, or none.
struct HostileMemory {
    seed: u64,
}

impl Memory for HostileMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        let mut numbers = Numbers::new(self.seed ^ address);
        if numbers.below(64) == 0 {
            return false;
        }
        for word in buffer.chunks_mut(8) {
            let value = match numbers.below(6) {
                0 => TEXT + numbers.next_u64() % 0x1000,
                // A stack that goes in circles.
                1 => address & !7,
                2 => address.wrapping_add(8),
                3 => u64::MAX,
                4 => 0,
                _ => numbers.next_u64(),
            };
            for (to, from) in word.iter_mut().zip(value.to_le_bytes()) {
                *to = from;
            }
        }
        true
    }
}

/// What the header of a table of Linux 6.4 and later has in it.
const LAYOUT: [u8; 20] = [
    0xfe, 0x5d, 0x32, 0xbf, 0x58, 0x1b, 0xd6, 0x3b, 0x2c, 0xa9, 0xa5, 0xc6, 0x5b, 0xa5, 0xa6, 0x25,
    0xea, 0xb3, 0xfe, 0x24,
];

const TEXT: u64 = 0xffff_ffff_8100_0000;

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        u64::from_le_bytes(word)
    })
}

fn symbols() -> Symbols {
    Symbols::from_functions([(TEXT, 0x800, "one"), (TEXT + 0x800, 0x800, "two")])
}

fn unwind(frames: Frames, bytes: &[u8]) {
    let kernel = Kernel::new(symbols(), frames, 0, Vec::new());
    let mut words = words(bytes);
    let mut next = || words.next().unwrap_or(0x1234);
    let registers = UnwindRegisters {
        rip: TEXT + next() % 0x1000,
        rsp: next(),
        rbp: next(),
        r10: next(),
        r13: next(),
        ..UnwindRegisters::default()
    };
    let memory = HostileMemory { seed: next() };
    let chain = kernel.unwind(&registers, &memory, &mut Prologues::default());
    assert!(chain.addresses().len() <= ipirig_blame::MAX_FRAMES);
}

/// Frame pointers.
pub(crate) fn stack(bytes: &[u8]) {
    unwind(Frames::Pointers, bytes);
}

/// Tables of the guest's own.
pub(crate) fn orc(bytes: &[u8]) {
    let table = |range: std::ops::Range<u64>| {
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let from = usize::try_from(range.start & 0x3f).unwrap_or_default();
        if range.start == TEXT + 0x4000 {
            return Ok(Some(LAYOUT.to_vec()));
        }
        let bytes = bytes
            .iter()
            .copied()
            .cycle()
            .skip(from)
            .take(length.min(4096));
        Ok((length <= 4096).then(|| bytes.collect()))
    };
    let tables = [
        (TEXT + 0x2000, "__start_orc_unwind_ip"),
        (TEXT + 0x2040, "__stop_orc_unwind_ip"),
        (TEXT + 0x3000, "__start_orc_unwind"),
        (TEXT + 0x3060, "__stop_orc_unwind"),
        (TEXT + 0x4000, "__start_orc_header"),
        (TEXT + 0x4014, "__stop_orc_header"),
    ];
    let marks = tables.iter().map(|(address, name)| (*address, 0, *name));
    let symbols = Symbols::from_functions(marks);
    let frames = match OrcTable::read_by(&symbols, &table) {
        Ok(Some(table)) => Frames::Orc(table),
        _ => return,
    };
    unwind(frames, bytes);
}
