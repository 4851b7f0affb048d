//! What is to be swept, from the names of paths and events.

use ipirig_scenario::EntryKind;
use ipirig_sweep::{EventName, PathName, PointName, Sender, Shard, Side, SweepResult};
use thiserror::Error;

/// What is to be swept.
#[derive(Clone, Debug)]
pub struct SweepRequest {
    /// The paths, in order.
    pub paths: Vec<(EntryKind, Side)>,
    /// The operations whose sender is looked at, in order.
    pub senders: Vec<Sender>,
    /// The events.
    pub events: Vec<EventName>,
    /// Only this point.
    pub only: Option<PointName>,
    /// Which part of the points.
    pub shard: Shard,
    /// What an earlier sweep of the same kernel came to. Its points are not visited again, but for errors.
    pub earlier: Option<Box<SweepResult>>,
}

/// Why nothing can be swept.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SweepRequestError {
    /// The name of a path is none.
    #[error(
        "no path is called `{name}`; the entry kinds are {known}, each with or without -exit; and there are sender-flip and \
         sender-vunmap"
    )]
    NoPath {
        /// The name.
        name: PathName,
        /// Those of entry kinds.
        known: String,
    },
    /// No path has any of the events.
    #[error(
        "`entry` is the event of the paths sender-flip and sender-vunmap, and they have no other"
    )]
    NoPoints,
}

impl SweepRequest {
    /// Only one point.
    ///
    /// # Errors
    /// There is no such path, or it does not have that event.
    pub fn of_point(point: PointName, shard: Shard) -> Result<Self, SweepRequestError> {
        let path = std::slice::from_ref(&point.path);
        let request = Self::of(path, &[point.event], shard)?;
        Ok(Self {
            only: Some(point),
            ..request
        })
    }

    /// Each of `events` on each of `paths` that has it. No path: all but those of entry kinds that
    /// depend on the CPU; no event: all.
    ///
    /// # Errors
    /// There is no such path, or none has one of the events.
    pub fn of(
        paths: &[PathName],
        events: &[EventName],
        shard: Shard,
    ) -> Result<Self, SweepRequestError> {
        let mut request = Self {
            paths: Vec::new(),
            senders: Vec::new(),
            events: events.to_vec(),
            only: None,
            shard,
            earlier: None,
        };
        for name in paths {
            match Sender::find(name) {
                Some(sender) => request.senders.push(sender),
                None => request.paths.push(path(name)?),
            }
        }
        if paths.is_empty() {
            request.senders = Sender::ALL.to_vec();
            let sides = |entry| [(entry, Side::In), (entry, Side::Out)];
            let all = EntryKind::ALL.into_iter();
            let all = all.filter(|entry| !entry.depends_on_cpu());
            request.paths = all.flat_map(sides).collect();
        }
        if events.is_empty() {
            request.events = EventName::ALL.to_vec();
        }
        let has = |event: &EventName| match event.is_of_sender() {
            true => !request.senders.is_empty(),
            false => !request.paths.is_empty(),
        };
        if !request.events.iter().any(has) {
            return Err(SweepRequestError::NoPoints);
        }
        Ok(request)
    }
}

fn path(name: &PathName) -> Result<(EntryKind, Side), SweepRequestError> {
    let entry = EntryKind::find(&name.entry).ok_or_else(|| SweepRequestError::NoPath {
        name: name.clone(),
        known: EntryKind::ALL.map(EntryKind::name).join(", "),
    })?;
    Ok((entry, name.side))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Shard = Shard { index: 1, of: 1 };

    type Parts = (Vec<(EntryKind, Side)>, Vec<Sender>, Vec<EventName>);

    fn parts(request: Result<SweepRequest, SweepRequestError>) -> Result<Parts, SweepRequestError> {
        request.map(|request| (request.paths, request.senders, request.events))
    }

    fn of(paths: &[&str], events: &[EventName]) -> Result<Parts, SweepRequestError> {
        let paths: Vec<PathName> = paths.iter().map(|path| path.parse().unwrap()).collect();
        parts(SweepRequest::of(&paths, events, WHOLE))
    }

    fn of_point(point: &str) -> Result<Parts, SweepRequestError> {
        parts(SweepRequest::of_point(point.parse().unwrap(), WHOLE))
    }

    #[test]
    fn a_senders_path_is_swept_with_the_senders_event_and_no_other() {
        let syscall = (EntryKind::Syscall, Side::In);
        let (nmi, entry) = (EventName::Nmi, EventName::Entry);
        assert_eq!(
            of(&["sender-flip", "syscall"], &[nmi, entry]),
            Ok((vec![syscall], vec![Sender::Flip], vec![nmi, entry]))
        );
        assert_eq!(
            of_point("entry@sender-vunmap+3"),
            Ok((vec![], vec![Sender::Vunmap], vec![entry]))
        );
        assert_eq!(
            of_point("nmi@syscall+3"),
            Ok((vec![syscall], vec![], vec![nmi]))
        );
        for refused in [
            of(&["sender-flip"], &[nmi]),
            of(&["syscall"], &[entry]),
            of_point("entry@syscall+3"),
            of_point("nmi@sender-flip+3"),
        ] {
            assert_eq!(refused, Err(SweepRequestError::NoPoints));
        }
    }

    #[test]
    fn without_names_all_is_swept_that_each_host_has() {
        let (paths, senders, events) = of(&[], &[]).unwrap();
        assert_eq!(
            (senders, events),
            (Sender::ALL.to_vec(), EventName::ALL.to_vec())
        );
        assert!(paths.iter().all(|(entry, _)| !entry.depends_on_cpu()));
        assert!(paths.contains(&(EntryKind::Nmi, Side::Out)));
    }

    #[test]
    fn a_path_that_is_none_is_refused_by_name() {
        let refused = of(&["sender-nothing"], &[]).unwrap_err();
        assert!(
            refused
                .to_string()
                .starts_with("no path is called `sender-nothing`")
        );
    }
}
