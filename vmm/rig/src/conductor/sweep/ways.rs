//! The ways through the kernel, traced once for all points on them: twice, to see that they are the same.

use std::rc::Rc;
use std::time::Instant;

use ipirig_entry::Began;
use ipirig_entry::passage::{Crossed, Event, EventAt, Passage, PassageEnd};
use ipirig_instruction::Step;
use ipirig_machine::Follow;
use ipirig_scenario::{EntryKind, Trigger};
use ipirig_sweep::{PathName, PathResult, PlannedPath};

use super::super::Ended;
use super::super::release::RECORD_MAX;
use super::{RequestedPath, Sweep, SweepRequest, Swept, Way};

impl Sweep<'_, '_> {
    /// Traces the ways that the request's paths are on.
    pub(super) fn ways(
        &mut self,
        request: &SweepRequest,
        swept: &mut Swept,
    ) -> Result<Vec<Way>, Ended> {
        let mut ways: Vec<Way> = Vec::new();
        let known = !swept.paths.is_empty();
        for RequestedPath { name, entry } in self.with_pairs(request)? {
            let traced = match &name.within {
                Some(_) => self.nested_way(&name, entry, &ways)?,
                None => self.plain_way(&name, entry, &ways)?,
            };
            match traced {
                Ok(way) => {
                    if !known {
                        swept.paths.push(PathResult::new(&way.path));
                    }
                    ways.push(way);
                }
                Err(why) if !known => swept.paths.push(PathResult::untraced(&name, why)),
                Err(_) => {}
            }
        }
        Ok(ways)
    }

    /// A way without an NMI on it. One of the same entry among `ways` need not be traced again.
    fn plain_way(
        &mut self,
        name: &PathName,
        entry: EntryKind,
        ways: &[Way],
    ) -> Result<Result<Way, String>, Ended> {
        Ok(self.whole_of(entry, ways)?.map(|whole| Way {
            entry,
            path: PlannedPath::new(name.clone(), &whole.steps, self.layout),
            whole,
            outer: None,
        }))
    }

    /// The whole way by `entry`, as one of `ways` has it or traced now.
    pub(super) fn whole_of(
        &mut self,
        entry: EntryKind,
        ways: &[Way],
    ) -> Result<Result<Rc<Passage>, String>, Ended> {
        let mut plain = ways.iter().filter(|way| way.outer.is_none());
        Ok(match plain.find(|way| way.entry == entry) {
            Some(way) => Ok(Rc::clone(&way.whole)),
            None => self.whole(entry)?.map(Rc::new),
        })
    }

    /// The whole way through the kernel by `entry`, without an event: its assembly and all that may not be
    /// instrumented, instruction by instruction. `Ok(Err)`: it cannot be traced.
    pub(super) fn whole(&mut self, entry: EntryKind) -> Result<Result<Passage, String>, Ended> {
        let first = match self.first(entry)? {
            Ok(first) => first,
            Err(why) => return Ok(Err(why)),
        };
        if self.flag.is_none() && self.layout.flag().is_some() {
            self.flag = self.find_flag(entry, &first)?;
            if self.flag.is_none() {
                return Ok(Err(
                    "the flag is not mapped in the user page table".to_owned()
                ));
            }
        }
        let one = match self.trace(entry, &first)? {
            Ok(one) => one,
            Err(why) => return Ok(Err(why)),
        };
        let other = match self.trace(entry, &first)? {
            Ok(other) => other,
            Err(why) => return Ok(Err(why)),
        };
        Ok(match self.differ(&one.steps, &other.steps) {
            Some(why) => Err(why),
            None => Ok(one),
        })
    }

    /// The first instruction of the kernel by `entry`.
    fn first(&mut self, entry: EntryKind) -> Result<Result<Step, String>, Ended> {
        let cpu = self.cpu;
        let ways: Vec<Began> = match entry.trigger(false) {
            Trigger::Order(_) => vec![entry.began()],
            Trigger::Signal | Trigger::Raise(_) => vec![],
        };
        let follow = Follow::Entry { limit: 1, ways };
        if !self.enter_kernel(entry, follow)? {
            return Ok(Err("this guest cannot enter the kernel that way".to_owned()));
        }
        let deadline = Instant::now() + self.conductor.plan.timeouts.phase;
        let record = loop {
            if let Some(record) = self.real(|machine| Ok(machine.record(cpu)?))? {
                break record;
            }
            if self.conductor.refused(cpu) {
                return Ok(Err(
                    "host or kernel lacks this way into the kernel".to_owned()
                ));
            }
            if Instant::now() >= deadline {
                return Ok(Err("no entry was seen".to_owned()));
            }
            self.conductor.pause()?;
        };
        if record.began != entry.began() {
            return Ok(Err("the CPU came into the kernel in another way".to_owned()));
        }
        let first = record.steps.first().copied();
        Ok(first.ok_or_else(|| "no instruction was recorded".to_owned()))
    }

    /// Guest-physical address of the flag, as the user page table has it.
    fn find_flag(&mut self, entry: EntryKind, first: &Step) -> Result<Option<u64>, Ended> {
        let cpu = self.cpu;
        let Ok(trace) = self.trace(entry, first)? else {
            return Ok(None);
        };
        let mut bases = trace.steps.iter().map(|it| it.step.registers.gs_base);
        let address = bases.find_map(|base| self.layout.flag_address(base));
        let Some(address) = address else {
            return Ok(None);
        };
        // Back in user space.
        self.rewind()?;
        self.real(|machine| Ok(machine.translate(cpu, address)?))
    }

    /// What is executed from `first` on.
    fn trace(&mut self, entry: EntryKind, first: &Step) -> Result<Result<Passage, String>, Ended> {
        let at = EventAt {
            event: Event::Stand,
            rip: first.registers.rip,
            rsp: first.registers.general[4],
            skip: 0,
            first: None,
            outer: None,
            assembly: vec![self.layout.entry_text(), self.layout.noinstr_text()],
            resume: None,
            flag: self.flag,
            limit: RECORD_MAX,
        };
        let Some((passage, _)) = self.passage(entry, at, None)? else {
            return Ok(Err("the entry was not seen again".to_owned()));
        };
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

    /// In what two traces of one way differ where there are points: before the first instrumentable code
    /// and after the last. In between, a kernel may look at the time.
    pub(super) fn differ(&self, one: &[Crossed], other: &[Crossed]) -> Option<String> {
        let ((in_one, out_one), (in_other, out_other)) = (self.ends(one), self.ends(other));
        let place = |it: &Crossed| (it.step.registers.rip, it.step.registers.general[4]);
        for (one, other) in [(in_one, in_other), (out_one, out_other)] {
            let same = |number: usize| one.get(number).map(place) == other.get(number).map(place);
            if let Some(number) = (0..one.len().max(other.len())).find(|&number| !same(number)) {
                let name = |steps: &[Crossed]| {
                    steps.get(number).map_or_else(
                        || "its end".to_owned(),
                        |it| self.layout.describe(it.step.registers.rip),
                    )
                };
                return Some(format!(
                    "two traces of it differ: {} and {}",
                    name(one),
                    name(other)
                ));
            }
        }
        None
    }

    /// The way in and the way out.
    fn ends<'t>(&self, steps: &'t [Crossed]) -> (&'t [Crossed], &'t [Crossed]) {
        let loose = |it: &Crossed| self.layout.place(it.step.registers.rip).is_instrumentable();
        let first = steps.iter().position(loose).unwrap_or(steps.len());
        let last = steps
            .iter()
            .rposition(loose)
            .map_or(steps.len(), |last| last + 1);
        (
            steps.get(..first).unwrap_or_default(),
            steps.get(last..).unwrap_or_default(),
        )
    }
}
