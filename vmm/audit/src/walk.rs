//! All ways through entry text, from each entry point, as patched for a set of CPU features.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use iced_x86::{FlowControl, Instruction, Mnemonic};

use crate::finding::What;
use crate::kernel::Kernel;
use crate::state::{Machine, Origin, State};
use crate::text::{Patched, Text};

/// Most states that are followed from one entry point. The kernel's need some thousands.
const STATES_MAX: usize = 1 << 16;
/// Most states in all, from all entry points with all combinations of features. A distribution's kernel
/// needs a twentieth; what a damaged file can make of it takes seconds.
const TOTAL_MAX: usize = 1 << 23;

/// Why something cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Open {
    /// Memory is accessed through a pointer that was read from a per-CPU variable.
    Pointer,
    /// What is written to CR3 is not known.
    PageTable,
    /// Calls are nested too deep.
    Calls,
    /// There are too many ways.
    Ways,
}

/// A write to CR3 that was come by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// It loads the kernel's page table.
    pub(crate) kernel: bool,
    /// It loads the user's.
    pub(crate) user: bool,
    /// The store to the flag that belongs to it: before it on the way in, after it on the way out.
    pub(crate) store: Option<u64>,
}

/// What was come by.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    pub(crate) switches: BTreeMap<u64, Written>,
    /// With the other instruction that it is about, or 0, and the entry points.
    pub(crate) findings: BTreeMap<(u64, What), (u64, BTreeSet<String>)>,
    pub(crate) open: BTreeMap<(u64, Open), BTreeSet<String>>,
    /// Instructions that are executed before the CPU has caught up.
    pub(crate) danger_zone: BTreeSet<u64>,
    /// Whether an entry calls `paranoid_entry`.
    pub(crate) paranoid: bool,
    /// How many states were followed.
    pub(crate) states: usize,
}

/// An entry point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) name: String,
    pub(crate) address: u64,
    /// SYSCALL or SYSENTER: from user mode only.
    pub(crate) from_user_only: bool,
}

/// Follows the ways from one entry point.
pub(crate) struct Walk<'a, 'b> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) text: &'b mut Text<'a>,
    pub(crate) seen: &'b mut Walked,
    root: &'b Root,
    /// Whether it came to `paranoid_entry`.
    paranoid: bool,
}

impl<'a, 'b> Walk<'a, 'b> {
    pub(crate) fn new(
        kernel: &'a Kernel,
        text: &'b mut Text<'a>,
        seen: &'b mut Walked,
        root: &'b Root,
    ) -> Self {
        Self {
            kernel,
            text,
            seen,
            root,
            paranoid: false,
        }
    }

    /// Follows all ways.
    pub(crate) fn all(mut self) {
        let start = |origin, found| State::new(self.root.address, origin, self.without_flag(found));
        let mut states = vec![start(Origin::User, Machine::USER)];
        if !self.root.from_user_only {
            states.push(start(Origin::Kernel, Machine::KERNEL));
            // An IRET to user mode that faults.
            states.push(start(Origin::Kernel, Machine::USER));
        }
        self.follow(states);
        if self.paranoid {
            self.seen.paranoid = true;
            // It may have interrupted the entry code anywhere.
            let bools = [false, true];
            let all = bools.into_iter().flat_map(|user_table| {
                bools.into_iter().flat_map(move |flag| {
                    bools.into_iter().map(move |user_gs| Machine {
                        user_table,
                        flag,
                        user_gs,
                    })
                })
            });
            let states = all
                .map(|found| {
                    State::new(self.root.address, Origin::Kernel, self.without_flag(found))
                })
                .collect();
            self.follow(states);
        }
    }

    /// Where there is no flag it is as if it were always set.
    fn without_flag(&self, machine: Machine) -> Machine {
        Machine {
            flag: machine.flag || self.kernel.flag.is_none(),
            ..machine
        }
    }

    fn follow(&mut self, mut states: Vec<State>) {
        let mut visited = HashSet::new();
        while let Some(state) = states.pop() {
            if visited.len() >= STATES_MAX || self.seen.states >= TOTAL_MAX {
                self.open(self.root.address, Open::Ways);
                return;
            }
            if !visited.insert(state.clone()) {
                continue;
            }
            self.seen.states += 1;
            if !state.caught_up {
                self.seen.danger_zone.insert(state.at);
            }
            let Some(patched) = self.text.at(state.at).cloned() else {
                continue;
            };
            states.extend(self.step(state, &patched));
        }
    }

    /// What may come after the instruction at `state`.
    fn step(&mut self, mut state: State, patched: &Patched) -> Vec<State> {
        let at = state.at;
        if let Some(&target) = self.kernel.branches.get(&at) {
            let mut taken = state.clone();
            taken.at = target;
            state.at = patched.next;
            return vec![taken, state];
        }
        let instruction = &patched.instruction;
        state.at = patched.next;
        if is_return_from_kernel(instruction) {
            self.check_return(&state, at);
            return Vec::new();
        }
        match instruction.flow_control() {
            FlowControl::Next => self.execute(state, at, patched),
            // What is no instruction at all is padding: NOPs.
            _ if instruction.is_invalid() => vec![state],
            FlowControl::UnconditionalBranch => match patched.target {
                Some(target) => self.jump(state, at, target),
                None => Vec::new(),
            },
            FlowControl::ConditionalBranch => {
                let taken = condition(&state, instruction);
                let mut states = Vec::new();
                if taken != Some(false)
                    && let Some(target) = patched.target
                {
                    states.extend(self.jump(state.clone(), at, target));
                }
                if taken != Some(true) {
                    states.push(state);
                }
                states
            }
            FlowControl::Call | FlowControl::IndirectCall => self.call(state, at, patched.target),
            // To somewhere outside of entry text that returns to its caller.
            FlowControl::IndirectBranch => self.tail_call(state, at, None),
            FlowControl::Return => back(state),
            _ => Vec::new(),
        }
    }

    fn jump(&mut self, mut state: State, at: u64, target: u64) -> Vec<State> {
        if self.kernel.entry.range.contains(&target) {
            state.at = target;
            vec![state]
        } else {
            self.tail_call(state, at, Some(target))
        }
    }

    fn call(&mut self, mut state: State, at: u64, target: Option<u64>) -> Vec<State> {
        match target {
            Some(target) if self.kernel.entry.range.contains(&target) => {
                if Some(target) == self.kernel.symbols().address("paranoid_entry") {
                    self.paranoid = true;
                }
                if state.call(target, state.at) {
                    vec![state]
                } else {
                    self.open(at, Open::Calls);
                    Vec::new()
                }
            }
            Some(target) if self.is_return_thunk(target) => vec![state],
            target => {
                if self.leave(&mut state, at, target) {
                    vec![state]
                } else {
                    Vec::new()
                }
            }
        }
    }

    fn tail_call(&mut self, mut state: State, at: u64, target: Option<u64>) -> Vec<State> {
        let thunk = target.is_some_and(|target| self.is_return_thunk(target));
        if thunk || self.leave(&mut state, at, target) {
            back(state)
        } else {
            Vec::new()
        }
    }

    /// A thunk that does no more than return: it is no code that senders could patch.
    fn is_return_thunk(&self, target: u64) -> bool {
        let Some(name) = self.kernel.symbols().resolve(target) else {
            return self.kernel.is_thunk(target);
        };
        let indirect = name.name.starts_with("__x86_indirect");
        name.name.ends_with("return_thunk") || self.kernel.is_thunk(target) && !indirect
    }

    /// Code outside of entry text is called and returns. False: that cannot happen.
    fn leave(&mut self, state: &mut State, at: u64, target: Option<u64>) -> bool {
        if state.now.user_table {
            // What is left is code that is not made to be interrupted there.
            if state.origin == Origin::User {
                self.find(at, What::NoKernelTable, 0);
            }
            return false;
        }
        if state.now.user_gs && state.origin == Origin::Kernel {
            return false;
        }
        if self.kernel.flag.is_some() {
            if !state.now.flag {
                let switch = state.kernel_switch;
                match switch {
                    0 => self.find(at, What::FlagClearInKernel, state.cleared),
                    switch => self.find(switch, What::FlagNotSet, at),
                }
            } else if !state.caught_up {
                self.find(state.set, What::NoCatchUpAfterFlag, state.kernel_switch);
            }
        }
        // Said once; what follows is judged as if it had been done.
        state.now.flag = true;
        state.caught_up = true;
        state.after_c();
        let callee = target.and_then(|target| self.kernel.symbols().resolve(target));
        if callee.is_some_and(|callee| callee.name == "fixup_bad_iret") {
            // From here on it is as if user mode had faulted (arch/x86/kernel/traps.c).
            state.origin = Origin::User;
            state.found = self.without_flag(Machine::USER);
        }
        true
    }

    fn check_return(&mut self, state: &State, at: u64) {
        let (found, now) = (state.found, state.now);
        if self.kernel.flag.is_none() || found.flag == now.flag {
            return;
        }
        if now.flag {
            // On the kernel's page table a flag that is set is right, whatever was found.
            if now.user_table {
                match state.user_switch {
                    0 => self.find(at, What::FlagNotCleared, at),
                    switch => self.find(switch, What::FlagNotCleared, at),
                }
            }
        } else {
            self.find(state.cleared, What::FlagNotRestored, at);
        }
    }

    /// The page table that is loaded at `at`.
    pub(crate) fn switch(&mut self, state: &mut State, at: u64, user: bool) {
        let written = self.seen.switches.entry(at).or_default();
        state.now.user_table = user;
        if user {
            written.user = true;
            state.user_switch = at;
            state.caught_up = false;
            if !state.now.flag && state.cleared != 0 {
                self.find(state.cleared, What::FlagClearedEarly, at);
            }
        } else {
            written.kernel = true;
            if state.now.flag && state.set != 0 {
                written.store = Some(state.set);
            }
            state.kernel_switch = at;
            state.caught_up |= state.now.flag;
        }
    }

    /// The flag is written. None: with what is not known.
    pub(crate) fn store_flag(&mut self, state: &mut State, at: u64, set: Option<bool>) {
        if state.now.user_gs {
            self.find(at, What::FlagOnUserGs, 0);
        }
        match set {
            Some(true) => {
                if !state.now.flag {
                    state.caught_up = false;
                }
                state.now.flag = true;
                state.set = at;
                state.cleared = 0;
            }
            Some(false) => {
                state.now.flag = false;
                state.caught_up = false;
                state.cleared = at;
                if state.now.user_table
                    && let Some(written) = self.seen.switches.get_mut(&state.user_switch)
                {
                    written.store = Some(at);
                }
            }
            None => self.find(at, What::FlagUnclear, 0),
        }
    }

    pub(crate) fn find(&mut self, at: u64, what: What, other: u64) {
        let found = self.seen.findings.entry((at, what));
        let (_, roots) = found.or_insert_with(|| (other, BTreeSet::new()));
        roots.insert(self.root.name.clone());
    }

    pub(crate) fn open(&mut self, at: u64, open: Open) {
        let roots = self.seen.open.entry((at, open)).or_default();
        roots.insert(self.root.name.clone());
    }
}

/// Returns to the caller within entry text; code that called from elsewhere is not followed.
fn back(mut state: State) -> Vec<State> {
    if state.ret() { vec![state] } else { Vec::new() }
}

fn is_return_from_kernel(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Iret
            | Mnemonic::Iretd
            | Mnemonic::Iretq
            | Mnemonic::Sysret
            | Mnemonic::Sysretq
            | Mnemonic::Sysexit
            | Mnemonic::Sysexitq
            | Mnemonic::Eretu
            | Mnemonic::Erets
    )
}

/// Whether a conditional branch is taken.
fn condition(state: &State, instruction: &Instruction) -> Option<bool> {
    let conditions = state.conditions;
    match instruction.mnemonic() {
        Mnemonic::Je => conditions.zero,
        Mnemonic::Jne => conditions.zero.map(|zero| !zero),
        Mnemonic::Jb => conditions.carry,
        Mnemonic::Jae => conditions.carry.map(|carry| !carry),
        Mnemonic::Js => conditions.sign,
        Mnemonic::Jns => conditions.sign.map(|sign| !sign),
        _ => None,
    }
}
