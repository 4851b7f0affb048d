//! What an observer sees of the vCPU that sends an IPI, and what looking costs.
#![expect(unsafe_code, reason = "the guests' assembler text")]

use std::sync::{Arc, Mutex};
use std::time::Instant;

use ipirig_blame::{Chain, End, Frames, Interner, Kernel, Memory, Prologues, UnwindRegisters};
use ipirig_image::Symbols;
use ipirig_machine::{ApicMode, IpiEvent, Observer, Sender};

use crate::Suite;
use crate::harness::Guest;
use crate::image::{guest, icr_write};

pub(crate) fn list(suite: &mut Suite) {
    suite.both(
        "an_observer_sees_the_senders_registers_and_stack",
        an_observer_sees_the_senders_registers_and_stack,
    );
    suite.measurement("x2apic::what_stacks_cost_at_an_icr_write", what_stacks_cost);
}

/// Frames on the stack when the guest sends.
const DEPTH: usize = 12;
/// Exits of each kind that are timed.
const EXITS: u32 = 20_000;
/// The guests run where user space is; a kernel does not.
const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;

// Calls itself 12 deep, then waits for orders: 1 writes a port, 2 sends itself an IPI that it does
// not take, each as often as the order says.
guest!(
    SENDERS,
    "
    call rt_setup
    call rt_apic_on
    xor ebp, ebp
    mov ebx, 12
    call 21f
21: push rbp
    mov rbp, rsp
    sub rsp, 64
    dec ebx
    jz 22f
    call 21b
22: call rt_ring
23: mov r12d, dword ptr [r15 - 60]
    test r12d, r12d
    jz 23b
24: mov al, 0
    out 0x80, al
    dec r12d
    jnz 24b
    call rt_ring
25: mov r12d, dword ptr [r15 + 68]
    test r12d, r12d
    jz 25b
26: mov eax, 0x44040
    xor edx, edx
    call rt_ipi
    dec r12d
    jnz 26b
    call rt_ring
    jmp rt_rest
    "
);

/// Walks the sender's stack, if told to.
#[derive(Debug)]
struct Walker {
    kernel: Option<Kernel>,
    seen: Mutex<Walks>,
}

#[derive(Debug)]
struct Walks {
    chains: Interner,
    prologues: Prologues,
    last: Option<Chain>,
    cr3: Option<u64>,
    across_pages: bool,
    unmapped: bool,
}

impl Walker {
    fn new(walks: bool) -> Arc<Self> {
        let kernel = walks.then(|| {
            // One function, too large to look for its prologue.
            let all = [(KERNEL_HALF, u64::MAX, "all")];
            Kernel::new(Symbols::from_functions(all), Frames::Pointers, 0, vec![])
        });
        Arc::new(Self {
            kernel,
            seen: Mutex::new(Walks {
                chains: Interner::new(64),
                prologues: Prologues::default(),
                last: None,
                cr3: None,
                across_pages: false,
                unmapped: true,
            }),
        })
    }
}

/// The sender's memory as if it were a kernel's.
struct Raised<'a>(&'a dyn Sender);

impl Memory for Raised<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        if !self.0.read(address & !KERNEL_HALF, buffer) {
            return false;
        }
        for word in buffer.as_chunks_mut::<8>().0 {
            if *word != [0; 8] {
                *word = (u64::from_le_bytes(*word) | KERNEL_HALF).to_le_bytes();
            }
        }
        true
    }
}

impl Observer for Walker {
    fn ipi_from(&self, event: &IpiEvent, sender: &dyn Sender) {
        let Some(kernel) = &self.kernel else {
            return;
        };
        let mut seen = self.seen.lock().unwrap();
        let Walks {
            chains, prologues, ..
        } = &mut *seen;
        let found = sender.registers();
        assert_eq!(found.rip, event.rip);
        let registers = UnwindRegisters {
            rip: found.rip | KERNEL_HALF,
            rsp: found.rsp | KERNEL_HALF,
            rbp: found.rbp | KERNEL_HALF,
            ..UnwindRegisters::default()
        };
        let chain = kernel.unwind(&registers, &Raised(sender), prologues);
        assert_eq!(chains.number(&chain), Some(0));
        if seen.last.is_none() {
            seen.last = Some(chain);
            seen.cr3 = sender.cr3();
            let page = found.rsp & !0xfff;
            seen.across_pages = sender.read(page - 8, &mut [0; 16]);
            seen.unmapped = sender.read(0x7fff_ffff_f000, &mut [0; 8]);
        }
    }
}

/// Has the guest leave EXITS times each way; how long each took in seconds.
fn timed(apic: ApicMode, walker: &Arc<Walker>, exits: u32) -> [f64; 2] {
    let mut guest = Guest::new(&SENDERS)
        .apic(apic)
        .start_with(Arc::clone(walker) as _);
    guest.rings();
    [0, 1].map(|order| {
        let begun = Instant::now();
        guest.order(order, exits);
        guest.rings();
        begun.elapsed().as_secs_f64()
    })
}

fn an_observer_sees_the_senders_registers_and_stack(apic: ApicMode) {
    let walker = Walker::new(true);
    timed(apic, &walker, 3);
    let seen = walker.seen.lock().unwrap();
    let chain = seen.last.as_ref().unwrap();
    let addresses = chain.addresses();
    assert_eq!(addresses.len(), 1 + DEPTH, "{chain:x?}");
    let sends = icr_write(apic == ApicMode::X2apic) | KERNEL_HALF;
    assert_eq!(addresses[0], sends);
    // All but the outermost are called from one place.
    assert!(addresses[1..DEPTH].iter().all(|at| *at == addresses[1]));
    assert_ne!(addresses[DEPTH], addresses[1]);
    assert_eq!(chain.end, End::Start);
    assert_eq!(seen.cr3.map(|cr3| cr3 & !0xfff), Some(0x9000));
    assert!(seen.across_pages && !seen.unmapped);
}

/// The best of some runs, as a ratio to an exit that does nothing. Prints; judges only that there is
/// a figure.
fn what_stacks_cost() {
    let best = |walks: bool| {
        let runs: Vec<[f64; 2]> = (0..5)
            .map(|_| timed(ApicMode::X2apic, &Walker::new(walks), EXITS))
            .collect();
        [0, 1].map(|way| {
            runs.iter()
                .map(|run| run[way])
                .fold(f64::INFINITY, f64::min)
        })
    };
    let ([port, without], [_, with]) = (best(false), best(true));
    println!(
        "exit for a port {:.2} us; ICR write without stacks {:.2} exits, with {:.2} ({} frames)",
        port / f64::from(EXITS) * 1e6,
        without / port,
        with / port,
        1 + DEPTH,
    );
    assert!(port > 0.0 && with > 0.0);
}
