//! Good inputs, and damage to them.

use crate::Numbers;

/// Inputs, one after the other: good ones that are damaged, and some that are noise.
#[derive(Debug)]
pub struct Corpus {
    good: Vec<Vec<u8>>,
    numbers: Numbers,
}

impl Corpus {
    /// Those of a target, of a seed.
    #[must_use]
    pub fn new(good: Vec<Vec<u8>>, seed: u64) -> Self {
        Self {
            good,
            numbers: Numbers::new(seed),
        }
    }

    /// The next input.
    pub fn next_input(&mut self) -> Vec<u8> {
        let numbers = &mut self.numbers;
        if self.good.is_empty() || numbers.below(16) == 0 {
            let length = numbers.below(512);
            return (0..length).map(|_| numbers.next_u64() as u8).collect();
        }
        let at = numbers.below(self.good.len());
        let mut input = self.good.get(at).cloned().unwrap_or_default();
        for _ in 0..=numbers.below(4) {
            damage(&mut input, numbers);
        }
        input
    }
}

/// Values at which arithmetic goes wrong.
const EDGES: [u64; 8] = [
    0,
    1,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    i64::MAX as u64,
    u64::MAX - 7,
    u64::MAX,
];

fn damage(input: &mut Vec<u8>, numbers: &mut Numbers) {
    let at = numbers.below(input.len().max(1));
    let end = (at + 1 + numbers.below(64)).min(input.len());
    match numbers.below(7) {
        0 => input.truncate(at),
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = numbers.next_u64() as u8;
            }
        }
        2 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << numbers.below(8);
            }
        }
        3 => {
            let edge = EDGES
                .get(numbers.below(EDGES.len()))
                .copied()
                .unwrap_or_default();
            let bytes = edge.to_le_bytes();
            for (to, from) in input.iter_mut().skip(at & !3).zip(bytes) {
                *to = from;
            }
        }
        4 => drop(input.drain(at.min(end)..end)),
        5 => {
            let piece = input.get(at..end).unwrap_or_default().to_vec();
            let to = numbers.below(input.len().max(1)).min(input.len());
            input.splice(to..to, piece);
        }
        _ => {
            let words: [&[u8]; 8] = [
                b"\"",
                b"}",
                b"[[",
                b"-1",
                b"18446744073709551616",
                b"1e999",
                b"\x1b[2J",
                b"\xff",
            ];
            let word = words
                .get(numbers.below(words.len()))
                .copied()
                .unwrap_or_default();
            let to = at.min(input.len());
            input.splice(to..to, word.iter().copied());
        }
    }
}

pub(crate) fn none() -> Vec<Vec<u8>> {
    Vec::new()
}

pub(crate) fn scenarios() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../../../scenarios/static-key-flip.toml").to_vec(),
        include_bytes!("../../../scenarios/entry-matrix.toml").to_vec(),
        include_bytes!("../../../scenarios/housekeeping-load.toml").to_vec(),
    ]
}

pub(crate) fn results() -> Vec<Vec<u8>> {
    vec![include_bytes!("../corpus/result.json").to_vec()]
}

/// An ELF file of one segment, and the head of a bzImage.
pub(crate) fn kernels() -> Vec<Vec<u8>> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for field in [0x100_0000_u64, 64, 0] {
        elf.extend(field.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 2, 0, 1, 0]);
    elf.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    for field in [120_u64, 0xffff_ffff_8100_0000, 0x100_0000, 64, 64, 4096] {
        elf.extend(field.to_le_bytes());
    }
    elf.resize(512, 0);
    let mut image = vec![0; 0x1000];
    for (at, bytes) in [
        (0x1f1, &[4][..]),
        (0x1fe, &[0x55, 0xaa]),
        (0x202, b"HdrS\x0f\x02"),
        (0x211, &[1]),
        (0x236, &[1]),
        (0x20e, &[0x20]),
    ] {
        for (to, from) in image.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }
    vec![elf, image]
}

/// The head of a snapshot, and an index where it says.
pub(crate) fn snapshots() -> Vec<Vec<u8>> {
    let mut file = b"ipirig snapshot\x02".to_vec();
    file.extend(4096_u64.to_le_bytes());
    file.extend(64_u64.to_le_bytes());
    file.resize(4096, 0);
    file.extend([b' '; 64]);
    vec![file]
}

pub(crate) fn counters() -> Vec<Vec<u8>> {
    vec![
        b"cpu deferred caught_up\n0 0 0\n1 18446744073709551615 3\n2 303 305\n".to_vec(),
        b"cpu text tlb caught_up\n0 1 2 3\n".to_vec(),
    ]
}

pub(crate) fn guest_texts() -> Vec<Vec<u8>> {
    vec![
        b"           CPU0       CPU1\n CAL:        15          3   Function call interrupts\n RES: 1 2 Reschedule\n".to_vec(),
        b"nohz_full\t2-3\nisolated\t2\nlog\tkernel said\nset\t/proc/sys/x\t0\ttick\nrefused\ta\tb\tc\tEPERM\n".to_vec(),
    ]
}
