//! What is to be swept, from the names of paths and events.

use ipirig_abi::NOT_PRODUCED;
use ipirig_scenario::EntryKind;
use ipirig_scenario::plan::Options;
use ipirig_sweep::{
    EventName, PathName, PointName, PointResult, Sender, Shard, Side, Status, SweepResult,
    happens_on,
};
use thiserror::Error;

/// What is to be swept.
#[derive(Clone, Debug)]
pub struct SweepRequest {
    /// The paths, in order.
    pub paths: Vec<RequestedPath>,
    /// At how many points of each of them an NMI is to come whose handler's own paths are swept as well.
    pub pairs: usize,
    /// The operations whose sender is looked at, in order, and what the target does meanwhile: it comes in, or leaves.
    pub senders: Vec<(Sender, Side)>,
    /// The events.
    pub events: Vec<EventName>,
    /// Only this point.
    pub only: Option<PointName>,
    /// Which part of the points.
    pub shard: Shard,
    /// What an earlier sweep of the same kernel came to. Its points are not visited again, but for errors.
    pub earlier: Option<Box<SweepResult>>,
    /// The sweep ends after so many violated points.
    pub most_violated: Option<usize>,
}

/// A path, by an entry kind that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedPath {
    /// The path.
    pub name: PathName,
    /// The kind of its entry from user space: where an NMI comes before, that of the path on which it does.
    pub entry: EntryKind,
}

/// Why nothing can be swept.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SweepRequestError {
    /// The name of a path is none.
    #[error(
        "no path is called `{name}`; the entry kinds are {known}, each with or without -exit; and there are sender-flip and \
         sender-vunmap, with and without -exit"
    )]
    NoPath {
        /// The name.
        name: PathName,
        /// Those of entry kinds.
        known: String,
    },
    /// No path has any of the events.
    #[error(
        "none of these events happens on any of these paths: `entry` is the event of sender-flip and sender-vunmap, and \
         `exit` of sender-flip-exit and sender-vunmap-exit; they have no other; `nested-nmi` happens on nmi-exit and PATH+NUMBER/nmi-exit"
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
            pairs: 0,
            senders: Vec::new(),
            events: events.to_vec(),
            only: None,
            shard,
            earlier: None,
            most_violated: None,
        };
        for name in paths {
            match Sender::find(name) {
                Some(sender) => request.senders.push(sender),
                None => request.paths.push(path(name)?),
            }
        }
        if paths.is_empty() {
            let sides = |sender| [(sender, Side::In), (sender, Side::Out)];
            request.senders = Sender::ALL.into_iter().flat_map(sides).collect();
            let sides = |entry: EntryKind| {
                [Side::In, Side::Out].map(|side| RequestedPath {
                    name: PathName::new(entry.name(), side),
                    entry,
                })
            };
            let all = EntryKind::ALL.into_iter();
            let all = all.filter(|entry| !entry.depends_on_cpu());
            request.paths = all.flat_map(sides).collect();
        }
        if events.is_empty() {
            request.events = EventName::ALL.to_vec();
        }
        let senders = request.senders.iter();
        let senders = senders.map(|(sender, target)| sender.path(*target));
        let names: Vec<PathName> = request
            .paths
            .iter()
            .map(|path| path.name.clone())
            .chain(senders)
            .collect();
        let happens = |event: &EventName| names.iter().any(|path| happens_on(*event, path));
        if !request.events.iter().any(happens) {
            return Err(SweepRequestError::NoPoints);
        }
        Ok(request)
    }
}

impl SweepRequest {
    /// Whether `points` have as many violated ones as are wanted at most.
    #[must_use]
    pub fn has_enough(&self, points: &[PointResult]) -> bool {
        let violated = points.iter().filter(|it| it.status == Status::Violated);
        self.most_violated
            .is_some_and(|most| violated.count() >= most)
    }

    /// `options` for the guest that is to be swept: its tasks do not try ways into the kernel that depend on the CPU and are on
    /// no path. A kernel whose bug is in one of them would come no further than that.
    #[must_use]
    pub fn options(&self, options: Options) -> Options {
        let swept = |entry: &EntryKind| self.paths.iter().any(|path| path.entry == *entry);
        let left_out: Vec<&str> = EntryKind::ALL
            .into_iter()
            .filter(|entry| entry.depends_on_cpu() && !swept(entry))
            .map(EntryKind::name)
            .collect();
        let word = (!left_out.is_empty()).then(|| format!("{NOT_PRODUCED}{}", left_out.join(",")));
        let words: Vec<String> = options.append.into_iter().chain(word).collect();
        Options {
            append: (!words.is_empty()).then(|| words.join(" ")),
            ..options
        }
    }
}

fn path(name: &PathName) -> Result<RequestedPath, SweepRequestError> {
    let outer = name.within.as_ref().map(|within| &within.entry);
    let entry = EntryKind::find(outer.unwrap_or(&name.entry));
    let entry = entry.ok_or_else(|| SweepRequestError::NoPath {
        name: name.clone(),
        known: EntryKind::ALL.map(EntryKind::name).join(", "),
    })?;
    Ok(RequestedPath {
        name: name.clone(),
        entry,
    })
}

#[cfg(test)]
mod tests {
    use ipirig_sweep::Outcome;

    use super::*;

    const WHOLE: Shard = Shard { index: 1, of: 1 };

    type Parts = (Vec<RequestedPath>, Vec<(Sender, Side)>, Vec<EventName>);

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
        let syscall = RequestedPath {
            name: PathName::new("syscall", Side::In),
            entry: EntryKind::Syscall,
        };
        let (nmi, entry) = (EventName::Nmi, EventName::Entry);
        assert_eq!(
            of(&["sender-flip", "syscall"], &[nmi, entry]),
            Ok((
                vec![syscall.clone()],
                vec![(Sender::Flip, Side::In)],
                vec![nmi, entry]
            ))
        );
        assert_eq!(
            of_point("entry@sender-vunmap+3"),
            Ok((vec![], vec![(Sender::Vunmap, Side::In)], vec![entry]))
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
            (senders.len(), events),
            (2 * Sender::ALL.len(), EventName::ALL.to_vec())
        );
        assert!(paths.iter().all(|path| !path.entry.depends_on_cpu()));
        let last = paths.last().unwrap();
        assert_eq!(last.name.to_string(), "nmi-exit");
    }

    #[test]
    fn the_way_of_an_nmi_on_another_path_begins_with_that_paths_entry() {
        let (paths, _, _) = of(&["page-fault-exit+3/nmi"], &[EventName::Flip]).unwrap();
        let [path] = &paths[..] else {
            panic!("{paths:?}");
        };
        assert_eq!(path.entry, EntryKind::PageFault);
        let refused = of(&["syscall+3/nmi"], &[EventName::NestedNmi]);
        assert_eq!(refused, Err(SweepRequestError::NoPoints));
        let refused = of(&["nothing+3/nmi"], &[]).unwrap_err();
        assert!(refused.to_string().contains("`nothing+3/nmi`"), "{refused}");
    }

    #[test]
    fn a_guest_tries_the_ways_that_are_swept_and_those_of_each_cpu() {
        let append = |paths: &[&str], append: Option<&str>| {
            let paths: Vec<PathName> = paths.iter().map(|path| path.parse().unwrap()).collect();
            let request = SweepRequest::of(&paths, &[], WHOLE).unwrap();
            let options = Options {
                append: append.map(str::to_owned),
                ..Options::default()
            };
            request.options(options).append.unwrap()
        };
        assert_eq!(
            append(&["syscall", "espfix-exit", "int80+3/nmi"], Some("quiet")),
            "quiet ipirig.not_produced=alignment-check,sysenter,compat-syscall,bad-iret,double-fault"
        );
        let all = EntryKind::ALL.map(EntryKind::name);
        let request = of(&all, &[]).unwrap();
        assert_eq!(request.0.len(), all.len());
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

    #[test]
    fn a_sweep_has_enough_when_so_many_points_are_violated() {
        let point = |number: usize, outcome| {
            let name = format!("nmi@syscall+{number}").parse().unwrap();
            PointResult::new(name, outcome, None)
        };
        let points = [
            point(0, Outcome::Violated(vec![])),
            point(1, Outcome::Held),
            point(2, Outcome::Error(String::new())),
            point(3, Outcome::Violated(vec![])),
        ];
        let has = |most_violated, visited: usize| {
            let request = SweepRequest::of(&[], &[], Shard::WHOLE).unwrap();
            let request = SweepRequest {
                most_violated,
                ..request
            };
            request.has_enough(&points[..visited])
        };
        assert_eq!(
            [0, 1, 3].map(|visited| has(Some(1), visited)),
            [false, true, true]
        );
        assert_eq!(
            [1, 3, 4].map(|visited| has(Some(2), visited)),
            [false, false, true]
        );
        assert!(!has(None, 4));
    }
}
