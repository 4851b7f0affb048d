//! Storms that are one call of the module.

use ipirig_abi::StormKind;
use ipirig_abi::module::Trigger;

use crate::errno::Errno;
use crate::failure::During;
use crate::interfaces::{Interfaces, NO_JUMP_LABEL};
use crate::request::{Progress, StormError, StormRequest};

pub(super) fn run(
    interfaces: &Interfaces<'_>,
    request: &StormRequest,
    progress: &mut Progress,
) -> Result<(), StormError> {
    let triggers = interfaces.triggers.ok_or(StormError::NoModule)?;
    let mut trigger = Trigger {
        count: request.operations,
        kind: request.kind.into(),
        // Too much for the field is too much for the module, which says so.
        size: u32::try_from(request.size).unwrap_or(u32::MAX),
        target: request.target,
        text_poke: interfaces.symbols.text_poke,
        text_mutex: interfaces.symbols.text_mutex,
        ..Trigger::default()
    };
    let outcome = triggers.trigger(&mut trigger);
    *progress = Progress {
        done: trigger.done,
        value: trigger.value,
    };
    match outcome {
        Err(Errno(libc::ENOTTY)) => Err(StormError::Lacking(format!(
            "this guest's ipirig.ko does not know {:?}",
            request.kind
        ))),
        Err(Errno(libc::EOPNOTSUPP)) => Err(StormError::Lacking(lacking(request.kind).to_owned())),
        outcome => Ok(outcome.during(|| request.describe())?),
    }
}

/// What a kernel lacks whose module answers EOPNOTSUPP.
fn lacking(kind: StormKind) -> &'static str {
    match kind {
        StormKind::StaticKeyMany | StormKind::NoinstrKey => NO_JUMP_LABEL,
        StormKind::StaticCall => {
            "no CONFIG_HAVE_STATIC_CALL: a static call is a pointer, and an update patches nothing"
        }
        StormKind::PageTableFree => {
            "ioremap() makes no huge mappings (no CONFIG_HAVE_ARCH_HUGE_VMAP, or nohugeiomap)"
        }
        StormKind::VmallocHuge => {
            "vmalloc() makes no huge mappings (no CONFIG_HAVE_ARCH_HUGE_VMALLOC, nohugevmalloc, or no memory \
             of that size)"
        }
        StormKind::EntryTextPoke => {
            "text_poke_bp cannot be called: its address or text_mutex's is not known, or the kernel \
             checks indirect calls (CONFIG_CFI_CLANG, CONFIG_X86_KERNEL_IBT)"
        }
        _ => "the kernel does not support it",
    }
}
