//! What a storm acts on: the module, the CPUs, and the kernel's files.

use std::fmt;
use std::path::Path;

use ipirig_abi::module::{LetGo, Move, Trigger};

use ipirig_system::{During, Errno, Failure};

/// What a storm acts on: the real guest, or a test's.
#[derive(Debug)]
pub struct Interfaces<'a> {
    /// The module, if the guest has it.
    pub triggers: Option<&'a dyn Triggers>,
    /// CPUs that are not isolated, the control CPU among them.
    pub housekeeping: &'a [usize],
    /// What the kernel does not export.
    pub symbols: Symbols,
    /// Where `sys` and `proc` are.
    pub root: &'a Path,
    /// Mounts tracefs on a directory.
    pub mount_tracefs: fn(&Path) -> Result<(), Errno>,
}

/// Addresses of what the kernel does not export; 0 is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Symbols {
    /// `text_poke_bp`.
    pub text_poke: u64,
    /// `text_mutex`.
    pub text_mutex: u64,
}

/// The calls of `/dev/ipirig` that the control task makes.
pub trait Triggers: fmt::Debug {
    /// Puts another page behind the alias.
    fn move_alias(&self, request: &mut Move) -> Result<(), Errno>;
    /// Provokes one kind of operation.
    fn trigger(&self, request: &mut Trigger) -> Result<(), Errno>;
    /// Has freed stacks unmapped and lazily freed areas purged.
    fn purge(&self) -> Result<(), Errno>;
    /// Lets all tasks go that stay in the kernel.
    fn let_go(&self, request: &mut LetGo) -> Result<(), Errno>;
}

/// Writes `value` to a file that must exist.
pub(crate) fn write(path: &Path, value: &str) -> Result<(), Failure> {
    use std::io::Write;
    // Appending suits all files of tracefs and procfs; without it, opening kprobe_events would
    // remove all that is there.
    std::fs::OpenOptions::new()
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .during(|| format!("write {value} to {}", path.display()))
}
