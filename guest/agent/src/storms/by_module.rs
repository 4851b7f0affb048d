//! Storms that are one call of the module.

use ipirig_abi::StormKind;
use ipirig_abi::module::Trigger;

use crate::errno::Errno;
use crate::failure::During;
use crate::ground::{Ground, NO_JUMP_LABEL};
use crate::request::{Asked, Progress, Stopped};

pub(super) fn run(
    ground: &Ground<'_>,
    asked: &Asked,
    progress: &mut Progress,
) -> Result<(), Stopped> {
    let triggers = ground.triggers.ok_or(Stopped::NoModule)?;
    let mut trigger = Trigger {
        count: asked.operations,
        kind: asked.kind.into(),
        // Too much for the field is too much for the module, which says so.
        size: u32::try_from(asked.size).unwrap_or(u32::MAX),
        target: asked.target,
        text_poke: ground.symbols.text_poke,
        text_mutex: ground.symbols.text_mutex,
        ..Trigger::default()
    };
    let outcome = triggers.trigger(&mut trigger);
    *progress = Progress {
        done: trigger.done,
        value: trigger.value,
    };
    match outcome {
        Err(Errno(libc::ENOTTY)) => Err(Stopped::Lacking(format!(
            "this guest's ipirig.ko does not know {:?}",
            asked.kind
        ))),
        Err(Errno(libc::EOPNOTSUPP)) => Err(Stopped::Lacking(lacking(asked.kind).to_owned())),
        outcome => Ok(outcome.during(|| asked.describe())?),
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
