//! Stacks of senders that never ran, and to whom deliveries are put down.

mod due;

use std::collections::BTreeMap;

use ipirig_apic::{CpuSet, DeliveryMode, Ipi, Sent, Shorthand};
use ipirig_image::OrcTable;
use ipirig_machine::{AcceptedEvent, IpiEvent, Observer};

use super::*;
use crate::blame::{Deferrable, Taken};
use crate::ledger::{Delivery, Ledger};
use crate::vectors::Kind;

const TEXT: u64 = 0xffff_ffff_8100_0000;
const STACK: u64 = 0xffff_c900_0001_0000;
const CALL: Kind = Kind::Vector(0xfb);

/// A vCPU in a kernel with frame pointers, with these words from its RSP on.
#[derive(Debug, Default)]
struct FixedSender {
    rip: u64,
    words: Vec<u64>,
}

impl ipirig_machine::VirtualMemory for FixedSender {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        let bytes: Vec<u8> = self.words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let Some(start) = address.checked_sub(STACK) else {
            return false;
        };
        let Some(part) = bytes.get(start as usize..start as usize + buffer.len()) else {
            return false;
        };
        buffer.copy_from_slice(part);
        true
    }
}

impl Sender for FixedSender {
    fn registers(&self) -> SenderRegisters {
        SenderRegisters {
            rip: self.rip,
            rsp: STACK,
            rbp: STACK,
            ..SenderRegisters::default()
        }
    }

    fn cr3(&self) -> Option<u64> {
        None
    }
}

/// Functions of 256 bytes.
const FUNCTIONS: [&str; 4] = [
    "x2apic_send_IPI",
    "text_poke_bp_batch",
    "jump_label_update",
    "entry_SYSCALL_64",
];

fn at(function: u64) -> u64 {
    TEXT + function * 0x100 + 0x10
}

/// A ledger whose guest runs a kernel of [`FUNCTIONS`].
fn ledger(frames: Frames) -> Ledger {
    // Events here have times of a few nanoseconds, and a window that opened before one of them would part it from those
    // before: the clock starts when it is first asked.
    while ipirig_machine::clock::now() < 1000 {}
    let ledger = Ledger::new(3, 64);
    let functions = (0..).zip(FUNCTIONS);
    let end = TEXT + 0x400;
    let symbols = functions.map(|(index, name)| (TEXT + index * 0x100, end, name));
    ledger
        .stacks()
        .of(Code::of(Symbols::from_functions(symbols), frames));
    // SYSCALL goes to the last of them.
    ledger.stacks().begin(TEXT + 0x300);
    ledger
}

fn send(
    ledger: &Ledger,
    time_ns: u64,
    targets: &[usize],
    coalesced: &[usize],
    sender: &FixedSender,
) {
    let ipi = Ipi {
        vector: 0xfb,
        mode: DeliveryMode::Fixed,
        shorthand: Shorthand::None,
        source: 0,
        targets: targets.iter().copied().collect(),
        undeliverable: false,
    };
    let sent = Sent {
        ipi,
        coalesced: coalesced.iter().copied().collect(),
        wake: CpuSet::EMPTY,
    };
    let event = IpiEvent {
        time_ns,
        sent,
        rip: sender.rip,
    };
    ledger.ipi_from(&event, sender);
}

fn take(ledger: &Ledger, time_ns: u64, cpu: usize, user: bool, idle: bool) {
    ledger.delivery(&Delivery {
        time_ns,
        cpu,
        kind: CALL,
        ipi: true,
        user,
        idle,
        due: None,
    });
}

/// Called by text_poke_bp_batch, that by jump_label_update, that from user space.
fn flip() -> FixedSender {
    FixedSender {
        rip: at(0),
        words: vec![STACK + 16, at(1), 0, at(2)],
    }
}

/// Called by nobody that can be found.
fn lost() -> FixedSender {
    FixedSender {
        rip: at(1),
        words: vec![],
    }
}

fn functions(blame: &Attribution) -> Vec<&str> {
    let names = blame.chain.iter().map(|frame| frame.function.as_deref());
    names.map(|name| name.unwrap_or("?")).collect()
}

#[test]
fn equal_chains_are_one_blame_with_its_cause_targets_and_what_they_were_doing() {
    let ledger = ledger(Frames::Pointers);
    send(&ledger, 1, &[2], &[], &flip());
    ledger.open_window();
    let (flip, lost) = (flip(), lost());
    // Recorded in this order: a target may be quicker than its sender.
    take(&ledger, 11, 2, true, false);
    send(&ledger, 10, &[1, 2], &[], &flip);
    take(&ledger, 12, 1, false, true);
    send(&ledger, 20, &[2], &[], &lost);
    send(&ledger, 21, &[2], &[2], &flip);
    take(&ledger, 30, 2, false, false);
    send(&ledger, 40, &[2], &[], &flip);
    ledger.close_window();
    take(&ledger, 50, 2, true, false);

    let blame = ledger.blame();
    let summary: Vec<_> = blame
        .iter()
        .map(|blame| {
            (
                blame.cause.as_str(),
                blame.deferrable,
                &blame.targets,
                blame.taken,
            )
        })
        .collect();
    let taken = |user, kernel, idle| Taken { user, kernel, idle };
    assert_eq!(
        summary,
        [
            (
                "static key",
                Deferrable::Yes,
                &BTreeMap::from([(1, 1), (2, 3)]),
                taken(1, 1, 1)
            ),
            (
                "text patching",
                Deferrable::Yes,
                &BTreeMap::from([(2, 1)]),
                taken(0, 1, 0)
            ),
        ]
    );
    assert_eq!(functions(&blame[0]), FUNCTIONS[..3]);
    assert_eq!((blame[0].source, blame[0].broken.as_deref()), (0, None));
    assert_eq!(blame[0].chain[1].offset, 0x10);
    assert_eq!(functions(&blame[1]), ["text_poke_bp_batch"]);
    let broken = Some("the stack cannot be read");
    assert_eq!(blame[1].broken.as_deref(), broken);
}

#[test]
fn what_was_sent_in_one_window_is_not_put_down_to_deliveries_of_the_next() {
    let ledger = ledger(Frames::Pointers);
    ledger.open_window();
    // After the first window opened and before the second does.
    let between = ipirig_machine::clock::now();
    send(&ledger, between, &[2], &[], &flip());
    ledger.close_window();
    ledger.open_window();
    take(&ledger, ipirig_machine::clock::now(), 2, true, false);
    assert_eq!(ledger.blame()[0].taken, Taken::default());
}

#[test]
fn without_a_way_up_the_stack_the_sender_is_named_and_the_reason_is_given() {
    let ledger = ledger(Frames::Unknown("no ORC here".to_owned()));
    ledger.open_window();
    send(&ledger, 1, &[2], &[], &flip());
    let blame = ledger.blame();
    assert_eq!(functions(&blame[0]), ["x2apic_send_IPI"]);
    assert_eq!(blame[0].broken.as_deref(), Some("no ORC here"));
    assert_eq!(blame[0].cause, "unknown");
}

#[test]
fn another_kernels_file_gives_no_names() {
    let ledger = Ledger::new(3, 64);
    let symbols = [(TEXT, TEXT + 0x100, "entry_SYSCALL_64")];
    let code = Code::of(
        Symbols::from_functions(symbols),
        Frames::Orc(OrcTable::default()),
    );
    ledger.stacks().of(code);
    ledger.stacks().begin(TEXT + 0x123);
    ledger.open_window();
    send(&ledger, 1, &[2], &[], &flip());
    let blame = ledger.blame();
    assert_eq!(functions(&blame[0]), ["?"]);
    let broken = blame[0].broken.as_deref().unwrap_or_default();
    assert!(
        broken.starts_with("SYSCALL goes to 0xffffffff81000123"),
        "{broken}"
    );
}

#[test]
fn stacks_that_nobody_wants_are_not_taken() {
    let ledger = Ledger::new(3, 64);
    ledger.open_window();
    send(&ledger, 1, &[2], &[], &flip());
    assert_eq!(ledger.blame(), []);
    assert_eq!(ledger.counts().dropped, 0);
}

#[test]
fn chains_that_do_not_fit_are_lost_events() {
    let ledger = ledger(Frames::Unknown("no ORC here".to_owned()));
    ledger.open_window();
    for rip in 0..CHAINS as u64 + 3 {
        let sender = FixedSender {
            rip: TEXT + rip,
            words: vec![],
        };
        assert_eq!(
            ledger.stacks().number(0, &sender).is_some(),
            rip < CHAINS as u64
        );
    }
    assert_eq!(ledger.counts().dropped, 3);
}

#[test]
fn a_kernel_that_cannot_be_read_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bzImage");
    std::fs::write(&file, "no ELF file").unwrap();
    let code = Code::read(&file, &SymbolSource::Kernel, &file);
    let ledger = Ledger::new(1, 8);
    ledger.stacks().of(code);
    ledger.stacks().begin(TEXT);
    ledger.open_window();
    send(&ledger, 1, &[0], &[], &flip());
    let broken = ledger.blame()[0].broken.clone().unwrap_or_default();
    assert!(
        broken.ends_with("give the vmlinux or System.map"),
        "{broken}"
    );
}

/// The text of a guest's /proc/kallsyms, with the kernel where KASLR put it.
fn kallsyms(by: u64, further: &str) -> String {
    let lines = (0..).zip(FUNCTIONS).map(|(index, name)| {
        let address = TEXT + by + index * 0x100;
        format!("{address:016x} t {name}\n")
    });
    let start = TEXT + by;
    format!(
        "{start:016x} a _text\n{}{further}",
        lines.collect::<String>()
    )
}

/// What comes of a guest whose file has no names.
fn named(kallsyms: Result<&str, String>) -> (Vec<String>, Option<String>) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bzImage");
    std::fs::write(&file, "no ELF file").unwrap();
    let ledger = Ledger::new(3, 64);
    let stacks = ledger.stacks();
    stacks.of(Code::read(&file, &SymbolSource::Kernel, &file));
    assert!(stacks.is_nameless());
    stacks.name(kallsyms);
    assert!(!stacks.is_nameless());
    stacks.begin(TEXT + 0x300);
    ledger.open_window();
    send(&ledger, 1, &[2], &[], &flip());
    let blame = ledger.blame();
    let names = functions(&blame[0]).into_iter().map(str::to_owned);
    (names.collect(), blame[0].broken.clone())
}

#[test]
fn a_kernel_without_names_gets_those_that_the_guest_says() {
    let expected = ["x2apic_send_IPI", "text_poke_bp_batch", "jump_label_update"];
    let (names, _) = named(Ok(&kallsyms(0, "")));
    assert_eq!(names, expected);
    // Names of another kernel, or nonsense, are not believed.
    for (text, why) in [
        (Ok(kallsyms(0x40, "")), "SYSCALL goes to"),
        (Ok(kallsyms(0, "no symbol\n")), "line 6: expected"),
        (Ok(String::new()), "CONFIG_KALLSYMS"),
        (Err("it hangs".to_owned()), "/proc/kallsyms: it hangs"),
        (
            Ok(kallsyms(0, "ffffffff82000000 T unwind_init\n")),
            "CONFIG_KALLSYMS_ALL",
        ),
    ] {
        let (names, broken) = named(text.as_deref().map_err(Clone::clone));
        let broken = broken.unwrap_or_default();
        assert!(
            names.len() == 1 && broken.contains(why),
            "{names:?} {broken}"
        );
    }
}

/// Words at [`STACK`], and bytes elsewhere.
#[derive(Debug)]
struct Remembered(u64, Vec<u8>);

impl Memory for Remembered {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        let start = address.wrapping_sub(self.0) as usize;
        let part = start.checked_add(buffer.len());
        let part = part.and_then(|end| self.1.get(start..end));
        part.map(|part| buffer.copy_from_slice(part)).is_some()
    }
}

#[test]
fn orc_tables_are_read_from_the_guest_where_its_symbols_say_they_are() {
    // One address, one entry, and a banner of a version that has no hash.
    let by = 0x40_0000;
    let data = TEXT + 0x20_0000;
    let mut bytes = ((TEXT.wrapping_sub(data)) as u32).to_le_bytes().to_vec();
    bytes.extend([0x18, 0, 0xf0, 0xff, 0x15, 0]);
    bytes.extend(b"Linux version 6.1.1 ");
    bytes.resize(128, 0);
    let symbols = |stop| {
        let text = [
            (TEXT, "_text"),
            (data, "__start_orc_unwind_ip"),
            (data + 4, "__stop_orc_unwind_ip"),
            (data + 4, "__start_orc_unwind"),
            (stop, "__stop_orc_unwind"),
            (data + 10, "linux_banner"),
        ];
        Symbols::from_functions(text.map(|(at, name)| (at, u64::MAX, name)))
    };
    let memory = Remembered(data + by, bytes);
    let kernel = |stop| Code::in_memory(symbols(stop)).kernel(by, &memory);
    assert!(matches!(kernel(data + 10).frames(), Frames::Orc(table) if table.len() == 1));
    for stop in [data + 9, data + 4096, u64::MAX] {
        assert!(
            matches!(kernel(stop).frames(), Frames::Unknown(_)),
            "{stop:#x}"
        );
    }
}

/// The observer's other half passes the idle state on.
#[test]
fn a_delivery_that_ends_a_halt_is_idle() {
    let ledger = ledger(Frames::Pointers);
    ledger.open_window();
    send(&ledger, 1, &[1], &[], &flip());
    ledger.accepted(&AcceptedEvent {
        time_ns: 2,
        cpu: 1,
        accepted: ipirig_apic::Accepted {
            kind: ipirig_apic::AcceptedKind::Fixed(0xfb),
            origin: ipirig_apic::Origin::Ipi,
            merged: false,
        },
        cpl: Some(0),
        idle: true,
    });
    let expected = Taken {
        idle: 1,
        ..Taken::default()
    };
    assert_eq!(ledger.blame()[0].taken, expected);
}
