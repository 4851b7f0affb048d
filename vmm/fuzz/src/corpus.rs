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
        b"nohz_full\t2-3\nisolated\t2\ntickless\t0,2\nlog\tkernel said\nset\t/proc/sys/x\t0\ttick\nrefused\ta\tb\tc\tEPERM\n".to_vec(),
    ]
}

/// Instructions of entries, from SWAPGS to IRETQ, with those that audits look for.
pub(crate) fn code() -> Vec<Vec<u8>> {
    vec![
        vec![
            // swapgs; mov [gs:0x6014], rsp; mov rsp, cr3; and rsp, ~0x1800; mov cr3, rsp
            0x0f, 0x01, 0xf8, 0x65, 0x48, 0x89, 0x24, 0x25, 0x14, 0x60, 0, 0, 0x0f, 0x20, 0xdc,
            0x48, 0x81, 0xe4, 0xff, 0xe7, 0xff, 0xff, 0x0f, 0x22, 0xdc,
            // mov byte [gs:0x15000], 1; mov rax, cr4; mov cr4, rax; cpuid; mfence
            0x65, 0xc6, 0x04, 0x25, 0, 0x50, 1, 0, 1, 0x0f, 0x20, 0xe0, 0x0f, 0x22, 0xe0, 0x0f,
            0xa2, 0x0f, 0xae, 0xf0,
            // invlpg [rax]; invpcid rax, [rcx]; call; ret; jmp; iretq; sysretq
            0x0f, 0x01, 0x38, 0x66, 0x0f, 0x38, 0x82, 0x01, 0xe8, 0, 0, 0, 0, 0xc3, 0xeb, 0xfe,
            0x48, 0xcf, 0x48, 0x0f, 0x07,
        ],
        // rep movsb; lock cmpxchg16b [rdi]; xsave [rsi]; vmovdqu ymm0, [rdi]; nops; int3; ud2
        vec![
            0xf3, 0xa4, 0xf0, 0x48, 0x0f, 0xc7, 0x0f, 0x0f, 0xae, 0x26, 0xc5, 0xfe, 0x6f, 0x07,
            0x0f, 0x1f, 0x44, 0, 0, 0x66, 0x90, 0xcc, 0x0f, 0x0b,
        ],
    ]
}

/// As `trace_pipe` has it, but that threads have the numbers of their vCPUs.
pub(crate) fn kvm_traces() -> Vec<Vec<u8>> {
    vec![
        b" vcpu0-0 [001] d..1. 77.123456: kvm_apic_ipi: dst 2 vec 251 (Fixed|physical|assert|edge|all-but-self)\n\
          vcpu0-0 [001] d..1. 77.123457: kvm_apic_accept_irq: apicid 1 vec 251 (Fixed|edge)\n\
          vcpu0-0 [001] d..1. 77.123458: kvm_apic_accept_irq: apicid 2 vec 251 (Fixed|edge)\n\
          vcpu2-2 [000] d..1. 77.123459: kvm_inj_virq: IRQ 0xfb [reinjected]\n\
          vcpu2-2 [000] d..1. 77.123460: kvm_entry: vcpu 2, rip 0x401136\n\
         CPU:1 [LOST 17 EVENTS]\n"
            .to_vec(),
    ]
}

pub(crate) fn initramfs() -> Vec<Vec<u8>> {
    vec![
        b"070701000000010000\0\0".to_vec(),
        b"\x1f\x8b\x08\0".to_vec(),
        b"(\xb5/\xfd\0".to_vec(),
    ]
}

/// That of the file that [`crate::files`] puts before it.
pub(crate) fn snapshot_indexes() -> Vec<Vec<u8>> {
    vec![crate::files::index().into_bytes()]
}

pub(crate) fn saved_apics() -> Vec<Vec<u8>> {
    crate::apic::saved_states()
}
