//! `ipirig.ko`: loading it and calling it.
#![expect(unsafe_code, reason = "ioctls")]

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

use ipirig_abi::module::{self, LetGo, Members, Move, Probe, Stay, Trigger};

use ipirig_system::{During, Errno, Failure, sys};

const MODULE: &str = "/ipirig.ko";

/// `/dev/ipirig`, open.
#[derive(Debug)]
pub(crate) struct Device(File);

impl Device {
    /// Loads the module and opens its device; `None` when the initramfs has no module.
    pub(crate) fn load() -> Result<Option<Self>, Failure> {
        let module = match File::open(MODULE) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            result => result.during(|| format!("open {MODULE}"))?,
        };
        match sys::load_module(&module) {
            // Built into the kernel, or loaded by whoever started us.
            Err(Errno(libc::EEXIST)) => {}
            result => result.during(|| format!("load {MODULE} (was it built for this kernel?)"))?,
        }
        let path = module::DEVICE.to_string_lossy();
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&*path)
            .during(|| format!("open {path}"))?;
        Ok(Some(Self(device)))
    }

    /// Puts another page behind the alias.
    pub(crate) fn move_alias(&self, request: &mut Move) -> Result<(), Errno> {
        self.call(module::MOVE, request)
    }

    /// What the calling CPU sees.
    pub(crate) fn probe(&self, request: &mut Probe) -> Result<(), Errno> {
        self.call(module::PROBE, request)
    }

    /// The same, after each task that takes part in the relays of the calling CPU has looked.
    pub(crate) fn relay(&self, request: &mut Probe) -> Result<(), Errno> {
        self.call(module::RELAY, request)
    }

    /// Takes part in the relays of the CPU that the caller is bound to, until a signal comes: EINTR.
    pub(crate) fn join(&self) -> Result<(), Errno> {
        self.call(module::JOIN, &mut ())
    }

    /// How many tasks take part in the relays of `cpu`.
    pub(crate) fn members(&self, cpu: u32) -> Result<u32, Errno> {
        let mut request = Members { cpu, count: 0 };
        self.call(module::MEMBERS, &mut request)?;
        Ok(request.count)
    }

    /// Provokes one kind of operation.
    pub(crate) fn trigger(&self, request: &mut Trigger) -> Result<(), Errno> {
        self.call(module::TRIGGER, request)
    }

    /// Stays in the kernel until let go, for at most `limit_ms` milliseconds; `asleep`, or awake and until `word` changes.
    pub(crate) fn stay(&self, limit_ms: u32, asleep: bool, word: &AtomicU32) -> Result<(), Errno> {
        let mut request = Stay {
            limit_ms,
            asleep: asleep.into(),
            word: word.as_ptr() as u64,
            seen: word.load(Ordering::Relaxed),
            reserved: 0,
        };
        self.call(module::STAY, &mut request)
    }

    /// Lets all who stay go.
    pub(crate) fn let_go(&self, request: &mut LetGo) -> Result<(), Errno> {
        self.call(module::LET_GO, request)
    }

    /// Has freed stacks unmapped and lazily freed areas purged.
    pub(crate) fn purge(&self) -> Result<(), Errno> {
        self.call(module::PURGE, &mut ())
    }

    /// `number` must be the call whose structure `T` is: it encodes the structure's size.
    fn call<T>(&self, number: u32, request: &mut T) -> Result<(), Errno> {
        // SAFETY: the callers above pair each number with its structure, so the module copies
        // exactly `size_of::<T>()` bytes in and out; any bytes are valid in these integers.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                number.into(),
                std::ptr::from_mut(request),
            )
        };
        if result < 0 {
            Err(Errno::last())
        } else {
            Ok(())
        }
    }
}
