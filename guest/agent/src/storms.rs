//! Storms: bursts of one kind of operation, each of which makes a stock kernel interrupt every CPU.
//!
//! A new one is a file here, a [`StormKind`] and a line in [`steps_of`].

mod bpf_jit;
mod by_module;
pub(crate) mod children;
mod ftrace;
mod housekeeping_load;
mod image_key;
mod kprobe;
mod module_load;
pub(crate) mod tracefs;
mod tracepoint;
mod vmap_stack;

use std::path::Path;

use ipirig_abi::StormKind;
use ipirig_abi::module::MAX_REPEAT;

use crate::errno::Errno;
use crate::failure::{During, Failure};
use crate::obey::Triggers;

/// What a kernel lacks in which the module refuses to flip static keys.
pub(crate) const NO_JUMP_LABEL: &str =
    "no CONFIG_JUMP_LABEL: a static key is a variable, and a flip patches nothing";

/// Runs a kind of storm. What was done counts also when it stops half way.
type Run = fn(&Ground<'_>, &Asked, &mut Progress) -> Result<(), Stopped>;

/// A kind of storm.
struct Steps {
    /// What is to be done once before, where there is something: the kernel may do more, and take
    /// longer, the first time. It ends with one whole operation.
    prepare: Option<Run>,
    run: Run,
}

/// What a storm acts on: the real guest, or a test's.
pub(crate) struct Ground<'a> {
    /// The module, if the guest has it.
    pub(crate) triggers: Option<&'a dyn Triggers>,
    /// CPUs that are not isolated, the control CPU among them.
    pub(crate) housekeeping: &'a [usize],
    /// What the kernel does not export.
    pub(crate) symbols: Symbols,
    /// Where `sys` and `proc` are.
    pub(crate) root: &'a Path,
    /// Mounts tracefs on a directory.
    pub(crate) mount_tracefs: fn(&Path) -> Result<(), Errno>,
}

/// Addresses of what the kernel does not export; 0 is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Symbols {
    /// `text_poke_bp`.
    pub(crate) text_poke: u64,
    /// `text_mutex`.
    pub(crate) text_mutex: u64,
}

/// What the rig wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The kind.
    pub(crate) kind: StormKind,
    /// How many operations.
    pub(crate) operations: u64,
    /// A size, by kind.
    pub(crate) size: u64,
    /// An address, by kind.
    pub(crate) target: u64,
}

/// How far a storm came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Operations done.
    pub(crate) done: u64,
    /// A value, by kind.
    pub(crate) value: u64,
}

/// Why a storm did not run to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// It needs the module.
    NoModule,
    /// The kernel, or the initramfs, lacks this.
    Lacking(String),
    /// It failed.
    Failed(Failure),
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Each kind's storm.
fn steps_of(kind: StormKind) -> Steps {
    let plain = |run| Steps { prepare: None, run };
    let prepared = |prepare: Run, run| Steps {
        prepare: Some(prepare),
        run,
    };
    match kind {
        StormKind::StaticKeyMany => plain(by_module::run),
        StormKind::StaticCall => plain(by_module::run),
        StormKind::SetMemory => plain(by_module::run),
        StormKind::PageTableFree => plain(by_module::run),
        StormKind::NoinstrKey => plain(by_module::run),
        StormKind::EntryTextPoke => plain(by_module::run),
        StormKind::VmapStack => plain(vmap_stack::run),
        StormKind::ModuleLoad => plain(module_load::run),
        StormKind::HousekeepingLoad => plain(housekeeping_load::run),
        StormKind::Tracepoint => prepared(tracepoint::prepare, tracepoint::run),
        StormKind::Kprobe => prepared(kprobe::prepare, kprobe::run),
        StormKind::Ftrace => prepared(ftrace::prepare, ftrace::run),
        StormKind::BpfJit => prepared(bpf_jit::run, bpf_jit::run),
        StormKind::ImageKey => plain(image_key::run),
    }
}

/// Runs a storm.
pub(crate) fn run(
    ground: &Ground<'_>,
    asked: &Asked,
    progress: &mut Progress,
) -> Result<(), Stopped> {
    check(asked)?;
    (steps_of(asked.kind).run)(ground, asked, progress)
}

/// Makes ready for a storm.
pub(crate) fn prepare(
    ground: &Ground<'_>,
    asked: &Asked,
    progress: &mut Progress,
) -> Result<(), Stopped> {
    check(asked)?;
    let Some(prepare) = steps_of(asked.kind).prepare else {
        return Ok(());
    };
    let once = Asked {
        operations: 1,
        ..*asked
    };
    prepare(ground, &once, progress)
}

fn check(asked: &Asked) -> Result<(), Stopped> {
    if (1..=MAX_REPEAT).contains(&asked.operations) {
        Ok(())
    } else {
        Err(refused(asked))
    }
}

impl Asked {
    /// The size, if it is from `least` to `most`.
    fn size(&self, least: u64, most: u64) -> Result<u64, Stopped> {
        if (least..=most).contains(&self.size) {
            Ok(self.size)
        } else {
            Err(refused(self))
        }
    }

    /// Does each operation; all must be done.
    fn each(
        &self,
        progress: &mut Progress,
        mut operation: impl FnMut() -> Result<(), Stopped>,
    ) -> Result<(), Stopped> {
        while progress.done < self.operations {
            operation()?;
            progress.done += 1;
        }
        Ok(())
    }

    /// The storm in words.
    fn describe(&self) -> String {
        format!(
            "{} operations of {:?}, size {}",
            self.operations, self.kind, self.size
        )
    }
}

fn refused(asked: &Asked) -> Stopped {
    Failure::of(asked.describe(), Errno(libc::EINVAL)).into()
}

/// Writes `value` to a file that must exist.
fn write(path: &Path, value: &str) -> Result<(), Failure> {
    use std::io::Write;
    // Appending suits all files of tracefs and procfs; without it, opening kprobe_events would
    // remove all that is there.
    std::fs::OpenOptions::new()
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .during(|| format!("write {value} to {}", path.display()))
}

#[cfg(test)]
mod tests;
