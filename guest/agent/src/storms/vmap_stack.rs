//! Processes that come and go: the stack of each is a vmalloc area.

use super::children;
use crate::errno::Errno;
use crate::failure::During;
use crate::interfaces::Interfaces;
use crate::request::{Progress, StormError, StormRequest};

/// Fewest processes that live at once: a CPU keeps two free stacks for the next ones
/// (NR_CACHED_STACKS of kernel/fork.c), so the stack of the third is unmapped.
const MIN_AT_ONCE: u64 = 3;
/// What a kernel lacks whose module has no stacks to purge.
const NO_VMAP_STACK: &str = "no CONFIG_VMAP_STACK: kernel stacks are not vmalloc areas";
/// Most of them.
const MAX_AT_ONCE: u64 = 64;

pub(super) fn run(
    interfaces: &Interfaces<'_>,
    request: &StormRequest,
    progress: &mut Progress,
) -> Result<(), StormError> {
    let triggers = interfaces.triggers.ok_or(StormError::NoModule)?;
    let at_once = request.size(MIN_AT_ONCE, MAX_AT_ONCE)?;
    while progress.done < request.operations {
        children::come_and_go(at_once).during(|| format!("create and kill {at_once} processes"))?;
        // Stacks are unmapped late, and flushed later still: here.
        match triggers.purge() {
            Err(Errno(libc::EOPNOTSUPP)) => {
                return Err(StormError::Lacking(NO_VMAP_STACK.to_owned()));
            }
            purged => purged.during(|| "purge the vmalloc area")?,
        }
        progress.done += 1;
    }
    Ok(())
}
