//! A call chain: addresses, and how it ends.

use std::fmt;
use std::hash::{Hash, Hasher};

/// Most addresses of a chain. What a kernel does between a system call and an IPI takes about
/// twenty.
pub const MAX_FRAMES: usize = 40;

/// Addresses of code, innermost first. The first is that of an instruction, the others are return
/// addresses or instructions that were interrupted. Equal chains have equal addresses and ends.
#[derive(Clone)]
pub struct Chain {
    addresses: [u64; MAX_FRAMES],
    len: usize,
    interrupted: Option<usize>,
    /// How it ends.
    pub end: End,
}

/// How a chain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The kernel was entered from user space here.
    User,
    /// Here a kernel thread, or a CPU, began.
    Start,
    /// Only as much as is said here is known.
    Cut(Broken),
}

/// Why a chain ends before its natural end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// There are [`MAX_FRAMES`].
    TooLong,
    /// The stack cannot be read at an address.
    Unreadable,
    /// What should be a return address is none of the kernel's.
    NoReturnAddress,
    /// The saved frame pointer is none.
    NoFramePointer,
    /// The stack does not go on upwards.
    NoProgress,
    /// The kernel says that nothing is known of a frame.
    Undefined,
    /// The kernel's entry for a frame has no meaning.
    BadEntry,
    /// It is not known how the kernel lays out its frames.
    NoMethod,
    /// What is beyond an interrupt is left out: there are too many chains.
    Interrupt,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "it has more calls than are recorded",
            Self::Unreadable => "the stack cannot be read",
            Self::NoReturnAddress => "what should be a return address is none",
            Self::NoFramePointer => "what should be a frame pointer is none",
            Self::NoProgress => "the stack leads back to where it was",
            Self::Undefined => "the kernel has no unwind information there",
            Self::BadEntry => "the kernel's unwind information makes no sense there",
            Self::NoMethod => "how this kernel lays out its stack is not known",
            Self::Interrupt => "what was interrupted is left out, there are too many chains",
        })
    }
}

impl Chain {
    /// A chain of one address.
    #[must_use]
    pub fn new(address: u64, end: End) -> Self {
        let mut chain = Self {
            addresses: [0; MAX_FRAMES],
            len: 0,
            interrupted: None,
            end,
        };
        chain.push(address);
        chain
    }

    /// Adds an address; `false` if there is no place for it.
    pub(crate) fn push(&mut self, address: u64) -> bool {
        let Some(place) = self.addresses.get_mut(self.len) else {
            return false;
        };
        *place = address;
        self.len += 1;
        true
    }

    /// The next address is one that was interrupted.
    pub(crate) fn interrupt(&mut self) {
        self.interrupted.get_or_insert(self.len);
    }

    /// The addresses.
    #[must_use]
    pub fn addresses(&self) -> &[u64] {
        self.addresses.get(..self.len).unwrap_or_default()
    }

    /// Whether the address at `index` is exactly where execution was; else it is where a call
    /// returns to, and the call is before it.
    #[must_use]
    pub fn is_exact(&self, index: usize) -> bool {
        index == 0 || self.interrupted == Some(index)
    }

    /// The same up to where the first interrupt came, if one did.
    pub(crate) fn up_to_interrupt(&self) -> Option<Self> {
        let at = self.interrupted?;
        let mut chain = Self {
            addresses: [0; MAX_FRAMES],
            len: 0,
            interrupted: None,
            end: End::Cut(Broken::Interrupt),
        };
        for &address in self.addresses().iter().take(at) {
            chain.push(address);
        }
        Some(chain)
    }
}

impl PartialEq for Chain {
    fn eq(&self, other: &Self) -> bool {
        self.addresses() == other.addresses() && self.end == other.end
    }
}

impl Eq for Chain {}

impl Hash for Chain {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.addresses().hash(state);
        self.end.hash(state);
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x?} {:?}", self.addresses(), self.end)
    }
}
