//! What an IPI costs its sender, on real KVM, as a multiple of the cheapest exit to user space that there
//! is: a write of a port that nobody listens to. `cargo bench -p ipirig-evidence --bench ipi [-- RUNS]`.
//!
//! A guest of a few instructions takes the time by its TSC. In each round it writes the port, sends CPU 1
//! one IPI of each vector, which makes the machine kick CPU 1 each time, and sends all of them again,
//! while they are pending, which kicks nobody. CPU 1 keeps interrupts off until the round is over, so that it
//! has no part in these times. Then come IPIs one by one, each waited for, with CPU 1 in HLT. The loops have
//! the same instructions but for the one that counts: on a KVM that emulates them they are not free.
//!
//! The threads of the vCPUs are confined where the host can do that; one row is without, to compare.
//!
//! Besides, the least that a kick can cost: a signal to a thread that runs, without any guest.
#![expect(unsafe_code, reason = "the guest's assembler text")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a bench has nobody to tell"
)]

#[path = "../../machine/tests/guest/harness.rs"]
#[expect(dead_code, reason = "the tests have more use for it")]
mod harness;
#[path = "../../machine/tests/guest/image.rs"]
#[expect(dead_code, reason = "the tests have more use for it")]
mod image;

use std::hint;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipirig_machine::{ApicMode, Host, HostError, Observer};

use harness::Guest;
use image::guest;
use ipirig_evidence::ledger::{DETAILS, Ledger};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

/// Guests of each kind, by turns.
const RUNS: usize = 9;
/// Rounds of one guest.
const ROUNDS: u32 = 20;
/// Sends of one round: vectors 0x20 to 0xff.
const SENDS: f64 = 224.0;

// Word 0: interrupts of CPU 1. 1: CPU 1 is there. 2: rounds begun; 3: rounds that CPU 1 has taken all of.
// Words 4 to 7: ticks of port writes, of new IPIs, of pending ones, of IPIs waited for; 8: how many of the
// latter.
guest!(
    ROUND_AFTER_ROUND,
    "
    call rt_setup
    call rt_apic_on
    mov r11d, 0x20
21: mov edi, r11d
    lea rax, [rip + rt_handler]
    call rt_gate
    inc r11d
    cmp r11d, 0x100
    jne 21b
    mov r8d, 1
    lea rax, [rip + 30f]
    call rt_start_ap
22: cmp qword ptr [r15 + 128], 0
    je 22b
    test r14d, r14d
    jz 28f
23: mov r12d, dword ptr [r15 - 60]      # order 0: rounds
    test r12d, r12d
    jz 23b

    .macro timed word, sends
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov rsi, rax
    mov ebp, 0x20
2:  mov eax, ebp
    mov edx, 1
    mov ecx, 0x830
    or eax, 0x4000
    .if \\sends
    wrmsr
    .else
    out 0x80, al
    .endif
    inc ebp
    cmp ebp, 0x100
    jne 2b
    rdtsc
    shl rdx, 32
    or rax, rdx
    sub rax, rsi
    add qword ptr [r15 + 128 * \\word], rax
    .endm

24: timed 4, 0
    timed 5, 1
    timed 6, 1
    inc qword ptr [r15 + 128 * 2]
    mov rax, qword ptr [r15 + 128 * 2]
25: cmp qword ptr [r15 + 128 * 3], rax
    jne 25b
    dec r12d
    jnz 24b

    mov r12d, dword ptr [r15 - 60]
    shl r12d, 4
    mov qword ptr [r15 + 128 * 8], r12
    mov qword ptr [r15 + 128 * 2], -1   # CPU 1 stays ready from now on
26: cmp qword ptr [r15 + 128 * 3], -1
    jne 26b
27: mov rbx, qword ptr [r15]
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov rsi, rax
    mov eax, 0x4020
    mov edx, 1
    mov ecx, 0x830
    wrmsr
2:  cmp qword ptr [r15], rbx
    je 2b
    rdtsc
    shl rdx, 32
    or rax, rdx
    sub rax, rsi
    add qword ptr [r15 + 128 * 7], rax
    mov ecx, 300                        # until CPU 1 is in HLT again
2:  dec ecx
    jnz 2b
    dec r12d
    jnz 27b
28: call rt_ring
    jmp rt_rest

30: inc qword ptr [r15 + 128]
31: mov rax, qword ptr [r15 + 128 * 2]
    cmp rax, -1
    je 33f
    cmp qword ptr [r15 + 128 * 3], rax
    je 31b
    imul rbx, rax, 224
    sti
32: cmp qword ptr [r15], rbx
    jne 32b
    cli
    mov qword ptr [r15 + 128 * 3], rax
    jmp 31b
33: mov qword ptr [r15 + 128 * 3], rax
    sti
34: hlt
    jmp 34b
    "
);

/// What is measured, in ticks.
#[derive(Clone, Copy, Debug)]
struct Ticks {
    port: f64,
    fresh: f64,
    pending: f64,
    waited_for: f64,
}

fn measure(apic: ApicMode, sandbox: bool, observer: Arc<dyn Observer>) -> Ticks {
    let mut guest = Guest::new(&ROUND_AFTER_ROUND)
        .cpus(2)
        .apic(apic)
        .sandbox(sandbox)
        .start_with(observer);
    guest.order(0, ROUNDS);
    guest.rings();
    let word = |n| guest.word(n) as f64;
    let sends = SENDS * f64::from(ROUNDS);
    Ticks {
        port: word(4) / sends,
        fresh: word(5) / sends,
        pending: word(6) / sends,
        waited_for: word(7) / word(8),
    }
}

/// Signals that were handled.
static HANDLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn on_signal(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

/// Nanoseconds to signal a thread that runs, as many times as a round has IPIs.
fn signal() -> f64 {
    // The machine has the first for itself.
    let number = SIGRTMIN() + 1;
    register_signal_handler(number, on_signal).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&over);
    let begun = HANDLED.load(Ordering::SeqCst);
    let target = thread::spawn(move || {
        while !until.load(Ordering::SeqCst) {
            hint::spin_loop();
        }
    });
    let mut spent = Duration::ZERO;
    for sent in 0..SENDS as u32 {
        let start = Instant::now();
        target.kill(number).unwrap();
        spent += start.elapsed();
        while HANDLED.load(Ordering::SeqCst) == begun + sent {
            hint::spin_loop();
        }
    }
    over.store(true, Ordering::SeqCst);
    target.join().unwrap();
    spent.as_nanos() as f64 / SENDS
}

/// A kind of guest, and all of its runs.
struct Row {
    name: &'static str,
    apic: ApicMode,
    ledger: bool,
    /// Where the host has one.
    sandbox: bool,
    runs: Vec<Ticks>,
}

impl Row {
    fn new(name: &'static str, apic: ApicMode, ledger: bool) -> Self {
        Self {
            name,
            apic,
            ledger,
            sandbox: true,
            runs: Vec::new(),
        }
    }

    fn without_sandbox(self) -> Self {
        Self {
            sandbox: false,
            ..self
        }
    }

    fn run(&mut self) {
        let observer: Arc<dyn Observer> = if self.ledger {
            let ledger = Ledger::new(2, DETAILS);
            ledger.open_window();
            Arc::new(ledger)
        } else {
            Arc::new(())
        };
        self.runs.push(measure(self.apic, self.sandbox, observer));
    }

    /// What `of` makes of each run.
    fn each(&self, of: fn(&Ticks) -> f64) -> Spread {
        Spread::of(self.runs.iter().map(of).collect())
    }
}

/// Median, least and most.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self {
            median: at(values.len() / 2),
            least: at(0),
            most: at(values.len().saturating_sub(1)),
        }
    }

    fn text(&self) -> String {
        format!("{:.2} ({:.2} to {:.2})", self.median, self.least, self.most)
    }
}

fn per_second(tsc_khz: u32, ticks: f64) -> f64 {
    f64::from(tsc_khz) * 1e3 / ticks
}

fn main() -> ExitCode {
    let host = match Host::probe() {
        Ok(host) => host,
        Err(error @ (HostError::NoKvm { .. } | HostError::NotAllowed { .. })) => {
            println!("skipped: {error}");
            return ExitCode::SUCCESS;
        }
        Err(error) => panic!("{error}"),
    };
    let facts = host.facts();
    if !facts.x2apic {
        println!("skipped: no x2APIC registers in user space");
        return ExitCode::SUCCESS;
    }
    let runs = std::env::args()
        .skip(1)
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(RUNS);
    let mut rows = vec![
        Row::new("this APIC, nobody listens", ApicMode::X2apic, false),
        Row::new("this APIC, with the ledger", ApicMode::X2apic, true),
        Row::new("KVM's own APIC", ApicMode::Kernel, false),
    ];
    if facts.sandbox {
        let open = Row::new("the same, no sandbox", ApicMode::X2apic, true);
        rows.insert(2, open.without_sandbox());
    }
    let mut signals = Vec::new();
    for _ in 0..runs {
        rows.iter_mut().for_each(Row::run);
        signals.push(signal());
    }
    let ports = rows
        .iter()
        .flat_map(|row| row.runs.iter().map(|run| run.port));
    let port = Spread::of(ports.collect()).median;
    let port_ns = port * 1e6 / f64::from(facts.tsc_khz.max(1));
    println!(
        "{}, Linux {}; a port write and its loop: {:.2} us; medians of {runs} guests (least to most)",
        facts.model,
        facts.kernel,
        port_ns / 1e3,
    );
    if let [_, confined, open, _] = &rows[..] {
        // By turns, so that both had the same of what the host did besides.
        let ratios = |of: fn(&Ticks) -> f64| {
            let pairs = confined.runs.iter().zip(&open.runs);
            Spread::of(
                pairs
                    .map(|(with, without)| of(with) / of(without))
                    .collect(),
            )
            .text()
        };
        println!(
            "in the sandbox, as multiples of what it is without: port write {}, new IPI {}, pending IPI {}",
            ratios(|run| run.port),
            ratios(|run| run.fresh),
            ratios(|run| run.pending),
        );
    }
    println!(
        "as multiples of it       new IPI, with its kick   pending IPI, no kick     send to handler, from HLT"
    );
    for row in &rows {
        println!(
            "{:<27}{:<24}{:<24}{}",
            row.name,
            row.each(|run| run.fresh / run.port).text(),
            row.each(|run| run.pending / run.port).text(),
            row.each(|run| run.waited_for / run.port).text(),
        );
    }
    let signals = Spread::of(signals.into_iter().map(|ns| ns / port_ns).collect());
    println!("a signal to a thread that runs: {}", signals.text());
    println!(
        "a second: {:.0} port writes",
        per_second(facts.tsc_khz, port)
    );
    for row in &rows {
        let rate = per_second(facts.tsc_khz, row.each(|run| run.fresh).median);
        println!("{:<27}{rate:.0} new IPIs", row.name);
    }
    ExitCode::SUCCESS
}
