//! The senders' stacks: for each IPI of the window the call chain that led to it.
//!
//! A chain is taken on the sender's vCPU thread while the guest waits, from its memory, and becomes a
//! number; equal chains are kept once, each vCPU by itself, so that no vCPU waits for another. What
//! the numbers stand for is worked out once the window is closed ([`Stacks::account`]).

mod account;
mod code;
mod modules;
mod source;
#[cfg(test)]
mod tests;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use ipirig_apic::CpuSet;
use ipirig_blame::{
    Chain, DueTimers, End, Frames, Interner, Kernel, Memory, Prologues, UnwindRegisters,
};
use ipirig_image::{Inlined, Symbols};
use ipirig_machine::{Sender, SenderRegisters, VirtualMemory};

pub use code::Code;
pub use source::{SourceError, SymbolSource};

use crate::blame::{Attribution, TimerAttribution};
use crate::details::{Detail, Details};

/// Chains kept of each vCPU.
const CHAINS: usize = 4096;
/// Sets of timers that were due together, kept of each vCPU.
const DUE: usize = 1024;

/// The stacks of one run's senders.
#[derive(Debug)]
pub struct Stacks {
    code: Mutex<Option<Code>>,
    /// The kernel's file, for its debug information.
    file: Mutex<Option<PathBuf>>,
    /// The code and where KASLR put it: what the first sender needs to begin.
    begun: Mutex<Option<(Code, u64)>>,
    kernel: OnceLock<Kernel>,
    senders: Box<[Mutex<Local>]>,
    active: OnceLock<()>,
    /// The vCPUs whose timers are read.
    timers_of: OnceLock<CpuSet>,
}

/// What one vCPU keeps. Only its own thread takes the lock while the guest runs.
#[derive(Debug)]
struct Local {
    chains: Interner,
    prologues: Prologues,
    /// What was due, by its number and by what it is.
    due: Vec<DueTimers>,
    due_numbers: HashMap<DueTimers, u32>,
}

impl Local {
    /// The number of what was due; None if there is no place for one more.
    fn number_due(&mut self, timers: DueTimers) -> Option<u32> {
        if let Some(number) = self.due_numbers.get(&timers) {
            return Some(*number);
        }
        if self.due.len() >= DUE {
            return None;
        }
        let number = u32::try_from(self.due.len()).ok()?;
        self.due.push(timers);
        self.due_numbers.insert(timers, number);
        Some(number)
    }
}

impl Stacks {
    /// None are taken until [`Stacks::begin`].
    pub(crate) fn new(cpus: usize) -> Self {
        let local = || Local {
            chains: Interner::new(CHAINS),
            prologues: Prologues::default(),
            due: Vec::new(),
            due_numbers: HashMap::new(),
        };
        Self {
            code: Mutex::new(None),
            file: Mutex::new(None),
            begun: Mutex::new(None),
            kernel: OnceLock::new(),
            senders: (0..cpus).map(|_| Mutex::new(local())).collect(),
            active: OnceLock::new(),
            timers_of: OnceLock::new(),
        }
    }

    /// Asks for what the timer interrupts of these vCPUs come for. It costs up to 16 KiB of guest memory each, so nobody
    /// pays who has not asked; the first who asks is heard.
    pub fn tell_timers_of(&self, cpus: CpuSet) {
        let _ = self.timers_of.set(cpus);
    }

    /// Says what the guest boots. Without it no stacks are taken.
    pub fn of(&self, code: Code) {
        *lock(&self.file) = code.file().map(Path::to_path_buf);
        *lock(&self.code) = Some(code);
    }

    /// Whether [`Stacks::begin`] has something to do.
    #[must_use]
    pub fn wanted(&self) -> bool {
        lock(&self.code).is_some()
    }

    /// Whether the kernel's file has no names, and [`Stacks::name`] may say them.
    #[must_use]
    pub fn is_nameless(&self) -> bool {
        lock(&self.code).as_ref().is_some_and(Code::is_nameless)
    }

    /// Says what the guest's `/proc/kallsyms` gave, or why it gave nothing. It is checked like any file.
    pub fn name(&self, kallsyms: Result<&str, String>) {
        if let Some(code) = &mut *lock(&self.code) {
            code.learn(kallsyms);
        }
    }

    /// Takes the stacks of senders from now on. `lstar`: where SYSCALL goes in the kernel that runs.
    pub fn begin(&self, lstar: u64) {
        let Some(mut code) = lock(&self.code).take() else {
            return;
        };
        let slide = code.slide(lstar);
        *lock(&self.begun) = Some((code, slide));
        let _ = self.active.set(());
    }

    /// The number of the chain that led `cpu` to send an IPI. None if stacks are not taken, or there
    /// was no place for one more chain.
    #[must_use]
    pub fn number(&self, cpu: usize, sender: &dyn Sender) -> Option<u32> {
        self.active.get()?;
        let registers = registers(sender.registers());
        let memory = View(sender);
        let kernel = self.kernel.get_or_init(|| self.learn(&memory));
        let mut local = lock(self.senders.get(cpu)?);
        let Local {
            chains, prologues, ..
        } = &mut *local;
        let chain = kernel.unwind(&registers, &memory, prologues);
        chains.number(&chain)
    }

    /// The number of what the timer interrupt that `cpu` is about to take was programmed for. None if nobody asked
    /// ([`Stacks::tell_timers_of`]), stacks are not taken, the kernel's timers cannot be read, or there was no place for
    /// one more number.
    #[must_use]
    pub fn due(&self, cpu: usize, memory: &dyn VirtualMemory) -> Option<u32> {
        self.active.get()?;
        if !self.timers_of.get()?.contains(cpu) {
            return None;
        }
        let memory = View(memory);
        let kernel = self.kernel.get_or_init(|| self.learn(&memory));
        let timers = kernel.due_timers(cpu, &memory)?;
        lock(self.senders.get(cpu)?).number_due(timers)
    }

    /// How often there was no place for one more chain.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let dropped = self
            .senders
            .iter()
            .map(|local| lock(local).chains.dropped());
        dropped.sum()
    }

    /// Who sent the IPIs among `details`, and why, most sends first. `opened`: when each window
    /// opened.
    #[must_use]
    pub fn account(&self, details: &Details, opened: &[u64]) -> Vec<Attribution> {
        let Some(kernel) = self.kernel.get() else {
            return Vec::new();
        };
        let file = lock(&self.file).clone().unwrap_or_default();
        let chain = |cpu, number| self.chain(cpu, number);
        account::account(kernel, &Inlined::open(&file), &chain, details, opened)
    }

    /// What timer interrupts among `details` came for, most first: of those vCPUs of which that was asked.
    #[must_use]
    pub fn timers(&self, details: &Details) -> Vec<TimerAttribution> {
        let Some(kernel) = self.kernel.get() else {
            return Vec::new();
        };
        let due = |cpu: usize, number: u32| {
            let local = lock(self.senders.get(cpu)?);
            local.due.get(number as usize).copied()
        };
        account::timers(kernel, &due, details)
    }

    /// The calls of each chain among `details`, by sender and number.
    #[must_use]
    pub fn callers(&self, details: &Details) -> Callers {
        let Some(kernel) = self.kernel.get() else {
            return Callers::new();
        };
        let mut callers = Callers::new();
        for detail in details.iter() {
            let Detail::Write(write) = detail else {
                continue;
            };
            let Some(number) = write.chain else {
                continue;
            };
            if let Entry::Vacant(place) = callers.entry((write.source, number))
                && let Some(chain) = self.chain(write.source, number)
            {
                place.insert(Caller::new(kernel, &chain));
            }
        }
        callers
    }

    fn chain(&self, cpu: usize, number: u32) -> Option<Chain> {
        lock(self.senders.get(cpu)?).chains.get(number).cloned()
    }

    /// The kernel with the modules that it has by now.
    fn learn(&self, memory: &dyn Memory) -> Kernel {
        match lock(&self.begun).take() {
            Some((code, slide)) => code.kernel(slide, memory),
            // It is there whenever stacks are taken.
            None => Kernel::new(
                Symbols::default(),
                Frames::Unknown("nothing is known of the kernel".to_owned()),
                0,
                Vec::new(),
            ),
        }
    }
}

/// Chains by sender and number.
pub type Callers = BTreeMap<(usize, u32), Caller>;

/// A chain as the kernel itself would print it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Function and offset of each address, innermost first, as it is: that of a call which does not
    /// return may be of the next function (`%pS` of Documentation/core-api/printk-formats.rst).
    pub calls: Vec<(String, u64)>,
    /// It goes to where the kernel was entered or a thread began.
    pub whole: bool,
}

impl Caller {
    fn new(kernel: &Kernel, chain: &Chain) -> Self {
        let name = |&address: &u64| {
            let function = kernel.name(address)?.function;
            Some((function.name.to_owned(), function.offset))
        };
        Self {
            calls: chain.addresses().iter().filter_map(name).collect(),
            whole: !matches!(chain.end, End::Cut(_)),
        }
    }
}

/// A vCPU's memory.
struct View<'a, M: VirtualMemory + ?Sized>(&'a M);

impl<M: VirtualMemory + ?Sized> Memory for View<'_, M> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.0.read(address, buffer)
    }
}

fn registers(sender: SenderRegisters) -> UnwindRegisters {
    UnwindRegisters {
        rip: sender.rip,
        rsp: sender.rsp,
        rbp: sender.rbp,
        rax: sender.rax,
        rdx: sender.rdx,
        rdi: sender.rdi,
        r10: sender.r10,
        r13: sender.r13,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
