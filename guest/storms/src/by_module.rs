//! Storms that are one call of the module.

use ipirig_abi::Needs;
use ipirig_abi::module::Trigger;

use crate::interfaces::Interfaces;
use crate::request::{Progress, StormError, StormRequest};
use ipirig_system::{During, Errno};

pub(crate) fn run(
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
    let needs = request.kind.properties().needs;
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
        Err(Errno(libc::EOPNOTSUPP)) if let Needs::Trigger { or_lacks } = needs => {
            Err(StormError::Lacking(or_lacks.to_owned()))
        }
        outcome => Ok(outcome.during(|| request.describe())?),
    }
}
