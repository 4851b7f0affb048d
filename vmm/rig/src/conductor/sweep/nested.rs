//! Ways on which an event comes, so that the points are in its handler.

use std::rc::Rc;

use ipirig_entry::passage::{Arrival, Event, EventAt, Passage, PassageEnd};
use ipirig_scenario::EntryKind;
use ipirig_sweep::judge::missed;
use ipirig_sweep::result::rule_name;
use ipirig_sweep::{
    EventName, NestedWay, PathName, PlannedPath, PlannedPoint, Side, happens_on, turning_points,
};

use super::super::Ended;
use super::super::release::RECORD_MAX;
use super::{RequestedPath, Sweep, SweepRequest, Way, first_of, taken};

impl Sweep<'_, '_> {
    /// The request's paths, and with each those of the NMIs that are to come on it.
    pub(super) fn with_pairs(
        &mut self,
        request: &SweepRequest,
    ) -> Result<Vec<RequestedPath>, Ended> {
        if request.pairs == 0 {
            return Ok(request.paths.clone());
        }
        let mut paths = Vec::new();
        let mut traced: Option<(EntryKind, Passage)> = None;
        for requested in &request.paths {
            paths.push(requested.clone());
            // Where another NMI is masked there are no pairs.
            if requested.name.within.is_some() || requested.entry == EntryKind::Nmi {
                continue;
            }
            if traced
                .as_ref()
                .is_none_or(|(entry, _)| *entry != requested.entry)
            {
                traced = self
                    .whole(requested.entry)?
                    .ok()
                    .map(|it| (requested.entry, it));
            }
            let Some((_, whole)) = &traced else {
                continue;
            };
            let path = PlannedPath::new(requested.name.clone(), &whole.steps, self.layout);
            for point in turning_points(&path, &whole.steps, request.pairs) {
                let sides = [Side::In, Side::Out];
                let names =
                    sides.map(|side| requested.name.event_at(EventName::Nmi, point.number, side));
                let happens = |name: &PathName| {
                    let mut events = request.events.iter();
                    events.any(|event| happens_on(*event, name))
                };
                let names = names.into_iter().filter(happens);
                paths.extend(names.map(|name| RequestedPath {
                    name,
                    entry: requested.entry,
                }));
            }
        }
        Ok(paths)
    }

    /// The way `name`, by `entry` and then the event whose handler it is. `Ok(Err)`: it cannot be traced.
    pub(super) fn nested_way(
        &mut self,
        name: &PathName,
        entry: EntryKind,
        ways: &[Way],
    ) -> Result<Result<Way, String>, Ended> {
        let (Some(within), Some(event)) = (&name.within, name.outer()) else {
            return Ok(Err("no event comes on it".to_owned()));
        };
        let whole = match self.whole_of(entry, ways)? {
            Ok(whole) => whole,
            Err(why) => return Ok(Err(why)),
        };
        let outer = PathName::new(&within.entry, within.side);
        let outer = PlannedPath::new(outer, &whole.steps, self.layout);
        let Some(point) = outer.points.get(within.number) else {
            let count = outer.points.len();
            return Ok(Err(format!("{} has {count} instructions", outer.name)));
        };
        if let Some(rule) = missed(self.layout, point, event) {
            return Ok(Err(format!(
                "{event} does not come there: {}",
                rule_name(rule)
            )));
        }
        let first = first_of(entry, &whole);
        let event = taken(event);
        let one = match self.trace_event(entry, (event, point), first)? {
            Ok(passage) => NestedWay::new(&whole, (event, point), &passage),
            Err(why) => return Ok(Err(why)),
        };
        let other = match self.trace_event(entry, (event, point), first)? {
            Ok(passage) => NestedWay::new(&whole, (event, point), &passage),
            Err(why) => return Ok(Err(why)),
        };
        fn handler(way: &NestedWay) -> &[ipirig_entry::passage::Crossed] {
            way.whole.steps.get(way.handler.clone()).unwrap_or_default()
        }
        if let Some(why) = self.differ(handler(&one), handler(&other)) {
            return Ok(Err(why));
        }
        let steps = &one.whole.steps;
        Ok(Ok(Way {
            entry,
            path: PlannedPath::within(name.clone(), steps, one.handler.clone(), self.layout),
            outer: Some(one.outer),
            whole: Rc::new(one.whole),
        }))
    }

    /// What is executed from `event` at `point` on.
    fn trace_event(
        &mut self,
        entry: EntryKind,
        (event, point): (Event, &PlannedPoint),
        first: Option<(u64, u64)>,
    ) -> Result<Result<Passage, String>, Ended> {
        let at = EventAt {
            first,
            assembly: vec![self.layout.entry_text(), self.layout.noinstr_text()],
            limit: RECORD_MAX,
            ..self.event_at(event, point)
        };
        let Some((passage, _)) = self.passage(entry, at, None)? else {
            return Ok(Err("the CPU did not come there, or not back".to_owned()));
        };
        let came = match passage.arrival {
            Arrival::Taken(frame) => (frame.rip, frame.rsp) == (point.rip, point.rsp),
            Arrival::Blocked(_) | Arrival::NotTaken | Arrival::Stood => false,
        };
        if !came {
            let what = passage.arrival;
            return Ok(Err(format!(
                "the event did not come at {}: {what:x?}",
                point.address
            )));
        }
        if passage.ended != PassageEnd::User {
            return Ok(Err(format!(
                "its trace ends otherwise: {:?}",
                passage.ended
            )));
        }
        Ok(match passage.check() {
            Ok(()) => Ok(passage),
            Err(why) => Err(why.to_string()),
        })
    }
}
