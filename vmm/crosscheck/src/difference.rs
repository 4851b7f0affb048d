//! What is in one record and not in the other, and why.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use super::trace::Why;

/// Something that is in one record only.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize)]
pub struct Difference {
    /// The CPU that it was for.
    pub cpu: usize,
    /// The CPU that it came from.
    pub source: usize,
    /// What it is: a kind of IPI, or a function that was called for.
    pub kind: String,
    /// Who has it.
    pub side: Side,
    /// When, in microseconds since the window opened; of several, the first.
    pub after_us: f64,
    /// How many that are alike.
    pub count: u64,
    /// What explains it; absent if nothing does.
    pub rule: Option<Rule>,
    /// What it rests on; of several, the first one's.
    pub evidence: String,
}

/// One of the two records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The rig's ledger.
    Rig,
    /// The guest's trace.
    Guest,
    /// The guest's trace, which has no IPI for a function that was queued.
    Queue,
    /// Both, but they do not agree on where it was sent from.
    Callsite,
}

/// Why something is in one record and not in the other, though both are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// `ipi_send_cpu` and `ipi_send_cpumask` cover calls of functions, rescheduling and irq_work;
    /// other vectors and delivery modes (NMI, INIT, reboot) are sent without.
    NoTracepoint,
    /// Traced before the window opened, sent in it.
    OpeningEdge,
    /// Traced in the window, sent after it closed.
    ClosingEdge,
    /// The guest's buffer was full.
    Lost,
    /// A function was queued behind another that the CPU had not begun: it needs no IPI of its own
    /// (`llist_add` in `__smp_call_single_queue`, kernel/smp.c).
    QueueNotEmpty,
    /// A function was queued and ran without an IPI: the CPU polled while idle, and looked by itself
    /// (`call_function_single_prep_ipi`, kernel/sched/core.c).
    Polled,
    /// The kernel says where the IPI was sent from, and the sender's stack could not be followed so far.
    StackCut,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match self.side {
            Side::Rig => "only the rig has",
            Side::Guest => "only the guest has",
            Side::Queue => "no IPI for",
            Side::Callsite => "another callsite for",
        };
        let rule = self.rule.map_or("unexplained", |rule| rule.name());
        let Self {
            cpu,
            source,
            kind,
            count,
            after_us,
            evidence,
            ..
        } = self;
        let (what, first) = match count {
            1 => (kind.clone(), ""),
            _ => (format!("{count} {kind}"), ", the first"),
        };
        write!(
            f,
            "CPU {source} to CPU {cpu}: {who} {what} ({rule}){first} {after_us:.1} us into the window: \
             {evidence}"
        )
    }
}

impl Rule {
    /// As results have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoTracepoint => "no-tracepoint",
            Self::OpeningEdge => "opening-edge",
            Self::ClosingEdge => "closing-edge",
            Self::Lost => "lost",
            Self::QueueNotEmpty => "queue-not-empty",
            Self::Polled => "polled",
            Self::StackCut => "stack-cut",
        }
    }
}

impl Why {
    /// As results have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CallFunction => "call-function",
            Self::Reschedule => "reschedule",
            Self::IrqWork => "irq-work",
        }
    }
}

/// Most differences that nothing explains and that are told one by one.
const TOLD: usize = 20;

/// Makes one of those that are alike, for the same reason; what nothing explains stays as it is, the
/// first [`TOLD`] of it.
pub(crate) fn joined(differences: Vec<Difference>) -> Vec<Difference> {
    let mut joined: Vec<Difference> = Vec::new();
    let mut places = BTreeMap::new();
    let mut told = 0;
    for difference in differences {
        if difference.rule.is_none() && told < TOLD {
            told += 1;
            joined.push(difference);
            continue;
        }
        let kind = difference.kind.clone();
        let key = (
            difference.cpu,
            difference.source,
            difference.side,
            difference.rule,
        );
        let place = *places.entry((key, kind)).or_insert(joined.len());
        match joined.get_mut(place) {
            Some(other) => other.count = other.count.saturating_add(difference.count),
            None => joined.push(difference),
        }
    }
    joined
}
