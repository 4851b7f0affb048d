//! Texts: scenario files, and what a guest says.

use ipirig_evidence::KernelSetup;
use ipirig_evidence::guest_text::{parse_counters, parse_interrupts};
use ipirig_evidence::ledger::Ledger;
use ipirig_machine::KvmTrace;
use ipirig_scenario::Scenario;

pub(crate) fn scenario(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(error) = Scenario::parse("a.toml", &text) {
        let words = error.to_string();
        // What it quotes is a line or two.
        assert!(
            words.len() <= 4 * text.len() + 4096,
            "{} bytes of words",
            words.len()
        );
    }
}

pub(crate) fn counters(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match parse_counters(&text) {
        Ok(Some(counters)) => assert!(counters.len() <= text.lines().count()),
        Ok(None) => {}
        // One line is quoted, and not all of it if it is long.
        Err(error) => assert!(error.to_string().len() <= 1024, "{error}"),
    }
}

pub(crate) fn guest(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let interrupts = parse_interrupts(&text);
    assert!(interrupts.rows.len() <= text.lines().count());
    if let Some(setup) = KernelSetup::parse(&text) {
        let words = format!("{setup:?}");
        assert!(!words.contains('\x1b'), "{words}");
    }
}

/// In pieces, as it is read; into the ledger of a machine of three vCPUs.
pub(crate) fn kvm_trace(bytes: &[u8]) {
    let ledger = Ledger::new(3, 64);
    ledger.open_window();
    let mut trace = KvmTrace::default();
    let vcpu = |thread: i32| usize::try_from(thread).ok().filter(|cpu| *cpu < 3);
    let piece = bytes.first().map_or(1, |byte| usize::from(*byte) + 1);
    for part in bytes.chunks(piece) {
        if let Err(error) = trace.read(part, &vcpu, &ledger) {
            // One line is quoted, and not all of it if it is long.
            assert!(error.to_string().len() <= 1024, "{error}");
        }
    }
    trace.finish(&ledger);
    let _ = ledger.counts();
}
