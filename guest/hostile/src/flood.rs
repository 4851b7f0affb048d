//! Floods, each by a process of its own on CPUs that are not isolated.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use ipirig_abi::{CpuSlot, DOORBELL_PORT, Mailbox, Role};
use ipirig_system::sys::{self, Fork};

/// Does `what` for ever in a child on a housekeeping CPU, where that is nobody's time but its own.
pub(crate) fn by_a_child(mailbox: &Mailbox, what: impl Fn()) {
    let housekeeping = u32::from(Role::Housekeeping);
    let is_one = |slot: &CpuSlot| slot.role.load(Ordering::Relaxed) == housekeeping;
    let cpu = mailbox.cpus.iter().position(is_one);
    if let Ok(Fork::Child) = sys::fork() {
        // Where there is none, beside the control task.
        let _ = cpu.map(sys::pin);
        loop {
            what();
        }
    }
}

fn writable(path: &str) -> Option<File> {
    OpenOptions::new().write(true).open(path).ok()
}

/// The doorbell.
pub(crate) fn doorbell() {
    if let Some(port) = writable("/dev/port") {
        for _ in 0..1_000_000 {
            let _ = port.write_all_at(b"x", u64::from(DOORBELL_PORT));
        }
    }
}

/// The console, with what steers terminals and with what looks like the kernel's last words.
pub(crate) fn console() {
    if let Some(mut console) = writable("/dev/console") {
        for _ in 0..1_000_000 {
            let _ = console
                .write_all(b"\x1b[2J\x1b]0;title\x07\xc2\x9b31m\xff\x00 long line without an end ");
        }
    }
}

/// The mailbox's text and its length.
pub(crate) fn text(mailbox: &Mailbox) {
    for byte in 0..=u8::MAX {
        mailbox
            .text
            .len
            .store(u32::MAX - u32::from(byte), Ordering::Relaxed);
        for cell in &mailbox.text.bytes {
            cell.store(byte, Ordering::Relaxed);
        }
    }
}

/// Each word of the mailbox that a rig reads, and those that it wrote.
pub(crate) fn all(mailbox: &Mailbox) {
    let mut number = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..10_000 {
        number = crate::lapic::next(number);
        let word = number as u32;
        let reply = &mailbox.control.reply;
        for cell in [
            &reply.ack,
            &reply.status,
            &reply.errno,
            &mailbox.header.module,
        ] {
            cell.store(word, Ordering::Relaxed);
        }
        for cell in reply.results.iter().chain(&mailbox.control.args) {
            cell.store(number, Ordering::Relaxed);
        }
        for slot in &mailbox.cpus {
            slot.role.store(word, Ordering::Relaxed);
            slot.order_seq.store(word, Ordering::Relaxed);
            slot.task.heartbeat.store(number, Ordering::Relaxed);
            slot.task.order_ack.store(word, Ordering::Relaxed);
            slot.task.signals.store(number, Ordering::Relaxed);
        }
    }
}

/// Wakes threads on other CPUs, which takes reschedule IPIs.
pub(crate) fn wake_others() {
    let threads: Vec<_> = (0..4)
        .filter_map(|_| {
            let turns = || (0..200).for_each(|_| thread::sleep(Duration::from_micros(50)));
            thread::Builder::new().stack_size(1 << 16).spawn(turns).ok()
        })
        .collect();
    for thread in threads {
        let _ = thread.join();
    }
}
