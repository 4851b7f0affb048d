//! The judgement of one point: pure functions of what was executed.
//!
//! What may be stale on the CPU is followed instruction by instruction. While its flag is clear, senders
//! may leave it alone and change whatever they like, so everything may be stale again with each
//! instruction; while it is set, nothing becomes stale that is not the event's own doing. Instructions
//! that serialise and flush clear it.

use ipirig_entry::layout::CodeRegion;
use ipirig_entry::paging::USER_TABLE_BIT;
use ipirig_entry::passage::{Arrival, Blocked, Crossed, OuterEvent, Passage, PassageEnd};
use ipirig_entry::shadow::Shadow;
use ipirig_entry::{KernelLayout, Paging, Pending};
use ipirig_image::{KERNEL_HALF, Table};
use ipirig_instruction::control::pcid;
use ipirig_instruction::decode::Decoder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::EventName;
use crate::plan::{PlannedPoint, RSP};

/// Most violations of a point that are kept: the first ones.
const VIOLATIONS_MAX: usize = 8;
/// RFLAGS.IF (SDM vol. 3, 2.3).
pub(crate) const INTERRUPTS: u64 = 1 << 9;
/// The names of the general registers, in the order of their encoding.
const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// What must hold at each point.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Invariant {
    /// Nothing that may be stale is executed or touched before it is caught up with.
    CaughtUp,
    /// While code runs that may be instrumented, patched, or that touches vmalloc memory, senders would
    /// not leave this CPU alone.
    FlagSet,
    /// An IPI is sent and taken, or deferred and caught up with.
    SentOrDeferred,
    /// Back in user space all is as it was, and nothing unexpected happened on the way.
    BackInUser,
}

impl Invariant {
    /// Each once, in order.
    pub const ALL: [Self; 4] = [
        Self::CaughtUp,
        Self::FlagSet,
        Self::SentOrDeferred,
        Self::BackInUser,
    ];

    /// Its name in JSON and in patches of mutants.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CaughtUp => "caught-up",
            Self::FlagSet => "flag-set",
            Self::SentOrDeferred => "sent-or-deferred",
            Self::BackInUser => "back-in-user",
        }
    }

    /// Its number, as people call it.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8 + 1
    }
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// The instruction, as `symbol+0xoffset`.
    pub at: String,
    /// What is wrong, for a person.
    pub words: String,
}

/// What became of a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The event came there, and every invariant holds.
    Held,
    /// The event came there, and these do not hold.
    Violated(Vec<Violation>),
    /// The CPU cannot take the event there, by this rule.
    Missed(Blocked),
    /// Nothing can be said of it.
    Error(String),
}

/// What the control vCPU did while the target stood at the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// IPIs that it sent to the target while that stood there.
    pub ipis: u64,
    /// Whether the operation was over before the target went on.
    pub done_meanwhile: bool,
    /// Whether it was over in the end.
    pub done: bool,
}

/// What a point is judged against.
#[derive(Clone, Copy, Debug)]
pub struct JudgeContext<'a> {
    /// The kernel that ran.
    pub layout: &'a KernelLayout,
    /// How its page tables are set up.
    pub paging: Paging,
    /// The same way without an event, all of it instruction by instruction.
    pub whole: &'a Passage,
    /// The event that comes on that way before.
    pub outer: Option<OuterEvent>,
}

/// Judges what `passage` says of `event` at `point`. `sent`: of an operation of the control vCPU.
#[must_use]
pub fn judge(
    context: &JudgeContext<'_>,
    point: &PlannedPoint,
    event: EventName,
    passage: &Passage,
    sent: Option<Sent>,
) -> Outcome {
    match (passage.arrival, event.is_operation()) {
        (Arrival::Blocked(why), false) => return Outcome::Missed(why),
        (Arrival::NotTaken, _) => {
            return Outcome::Error("the CPU did not take the event".to_owned());
        }
        (Arrival::Taken(frame), false) => {
            if (frame.rip, frame.rsp, frame.cs & 3) != (point.rip, point.rsp, 0) {
                let found = context.layout.describe(frame.rip);
                return Outcome::Error(format!(
                    "the event came at {found} with RSP {:#x}, not at {} with RSP {:#x}",
                    frame.rsp, point.address, point.rsp
                ));
            }
        }
        (Arrival::Stood, true) => {}
        _ => return Outcome::Error("the event is another than was asked for".to_owned()),
    }
    match passage.ended {
        PassageEnd::User | PassageEnd::Exception { .. } => {}
        PassageEnd::Limit => return Outcome::Error("the way back has no end".to_owned()),
        PassageEnd::Halted => {
            return Outcome::Error("the CPU went idle on the way back".to_owned());
        }
        PassageEnd::NoEvent => return Outcome::Error("nothing was recorded".to_owned()),
    }
    if let Err(why) = passage.check() {
        return Outcome::Error(why.to_string());
    }
    let outer = passage.outer.map(|frame| (frame.rip, frame.rsp));
    if outer != context.outer.map(|outer| (outer.rip, outer.rsp)) {
        let why = format!("the event before came at {outer:x?} by the frame on its stack");
        return Outcome::Error(why);
    }
    if let Some(why) = came_otherwise(context, point, passage) {
        return Outcome::Error(why);
    }
    let mut walk = Walk::new(context);
    for crossed in context.whole.steps.get(..point.step).unwrap_or_default() {
        walk.step(crossed);
    }
    if sent.is_some_and(|sent| sent.ipis == 0) {
        walk.left_alone();
    }
    for crossed in &passage.steps {
        walk.step(crossed);
    }
    let mut violations = walk.violations;
    if let Some(sent) = sent
        && !sent.done
    {
        violations.push(Violation {
            invariant: Invariant::SentOrDeferred,
            at: point.address.clone(),
            words: "the sender still waits for this CPU, which is back in user space".to_owned(),
        });
    }
    end(context, passage, &mut violations);
    violations.truncate(VIOLATIONS_MAX);
    if violations.is_empty() {
        Outcome::Held
    } else {
        Outcome::Violated(violations)
    }
}

/// In what the CPU was in another state at `point` than in the trace, whose instructions before it are taken
/// for the CPU's own.
fn came_otherwise(
    context: &JudgeContext<'_>,
    point: &PlannedPoint,
    passage: &Passage,
) -> Option<String> {
    let (first, planned) = (passage.steps.first()?, context.whole.steps.get(point.step)?);
    let state = |crossed: &Crossed| {
        let registers = &crossed.step.registers;
        (registers.cr3, registers.gs_base, crossed.flag)
    };
    let (now, then) = (state(first), state(planned));
    (now != then).then(|| {
        format!("the CPU came there with CR3, GS base and flag {now:x?}, and in the trace with {then:x?}")
    })
}

/// A way along what a CPU executed.
struct Walk<'a> {
    context: &'a JudgeContext<'a>,
    decoder: Decoder,
    shadow: Shadow,
    /// The last RSP that was in vmalloc memory: in the task's stack, which is nobody's to unmap. The way
    /// out copies from it while it is on another.
    task_stack: u64,
    /// A violation of this kind was told, and nothing has changed since.
    told: [bool; 2],
    violations: Vec<Violation>,
}

impl<'a> Walk<'a> {
    fn new(context: &'a JudgeContext<'a>) -> Self {
        Self {
            context,
            decoder: Decoder::new(),
            shadow: stale(context.paging),
            task_stack: 0,
            told: [false; 2],
            violations: Vec::new(),
        }
    }

    /// A sender has changed something and not told this CPU.
    fn left_alone(&mut self) {
        self.shadow = stale(self.context.paging);
    }

    fn step(&mut self, crossed: &Crossed) {
        let registers = &crossed.step.registers;
        let layout = self.context.layout;
        let stack = registers.general[RSP];
        if layout.vmalloc.contains(&stack) {
            self.task_stack = stack;
        }
        let executed = self.decoder.decode(&crossed.step);
        let place = layout.place(registers.rip);
        let loose = crossed.free || place.is_instrumentable();
        // A kernel without a flag sends to everyone.
        let flag = crossed.flag.unwrap_or(1);
        if flag == 0 {
            self.left_alone();
        }
        let translations = self
            .shadow
            .translations_pending(pcid(registers.cr3, registers.cr4));
        let pending = self.shadow.text_pending() || translations;
        if loose {
            if flag == 0 {
                let words = "runs with the flag clear: senders would leave this CPU alone";
                self.tell_once(0, Invariant::FlagSet, registers.rip, words);
            } else if pending && crossed.flag.is_some() {
                let words = "runs before what may be stale was caught up with";
                self.tell_once(1, Invariant::CaughtUp, registers.rip, words);
            }
        } else {
            self.told = [false; 2];
        }
        let Some(executed) = executed else {
            let words = "is no instruction that is known".to_owned();
            self.tell(Invariant::CaughtUp, registers.rip, words);
            return;
        };
        if registers.gs_base < KERNEL_HALF
            && place != CodeRegion::User
            && let Some(access) = executed.accesses.iter().find(|access| access.per_cpu)
        {
            let words = format!(
                "touches memory relative to GS, at {:#x}, while GS base is the user's",
                access.address
            );
            self.tell(Invariant::BackInUser, registers.rip, words);
        }
        if pending && !loose && crossed.flag.is_some() {
            let code = registers.rip..registers.rip.saturating_add(executed.length as u64);
            let mut sites = layout.sites_at(&code);
            let patched = sites.find(|site| site.kind.table() != Table::Alternatives);
            if let Some(site) = patched {
                let words = format!(
                    "executes {}, which may be stale",
                    layout.site_name(site.kind)
                );
                self.tell(Invariant::CaughtUp, registers.rip, words);
            }
            let mut accesses = executed.accesses.iter();
            let others = |address| {
                layout.is_vmalloc(address, stack) && layout.is_vmalloc(address, self.task_stack)
            };
            if let Some(access) = accesses.find(|access| others(access.address)) {
                let words = format!(
                    "touches vmalloc memory at {:#x}, whose translation may be stale",
                    access.address
                );
                self.tell(Invariant::CaughtUp, registers.rip, words);
            }
        }
        self.shadow.apply(executed.effect, registers);
    }

    fn tell_once(&mut self, which: usize, invariant: Invariant, rip: u64, words: &str) {
        if !std::mem::replace(&mut self.told[which], true) {
            self.tell(invariant, rip, words.to_owned());
        }
    }

    fn tell(&mut self, invariant: Invariant, rip: u64, words: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            let at = self.context.layout.describe(rip);
            self.violations.push(Violation {
                invariant,
                at,
                words,
            });
        }
    }
}

/// What a CPU holds that was left alone: everything may be stale.
fn stale(paging: Paging) -> Shadow {
    let everything = || Pending::everything("the flag was clear");
    Shadow::new(everything(), &everything(), paging.global)
}

/// What is wrong with the CPU as it goes back to user space, or that it does not.
fn end(context: &JudgeContext<'_>, passage: &Passage, violations: &mut Vec<Violation>) {
    let mut add = |rip, words: String| {
        violations.push(Violation {
            invariant: Invariant::BackInUser,
            at: context.layout.describe(rip),
            words,
        });
    };
    if let PassageEnd::Exception { vector, rip, cr2 } = passage.ended {
        let about = if vector == 14 {
            format!(" about {cr2:#x}")
        } else {
            String::new()
        };
        add(
            rip,
            format!("raises exception {vector}{about}, which nothing should here"),
        );
        return;
    }
    let (Some(last), Some(expected)) = (passage.steps.last(), context.whole.steps.last()) else {
        return;
    };
    let (now, then) = (&last.step.registers, &expected.step.registers);
    if expected.flag == Some(0) && last.flag != Some(0) {
        add(
            now.rip,
            "returns to user space with the flag set".to_owned(),
        );
    }
    if context.paging.isolated && now.cr3 >> USER_TABLE_BIT & 1 == 0 {
        add(
            now.rip,
            "returns to user space on the kernel page table".to_owned(),
        );
    }
    if now.gs_base != then.gs_base {
        let words = format!(
            "returns to user space with GS base {:#x}, not {:#x}",
            now.gs_base, then.gs_base
        );
        add(now.rip, words);
    }
    let mut registers = NAMES.iter().zip(now.general.iter().zip(&then.general));
    if let Some((name, (now_, then_))) = registers.find(|(_, (now, then))| now != then) {
        let words = format!("returns to user space with {name} {now_:#x}, not {then_:#x}");
        add(now.rip, words);
    }
    if passage.frame != context.whole.frame {
        let words = format!(
            "returns to user space by another frame: {:x?}, not {:x?}",
            passage.frame, context.whole.frame
        );
        add(now.rip, words);
    }
}

/// The rule by which `event` cannot come at `point`, as far as its trace and the kernel's symbols say.
#[must_use]
pub fn missed(layout: &KernelLayout, point: &PlannedPoint, event: EventName) -> Option<Blocked> {
    let handler = event.optional_handler();
    if handler.is_some_and(|name| layout.symbols().address(name).is_none()) {
        return Some(Blocked::NoHandler);
    }
    (event.is_maskable() && point.rflags & INTERRUPTS == 0).then_some(Blocked::InterruptsOff)
}

#[cfg(test)]
mod tests;
