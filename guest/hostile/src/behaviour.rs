//! What it does, by name.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use ipirig_abi::{Command, Mailbox, StormKind};
use ipirig_agent::{Behaviour, Obedience};
use ipirig_system::sys;

use crate::flood;
use crate::lapic::{self, Registers};
use crate::ring0::{self, Ring0};

/// Before the name on the kernel's command line, which the kernel passes over (init/main.c, unknown_bootoption).
const WORD: &str = "ipirig.hostile=";

/// Does what the kernel's command line names; what that does not know is honest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hostile;

/// How often the counters were read.
static READS: AtomicU32 = AtomicU32::new(0);

fn name() -> String {
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let name = cmdline
        .split_whitespace()
        .find_map(|word| word.strip_prefix(WORD));
    name.unwrap_or_default().to_owned()
}

impl Behaviour for Hostile {
    fn ready(&self, mailbox: &'static Mailbox) {
        match name().as_str() {
            "doorbell-flood" => flood::by_a_child(mailbox, flood::doorbell),
            "console-flood" => flood::by_a_child(mailbox, flood::console),
            "mailbox-text" => flood::by_a_child(mailbox, move || flood::text(mailbox)),
            "mailbox-all" => flood::by_a_child(mailbox, move || flood::all(mailbox)),
            _ => {}
        }
    }

    fn obey(&self, command: Command, args: [u64; 4]) -> Obedience {
        let is_storm = command == Command::Storm;
        match name().as_str() {
            "nothing" | "mailbox-text" | "doorbell-flood" | "console-flood" if is_storm => {
                Obedience::Never
            }
            // One operation, whatever was asked for.
            "partial" if is_storm => Obedience::With([args[0], 1, args[2], args[3]]),
            // What wakes housekeeping CPUs by other means.
            "witness" if is_storm => {
                flood::wake_others();
                Obedience::Never
            }
            "another-storm" if is_storm => {
                Obedience::With([u32::from(StormKind::Vunmap).into(), args[1], 1, 0])
            }
            "panics" if is_storm => sys::exit(1),
            "hangs" if is_storm => loop {
                std::hint::spin_loop();
            },
            "resets" if is_storm => {
                sys::reboot();
                Obedience::Never
            }
            name if is_storm && ring0::of_name(name).is_some() => {
                // Where it cannot be had the storm is the honest one, which may be `held`: the test fails then.
                let Some(ring0) = Ring0::take() else {
                    return Obedience::With(args);
                };
                if let Some(abuse) = ring0::of_name(name) {
                    abuse(&ring0);
                }
                Obedience::Never
            }
            name if is_storm => {
                let Some(registers) = lapic::of_name(name).and_then(|_| Registers::map()) else {
                    return Obedience::With(args);
                };
                if let Some(abuse) = lapic::of_name(name) {
                    abuse(&registers);
                }
                Obedience::Never
            }
            _ => Obedience::With(args),
        }
    }

    fn answer(
        &self,
        command: Command,
        asked: [u64; 4],
        results: &mut [u64; 4],
        text: &mut Vec<u8>,
    ) {
        let name = name();
        match (name.as_str(), command) {
            ("", _) => {}
            ("operations-huge", Command::Storm) => results[0] = u64::MAX,
            (_, Command::Storm) => results[0] = asked[1],
            ("counters-huge", Command::ReadCounters) => {
                *text = each_number(text, |_| u64::MAX.to_string());
            }
            ("counters-backwards", Command::ReadCounters) => {
                // Less each time.
                let reads = u64::from(READS.fetch_add(1, Ordering::Relaxed));
                *text = each_number(text, |_| {
                    1_000_000_u64.saturating_sub(reads * 1000).to_string()
                });
            }
            ("text-hostile", _) => {
                *text = b"\x1b[2J\x1b]0;title\x07\xff\xfe\x00deferred 1\n".repeat(1000);
            }
            _ => {}
        }
    }
}

/// `text` with another number in the place of each.
fn each_number(text: &[u8], other: impl Fn(&str) -> String) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    let line = |line: &str| {
        let words = line.split(' ').map(|word| match word.parse::<u64>() {
            Ok(_) => other(word),
            Err(_) => word.to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    };
    let lines: Vec<String> = text.lines().map(line).collect();
    (lines.join("\n") + "\n").into_bytes()
}
