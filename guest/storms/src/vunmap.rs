//! vmalloc and vfree, after which the probe alias is moved: whether a CPU flushed can be seen.

use ipirig_abi::module::Move;

use super::by_module;
use crate::interfaces::Interfaces;
use crate::request::{Progress, StormError, StormRequest};
use ipirig_system::During;

pub(crate) fn run(
    interfaces: &Interfaces<'_>,
    request: &StormRequest,
    progress: &mut Progress,
) -> Result<(), StormError> {
    let triggers = interfaces.triggers.ok_or(StormError::NoModule)?;
    by_module::run(interfaces, request, progress)?;
    progress.value = 0;
    let mut moved = Move::default();
    triggers
        .move_alias(&mut moved)
        .during(|| "move the vmalloc alias")?;
    progress.value = moved.word;
    Ok(())
}
