//! What `/dev/ipirig` understands: the Rust mirror of `guest/module/ipirig.h`, which documents the
//! calls. A test of `ipirig-agent` compiles the header and compares sizes, places and numbers.

use core::mem::size_of;

/// The device that `ipirig.ko` creates.
pub const DEVICE: &core::ffi::CStr = c"/dev/ipirig";
/// Most operations one call may ask for.
pub const MAX_REPEAT: u64 = 1_000_000;
/// Most pages one round of vmalloc and vfree may ask for.
pub const MAX_PAGES: u32 = 4096;

/// Most pages whose attributes one operation may change.
pub const MAX_CPA_PAGES: u32 = 512;
/// Most huge pages that one operation may allocate.
pub const MAX_HUGE_PAGES: u32 = 8;
/// Most pages of device memory that one operation may map.
pub const MAX_IOREMAP_PAGES: u32 = 256;
/// Longest stay in the kernel.
pub const MAX_STAY_MS: u32 = 600_000;

/// `IPIRIG_MOVE`: put another page behind the alias.
pub const MOVE: u32 = read_write(3, size_of::<Move>());
/// `IPIRIG_PROBE`: what the calling CPU sees.
pub const PROBE: u32 = request(READ, 4, size_of::<Probe>());
/// `IPIRIG_TRIGGER`: provoke one kind of operation.
pub const TRIGGER: u32 = read_write(5, size_of::<Trigger>());
/// `IPIRIG_STAY`: stay in the kernel until let go.
pub const STAY: u32 = request(WRITE, 6, size_of::<Stay>());
/// `IPIRIG_LET_GO`: let all who stay go.
pub const LET_GO: u32 = request(READ, 7, size_of::<LetGo>());
/// `IPIRIG_PURGE`: have freed stacks unmapped and purge lazily freed areas. Takes no structure.
pub const PURGE: u32 = request(0, 8, 0);
/// `IPIRIG_JOIN`: take part in the relays of the CPU that the task is bound to. Takes no structure.
pub const JOIN: u32 = request(0, 9, 0);
/// `IPIRIG_RELAY`: as [`PROBE`], after each task that takes part has looked as well.
pub const RELAY: u32 = request(READ, 10, size_of::<Probe>());
/// `IPIRIG_MEMBERS`: how many take part.
pub const MEMBERS: u32 = read_write(11, size_of::<Members>());

/// `struct ipirig_move`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Move {
    /// What a read through the alias gives from now on; never 0.
    pub word: u64,
    /// Mappings made until the alias had its address again.
    pub attempts: u32,
    /// 0.
    pub reserved: u32,
}

/// `struct ipirig_probe`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// The word the CPU reads through the alias; 0 if the last move failed.
    pub alias: u64,
    /// 1 if the CPU takes the branch of an enabled key, else 0.
    pub branch: u32,
    /// The CPU's number.
    pub cpu: u32,
    /// NMIs that the module claimed on this CPU, modulo 2^32.
    pub nmis: u32,
    /// 0.
    pub reserved: u32,
}

/// `struct ipirig_trigger`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trigger {
    /// Operations wanted, 1 to [`MAX_REPEAT`].
    pub count: u64,
    /// Operations done, also when the call fails half way.
    pub done: u64,
    /// The value of some kinds.
    pub value: u64,
    /// A [`StormKind`](crate::StormKind) that the module knows.
    pub kind: u32,
    /// The size of some kinds, else 0.
    pub size: u32,
    /// The address of some kinds.
    pub target: u64,
    /// Where `text_poke_bp` is, or 0.
    pub text_poke: u64,
    /// Where `text_mutex` is, or 0.
    pub text_mutex: u64,
}

/// `struct ipirig_stay`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stay {
    /// Leave with ETIMEDOUT after so many milliseconds, 0 to [`MAX_STAY_MS`].
    pub limit_ms: u32,
    /// 0: stay awake; 1: asleep, so that the CPU may idle.
    pub asleep: u32,
    /// Address of a word of the caller's memory. Who is awake leaves when it is no longer `seen`; 0: not for that.
    pub word: u64,
    /// See `word`.
    pub seen: u32,
    /// 0.
    pub reserved: u32,
}

/// `struct ipirig_let_go`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LetGo {
    /// How many stayed.
    pub staying: u32,
    /// 0.
    pub reserved: u32,
}

/// `struct ipirig_members`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// The CPU.
    pub cpu: u32,
    /// How many tasks take part in its relays.
    pub count: u32,
}

const MAGIC: u32 = 0xe9;
const WRITE: u32 = 1;
const READ: u32 = 2;

const fn read_write(number: u32, size: usize) -> u32 {
    request(READ | WRITE, number, size)
}

/// `_IOC` of `include/uapi/asm-generic/ioctl.h`: direction in bits 30 to 31, size in 16 to 29.
const fn request(direction: u32, number: u32, size: usize) -> u32 {
    assert!(size < 1 << 14);
    direction << 30 | (size as u32) << 16 | MAGIC << 8 | number
}
