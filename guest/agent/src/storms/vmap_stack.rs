//! Processes that come and go: the stack of each is a vmalloc area.

use super::{Asked, Ground, Progress, Stopped, children};
use crate::failure::During;

/// Most processes that live at once.
const MAX_AT_ONCE: u64 = 64;

pub(super) fn run(
    ground: &Ground<'_>,
    asked: &Asked,
    progress: &mut Progress,
) -> Result<(), Stopped> {
    let triggers = ground.triggers.ok_or(Stopped::NoModule)?;
    let at_once = asked.size(1, MAX_AT_ONCE)?;
    while progress.done < asked.operations {
        let count = at_once.min(asked.operations - progress.done);
        children::come_and_go(count).during(|| format!("create and kill {count} processes"))?;
        progress.done += count;
    }
    // Stacks are unmapped late, and flushed later still: here.
    triggers.purge().during(|| "purge the vmalloc area")?;
    Ok(())
}
