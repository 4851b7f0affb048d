//! A CPU on its way through entry text, as far as it can be known without running it.

use ipirig_entry::paging::USER_TABLE_BIT;

use crate::value::Value;

/// Deepest nesting of calls within entry text that is followed. `clear_bhb_loop`, which fills the
/// branch history, has the most.
const CALLS: usize = 16;
/// RAX, RCX, RDX, RSI, RDI, R8 to R11: what a C function may change (System V ABI).
const CALLER_SAVED: u16 = 0b0000_1111_1100_0111;

/// The mode that an entry came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    User,
    Kernel,
}

/// What the switches are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Machine {
    /// Whether the user's page table is loaded.
    pub(crate) user_table: bool,
    /// Whether the flag by which senders decide is set.
    pub(crate) flag: bool,
    /// Whether GS has the user's base.
    pub(crate) user_gs: bool,
}

impl Machine {
    pub(crate) const USER: Self = Self {
        user_table: true,
        flag: false,
        user_gs: true,
    };
    pub(crate) const KERNEL: Self = Self {
        user_table: false,
        flag: true,
        user_gs: false,
    };
}

/// Flags of RFLAGS that entry code branches on. None: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Conditions {
    pub(crate) carry: Option<bool>,
    pub(crate) zero: Option<bool>,
    pub(crate) sign: Option<bool>,
}

/// A CPU before an instruction. Addresses are 0 where nothing of the kind was executed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) at: u64,
    pub(crate) origin: Origin,
    /// As it was found.
    pub(crate) found: Machine,
    /// As it is.
    pub(crate) now: Machine,
    /// Whether the kernel's page table was loaded since the flag has been set.
    pub(crate) caught_up: bool,
    /// The instruction that set the flag last.
    pub(crate) set: u64,
    /// The one that cleared it last.
    pub(crate) cleared: u64,
    /// The one that loaded the kernel's page table last.
    pub(crate) kernel_switch: u64,
    /// The one that loaded the user's.
    pub(crate) user_switch: u64,
    pub(crate) conditions: Conditions,
    pub(crate) registers: [Value; 16],
    calls: [u64; CALLS],
    depth: u8,
}

impl State {
    pub(crate) fn new(at: u64, origin: Origin, found: Machine) -> Self {
        Self {
            at,
            origin,
            found,
            now: found,
            caught_up: !found.user_table && found.flag,
            set: 0,
            cleared: 0,
            kernel_switch: 0,
            user_switch: 0,
            conditions: Conditions::default(),
            registers: [Value::UNKNOWN; 16],
            calls: [0; CALLS],
            depth: 0,
        }
    }

    pub(crate) fn register(&self, number: usize) -> Value {
        self.registers.get(number).copied().unwrap_or_default()
    }

    pub(crate) fn set_register(&mut self, number: usize, value: Value) {
        if let Some(register) = self.registers.get_mut(number) {
            *register = value;
        }
    }

    /// Nothing is known any more of the registers in `mask`.
    pub(crate) fn forget(&mut self, mask: u16) {
        for (number, register) in self.registers.iter_mut().enumerate() {
            if mask >> number & 1 != 0 {
                *register = Value::UNKNOWN;
            }
        }
    }

    /// What CR3 has.
    pub(crate) fn cr3(&self) -> Value {
        Value::bit_is(USER_TABLE_BIT, self.now.user_table)
    }

    /// Enters a function of entry text that returns to `back`. False: nested too deep.
    pub(crate) fn call(&mut self, to: u64, back: u64) -> bool {
        let Some(slot) = self.calls.get_mut(usize::from(self.depth)) else {
            return false;
        };
        *slot = back;
        self.depth += 1;
        self.at = to;
        true
    }

    /// Returns from it. False: it was called from elsewhere.
    pub(crate) fn ret(&mut self) -> bool {
        let Some(depth) = self.depth.checked_sub(1) else {
            return false;
        };
        self.depth = depth;
        match self.calls.get_mut(usize::from(depth)) {
            Some(slot) => {
                self.at = std::mem::take(slot);
                true
            }
            None => false,
        }
    }

    /// A function of C was called and has returned.
    pub(crate) fn after_c(&mut self) {
        self.forget(CALLER_SAVED);
        self.conditions = Conditions::default();
    }
}
