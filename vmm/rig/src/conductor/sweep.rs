//! The sweep: one guest, put back to the same moment for each point, in which one event comes at one
//! instruction. It does not judge; `ipirig-sweep` does.

mod exit;
mod nested;
mod request;
mod sender;
mod waits;
mod ways;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ipirig_abi::{Command, Mailbox, StormKind};
use ipirig_entry::passage::{Event, EventAt, OuterEvent, Passage, PassageEnd};
use ipirig_entry::{Began, KernelLayout, Paging};
use ipirig_evidence::Phase;
use ipirig_evidence::ledger::Ledger;
use ipirig_machine::{Beginning, Checkpoint, Follow, Machine, Placed, Raise, Still};
use ipirig_scenario::plan::Plan;
use ipirig_scenario::{EntryKind, LOCAL_TIMER, RESCHEDULE, Trigger};
use ipirig_sweep::judge::missed;
use ipirig_sweep::{
    EventName, JudgeContext, Outcome, PathResult, PlannedPath, PlannedPoint, PointName,
    PointResult, Sender, Sent, Side, Status, happens_on, judge,
};

pub use request::{RequestedPath, SweepRequest, SweepRequestError};

use super::mailbox::post_order;
use super::{Conductor, Ended, LayoutOf, Start};

/// Most instructions of the assembly after an event.
const PASSAGE_MAX: usize = 5_000;
/// How long the target may take to come to the instruction, and to be back in user space.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a sender may take that neither sends nor ends.
const SENDER: Duration = Duration::from_secs(10);
/// Place of RSP in [`ipirig_instruction::StepRegisters::general`].
const RSP: usize = 4;
/// Pages of the one allocation that an operation frees.
const PAGES: u64 = 1;

/// How far a sweep has come. It survives the guest.
#[derive(Debug, Default)]
pub struct Swept {
    /// The kernel's `uname`.
    pub version: Option<String>,
    /// The paths.
    pub paths: Vec<PathResult>,
    /// The points that were visited, in order.
    pub points: Vec<PointResult>,
    /// The point that is being visited.
    pub current: Option<PointName>,
    /// Points that are to be visited, in all.
    pub planned: usize,
    /// Points for which the guest was put back: all but those whose trace says that they are missed.
    pub run: usize,
    /// How long that took.
    pub took: Duration,
}

/// Sweeps a guest that has just been started. Points of `swept` are not visited again. `tick` hears of
/// each point.
///
/// # Errors
///
/// See [`Ended`]. What was visited by then is in `swept`.
pub fn sweep(
    (machine, plan): (&mut Machine, &Plan),
    request: &SweepRequest,
    start: Start<'_>,
    layout: LayoutOf<'_>,
    (ledger, phase): (&Ledger, &dyn Fn(Phase)),
    (swept, tick): (&mut Swept, &dyn Fn(&Swept)),
) -> Result<(), Ended> {
    let mut conductor = Conductor::new(machine, plan, ledger, phase);
    let booted = conductor.boot(start, layout)?;
    let layout = match booted.layout {
        Ok(layout) => layout,
        Err(what) => return Err(Ended::Lacking { what }),
    };
    swept.version = Some(booted.version);
    // What the kernel does the first time only.
    for sender in Sender::ALL {
        let (command, args) = operation(sender);
        conductor.command(command, args)?;
    }
    conductor.enter(Phase::Quiet);
    conductor.quiet()?;
    conductor.enter(Phase::Sweep);
    let checkpoint = conductor.real(|machine| Ok(machine.checkpoint()?))?;
    let seq = conductor.seq;
    let mut sweep = Sweep {
        layout: &layout,
        paging: booted.paging.unwrap_or_default(),
        cpu: conductor.isolated.first().copied().unwrap_or_default(),
        flag: None,
        still: None,
        conductor,
        checkpoint,
        seq,
    };
    sweep.all(request, swept, tick)
}

/// A guest that can be put back.
struct Sweep<'a, 'c> {
    conductor: Conductor<'c>,
    layout: &'a KernelLayout,
    paging: Paging,
    /// The target.
    cpu: usize,
    /// Guest-physical address of its flag.
    flag: Option<u64>,
    /// The vCPUs but the target, while it runs alone: they would take host cores from it, or disturb it. And
    /// since when.
    still: Option<(Still, Instant)>,
    checkpoint: Checkpoint,
    /// Number of the newest command at the checkpoint.
    seq: u32,
}

/// A way through the kernel that was traced.
struct Way {
    entry: EntryKind,
    path: PlannedPath,
    whole: std::rc::Rc<Passage>,
    /// The event that comes on it.
    outer: Option<OuterEvent>,
}

/// On whose path a point is.
#[derive(Clone, Copy)]
enum Scene<'w> {
    Target(&'w Way),
    Sender(&'w sender::SenderWay),
}

impl<'w> Scene<'w> {
    fn path(self) -> &'w PlannedPath {
        match self {
            Self::Target(way) => &way.path,
            Self::Sender(way) => &way.sender.path,
        }
    }
}

impl Sweep<'_, '_> {
    fn all(
        &mut self,
        request: &SweepRequest,
        swept: &mut Swept,
        tick: &dyn Fn(&Swept),
    ) -> Result<(), Ended> {
        let ways = self.ways(request, swept)?;
        let senders = self.senders(request, swept)?;
        let mut planned = Vec::new();
        for &event in &request.events {
            let of_target = ways.iter().map(Scene::Target);
            let scenes = of_target.chain(senders.iter().map(Scene::Sender));
            for scene in scenes.filter(|scene| happens_on(event, &scene.path().name)) {
                let points = scene.path().points.iter();
                planned.extend(points.map(|point| (scene, event, point)));
            }
        }
        let wanted: Vec<_> = planned
            .into_iter()
            .map(|(scene, event, point)| {
                let name = PointName {
                    path: scene.path().name.clone(),
                    event,
                    number: point.number,
                };
                (scene, point, name)
            })
            .filter(|(_, _, name)| request.only.as_ref().is_none_or(|only| only == name))
            .enumerate()
            .filter(|(number, _)| request.shard.has(*number))
            .map(|(_, point)| point)
            .collect();
        swept.planned = wanted.len();
        if let Some(earlier) = request
            .earlier
            .as_deref()
            .filter(|_| swept.points.is_empty())
        {
            if let Some(what) = earlier.differs(swept.version.as_deref(), &swept.paths) {
                let phase = self.conductor.phase;
                let source = format!("the earlier sweep cannot be resumed: {what}").into();
                return Err(Ended::Machine { phase, source });
            }
            let names: BTreeSet<_> = wanted.iter().map(|(_, _, name)| name).collect();
            let again = |point: &&PointResult| {
                point.status != Status::Error && names.contains(&point.point)
            };
            swept
                .points
                .extend(earlier.points.iter().filter(again).cloned());
        }
        let done = swept.points.iter().map(|point| point.point.clone());
        let done: BTreeSet<_> = done.collect();
        let began = Instant::now() - swept.took;
        for (scene, point, name) in wanted {
            if done.contains(&name) {
                continue;
            }
            if request.has_enough(&swept.points) {
                break;
            }
            if ipirig_terminal::interrupt::requested() {
                let phase = self.conductor.phase;
                return Err(Ended::Interrupted { phase });
            }
            swept.current = Some(name.clone());
            let (outcome, sent) = match missed(self.layout, point, name.event) {
                Some(rule) => (Outcome::Missed(rule), None),
                None => {
                    swept.run += 1;
                    match scene {
                        Scene::Target(way) => self.point(way, point, name.event)?,
                        Scene::Sender(way) if way.target == Side::Out => {
                            self.exit_point(way, point)?
                        }
                        Scene::Sender(way) => self.sender_point(way, point)?,
                    }
                }
            };
            swept.current = None;
            let ipis = sent.map(|sent| sent.ipis);
            swept.points.push(PointResult::new(name, outcome, ipis));
            swept.took = began.elapsed();
            tick(swept);
        }
        Ok(())
    }

    /// Visits a point.
    fn point(
        &mut self,
        way: &Way,
        point: &PlannedPoint,
        event: EventName,
    ) -> Result<(Outcome, Option<Sent>), Ended> {
        let at = EventAt {
            first: first_of(way.entry, &way.whole),
            outer: way.outer,
            ..self.event_at(taken(event), point)
        };
        let operation = match event {
            EventName::Flip => Some(operation(Sender::Flip)),
            EventName::Vunmap => Some(operation(Sender::Vunmap)),
            _ => None,
        };
        let Some((passage, sent)) = self.passage(way.entry, at, operation)? else {
            let why = "the CPU did not come there, or not back, in time".to_owned();
            return Ok((Outcome::Error(why), None));
        };
        let context = JudgeContext {
            outer: way.outer,
            ..self.context(&way.whole)
        };
        Ok((judge(&context, point, event, &passage, sent), sent))
    }

    /// `event` at `point`.
    fn event_at(&self, event: Event, point: &PlannedPoint) -> EventAt {
        EventAt {
            event,
            rip: point.rip,
            rsp: point.rsp,
            skip: point.skip,
            first: None,
            outer: None,
            assembly: vec![self.layout.entry_text()],
            resume: point.resume,
            flag: self.flag,
            limit: PASSAGE_MAX,
        }
    }

    /// What a point on the way whose trace is `whole` is judged against.
    fn context<'p>(&'p self, whole: &'p Passage) -> JudgeContext<'p> {
        JudgeContext {
            layout: self.layout,
            paging: self.paging,
            whole,
            outer: None,
        }
    }

    /// Puts the guest back, has the target enter by `entry` with an event on the way, and `operation`
    /// carried out while it stands there. `None`: it did not come there, or not back, in time.
    fn passage(
        &mut self,
        entry: EntryKind,
        at: EventAt,
        operation: Option<(Command, [u64; 4])>,
    ) -> Result<Option<(Passage, Option<Sent>)>, Ended> {
        let cpu = self.cpu;
        let stands = at.event == Event::Stand;
        if !self.enter_kernel(entry, Follow::Event(at))? {
            return Ok(None);
        }
        let mut sent = None;
        if stands {
            if !self.wait_until(cpu, Placed::Stands)? {
                return Ok(None);
            }
            if let Some((command, args)) = operation {
                let before = self.sent_to_target();
                self.still = None;
                self.conductor.begin_command(command, args);
                sent = Some(self.watch_sender(before)?);
                // A sender that waits for the target spins, on a host core that the target needs.
                let still = self.real(|machine| Ok(machine.still(cpu)?))?;
                self.still = Some((still, Instant::now()));
            }
            self.real(|machine| Ok(machine.go_on(cpu)?))?;
        }
        self.back(entry, sent)
    }

    /// Waits until the sender has sent the target an IPI, or is done. `before`: how many it had sent.
    fn watch_sender(&mut self, before: u64) -> Result<Sent, Ended> {
        let deadline = Instant::now() + SENDER;
        let mut looks = 0;
        while self.sent_to_target() == before
            && !self.conductor.acknowledged()
            && Instant::now() < deadline
        {
            self.look_again(&mut looks)?;
        }
        Ok(Sent {
            ipis: self.sent_to_target() - before,
            done_meanwhile: self.conductor.acknowledged(),
            done: false,
        })
    }

    /// Waits until the target is back in user space, and an operation over.
    fn back(
        &mut self,
        entry: EntryKind,
        mut sent: Option<Sent>,
    ) -> Result<Option<(Passage, Option<Sent>)>, Ended> {
        let cpu = self.cpu;
        if !self.wait_until(cpu, Placed::Over)? {
            return Ok(None);
        }
        let Some(passage) = self.real(|machine| Ok(machine.passage(cpu)?))? else {
            return Ok(None);
        };
        if passage.ended == PassageEnd::User && !self.back_in_user(entry)? {
            return Ok(None);
        }
        if let Some(sent) = &mut sent {
            self.still = None;
            let deadline = Instant::now() + SENDER;
            let mut looks = 0;
            while passage.ended == PassageEnd::User
                && !self.conductor.acknowledged()
                && Instant::now() < deadline
            {
                self.look_again(&mut looks)?;
            }
            sent.done = self.conductor.acknowledged();
        }
        Ok(Some((passage, sent)))
    }

    /// Puts the guest back and has the target enter the kernel, always in the same way. `false`: this guest
    /// cannot.
    fn enter_kernel(&mut self, entry: EntryKind, follow: Follow) -> Result<bool, Ended> {
        let cpu = self.cpu;
        let alone = matches!(follow, Follow::Event(_));
        self.still = None;
        self.conductor.seq = self.seq;
        self.conductor.deadline = Instant::now() + self.conductor.plan.timeouts.phase;
        let (order, raise) = match entry.trigger(false) {
            Trigger::Order(order) => (Some(order), None),
            // The signal is not what is looked at, and would come when it likes.
            Trigger::Signal => (None, Some(Raise::Ipi(RESCHEDULE))),
            Trigger::Raise(line) => (None, Some(Raise::Line(line))),
        };
        let beginning = Beginning { cpu, follow, raise };
        let order = |mailbox: &Mailbox| {
            if let Some(order) = order {
                post_order(mailbox, cpu, order);
            }
        };
        let checkpoint = &self.checkpoint;
        if !alone {
            let begin = |machine: &Machine| Ok(machine.rewind_and(checkpoint, beginning, order)?);
            return self.conductor.real(begin);
        }
        let begin = |machine: &Machine| Ok(machine.rewind_alone(checkpoint, beginning, order)?);
        let still = self.conductor.real(begin)?;
        self.still = still.map(|still| (still, Instant::now()));
        Ok(self.still.is_some())
    }

    fn sent_to_target(&self) -> u64 {
        let snapshot = self.conductor.ledger.counts();
        snapshot.cpus.get(self.cpu).map_or(0, |record| {
            record.outside.ipis_targeted() + record.window.ipis_targeted()
        })
    }

    fn rewind(&mut self) -> Result<(), Ended> {
        self.still = None;
        self.conductor.seq = self.seq;
        let checkpoint = &self.checkpoint;
        let rewind = |machine: &Machine| Ok(machine.rewind(checkpoint).map(|_| ())?);
        self.conductor.real(rewind)
    }

    fn real<T>(
        &mut self,
        job: impl FnOnce(&Machine) -> Result<T, super::Failure>,
    ) -> Result<T, Ended> {
        self.conductor.real(job)
    }
}

/// The instruction from which on executions are counted, of the way `whole` by `entry`: its first, if that comes after
/// another way, on which the same instructions may have been executed.
fn first_of(entry: EntryKind, whole: &Passage) -> Option<(u64, u64)> {
    let Began::FaultingReturn(_) = entry.began() else {
        return None;
    };
    let registers = &whole.steps.first()?.step.registers;
    Some((registers.rip, registers.general[RSP]))
}

/// What the target takes of `event`.
fn taken(event: EventName) -> Event {
    match event {
        EventName::Nmi => Event::Nmi,
        EventName::NestedNmi => Event::NestedNmi,
        EventName::Debug => Event::Debug,
        EventName::MachineCheck => Event::MachineCheck,
        EventName::Timer => Event::Interrupt(LOCAL_TIMER),
        EventName::Reschedule => Event::Interrupt(RESCHEDULE),
        EventName::Flip | EventName::Vunmap | EventName::Entry | EventName::Exit => Event::Stand,
    }
}

/// The command that carries out one operation.
fn operation(sender: Sender) -> (Command, [u64; 4]) {
    let args = match sender {
        Sender::Flip => StormKind::StaticKeyFlip.args(1, 0, 0),
        Sender::Vunmap => StormKind::Vunmap.args(1, PAGES, 0),
    };
    (Command::Storm, args)
}

const NOT_REAL: &str = "only a real machine can be swept";

impl Conductor<'_> {
    /// Has the machine do what only a real one can.
    fn real<T>(
        &mut self,
        job: impl FnOnce(&Machine) -> Result<T, super::Failure>,
    ) -> Result<T, Ended> {
        let done = match self.guest.real() {
            Some(machine) => job(machine),
            None => Err(NOT_REAL.into()),
        };
        if done.is_err() {
            // A guest that stopped says why.
            self.glance()?;
        }
        let phase = self.phase;
        done.map_err(|source| Ended::Machine { phase, source })
    }
}
