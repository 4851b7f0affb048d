//! Processes that come and go: the stack of each is a vmalloc area.

use super::children;
use crate::interfaces::Interfaces;
use crate::request::{Progress, StormError, StormRequest};
use ipirig_system::{During, Errno};

/// What a kernel lacks whose module has no stacks to purge.
const NO_VMAP_STACK: &str = "no CONFIG_VMAP_STACK: kernel stacks are not vmalloc areas";

pub(crate) fn run(
    interfaces: &Interfaces<'_>,
    request: &StormRequest,
    progress: &mut Progress,
) -> Result<(), StormError> {
    let triggers = interfaces.triggers.ok_or(StormError::NoModule)?;
    let at_once = request.size;
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
