//! Memory and kernels by hand.

use std::collections::BTreeMap;

use ipirig_image::{OrcEntry, OrcTable, Symbols};

use crate::{Frames, Kernel, Memory};

/// Where the hand-made kernel's code is.
pub(crate) const TEXT: u64 = 0xffff_ffff_8100_0000;
/// Bytes of each of its functions.
pub(crate) const FUNCTION: u64 = 0x100;
/// Where a task's stack ends.
pub(crate) const STACK: u64 = 0xffff_c900_0001_0000;
/// Where an interrupt stack ends.
pub(crate) const IRQ_STACK: u64 = 0xffff_c900_0000_4000;

/// Words at addresses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words(pub(crate) BTreeMap<u64, u64>);

impl Words {
    pub(crate) fn set(&mut self, address: u64, words: &[u64]) {
        for (at, word) in (address..).step_by(8).zip(words) {
            self.0.insert(at, *word);
        }
    }
}

impl Memory for Words {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        for (at, byte) in (address..).zip(buffer) {
            let Some(word) = self.0.get(&(at & !7)) else {
                return false;
            };
            *byte = word.to_le_bytes()[(at & 7) as usize];
        }
        true
    }
}

/// Functions `f0`, `f1` and so on from [`TEXT`], each [`FUNCTION`] bytes long.
pub(crate) fn symbols(count: u64) -> Symbols {
    let names: Vec<String> = (0..count).map(|index| format!("f{index}")).collect();
    let end = TEXT + count * FUNCTION;
    let functions = (0..).zip(&names);
    Symbols::from_functions(functions.map(|(i, name)| (TEXT + i * FUNCTION, end, name.as_str())))
}

/// A kernel with 16 functions, and the first ones' frames.
pub(crate) fn with_orc(entries: &[OrcEntry]) -> Kernel {
    let table: OrcTable = (TEXT..)
        .step_by(FUNCTION as usize)
        .zip(entries.iter().copied())
        .collect();
    Kernel::new(symbols(16), Frames::Orc(table), 0, Vec::new())
}

/// A kernel with 16 functions and frame pointers.
pub(crate) fn with_frame_pointers() -> Kernel {
    Kernel::new(symbols(16), Frames::Pointers, 0, Vec::new())
}

/// An address inside function `index`.
pub(crate) fn inside(index: u64) -> u64 {
    TEXT + index * FUNCTION + 0x20
}
