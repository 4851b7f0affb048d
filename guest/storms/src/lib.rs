//! Storms: bursts of one kind of operation, each of which makes a stock kernel interrupt every CPU; and [`load`]s, which
//! do the like until they are killed.
//!
//! A new storm is a row of the table in `guest/abi/src/storm.rs`, a file here unless the module does it alone, and a
//! line in `steps_of`.
//!
//! What this crate does not do: decide which storm runs when (the rig does, through `ipirig-agent`), count IPIs, or
//! judge. It acts on what it is handed ([`Interfaces`]), which is a test's in tests.

mod bpf_jit;
mod by_module;
mod children;
mod ftrace;
mod housekeeping_load;
mod image_key;
mod interfaces;
mod kprobe;
pub mod load;
mod module_load;
mod request;
mod tracefs;
mod tracepoint;
mod vmap_stack;
mod vunmap;

pub use interfaces::{Interfaces, Symbols, Triggers};
pub use request::{Progress, StormError, StormRequest};
pub use tracefs::Tracefs;

use ipirig_abi::StormKind;
use ipirig_abi::module::MAX_REPEAT;

use crate::request::refused;

/// Runs a kind of storm. What was done counts also when it stops half way.
type Run = fn(&Interfaces<'_>, &StormRequest, &mut Progress) -> Result<(), StormError>;

/// A kind of storm.
struct Steps {
    /// What is to be done once before, where there is something: the kernel may do more, and take
    /// longer, the first time. It ends with one whole operation.
    prepare: Option<Run>,
    run: Run,
}

/// Each kind's storm.
fn steps_of(kind: StormKind) -> Steps {
    let plain = |run| Steps { prepare: None, run };
    let prepared = |prepare: Run, run| Steps {
        prepare: Some(prepare),
        run,
    };
    match kind {
        StormKind::StaticKeyFlip
        | StormKind::StaticKeyMany
        | StormKind::StaticCall
        | StormKind::SetMemory
        | StormKind::PageTableFree
        | StormKind::NoinstrKey
        | StormKind::EntryTextPoke
        | StormKind::Ioremap => plain(by_module::run),
        StormKind::Vunmap => plain(vunmap::run),
        StormKind::VmapStack => plain(vmap_stack::run),
        StormKind::ModuleLoad => plain(module_load::run),
        StormKind::HousekeepingLoad => plain(housekeeping_load::run),
        StormKind::Tracepoint => prepared(tracepoint::prepare, tracepoint::run),
        StormKind::Kprobe => prepared(kprobe::prepare, kprobe::run),
        StormKind::Ftrace => prepared(ftrace::prepare, ftrace::run),
        StormKind::BpfJit => prepared(bpf_jit::run, bpf_jit::run),
        StormKind::ImageKey => plain(image_key::run),
        // The first huge mapping at an address may free a page table: a flush that must come.
        StormKind::VmallocHuge => prepared(by_module::run, by_module::run),
    }
}

/// Runs a storm.
///
/// # Errors
///
/// [`StormError`]: what is lacking, or what failed. [`Progress`] has what was done before.
pub fn run(
    interfaces: &Interfaces<'_>,
    request: &StormRequest,
    progress: &mut Progress,
) -> Result<(), StormError> {
    check(request)?;
    (steps_of(request.kind).run)(interfaces, request, progress)
}

/// Makes ready for a storm.
///
/// # Errors
///
/// As [`run`].
pub fn prepare(
    interfaces: &Interfaces<'_>,
    request: &StormRequest,
    progress: &mut Progress,
) -> Result<(), StormError> {
    check(request)?;
    let Some(prepare) = steps_of(request.kind).prepare else {
        return Ok(());
    };
    let once = StormRequest {
        operations: 1,
        ..*request
    };
    prepare(interfaces, &once, progress)
}

fn check(request: &StormRequest) -> Result<(), StormError> {
    let number = (1..=MAX_REPEAT).contains(&request.operations);
    if number && request.kind.properties().takes(request.size) {
        Ok(())
    } else {
        Err(refused(request))
    }
}

#[cfg(test)]
mod tests;
