//! Processes that come and go: the stack of each is a vmalloc area.

use super::children::Children;
use super::{Asked, Ground, Progress, Stopped};
use crate::errno::Errno;
use crate::failure::During;
use crate::sys;

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
        batch(count).during(|| format!("create and kill {count} processes"))?;
        progress.done += count;
    }
    // Stacks are unmapped late, and flushed later still: here.
    triggers.purge().during(|| "purge the vmalloc area")?;
    Ok(())
}

/// Has `count` processes live at once. Each dies before it does anything: it is its birth and its
/// death that count.
pub(super) fn batch(count: u64) -> Result<(), Errno> {
    let mut children = Children::default();
    for _ in 0..count {
        children.add(|| sys::sleep_forever())?;
    }
    children.kill()
}
