//! Who interrupted whom, and why.
//!
//! One [`Attribution`] is all IPIs of the window that are alike: of one kind, sent by one vCPU, from one
//! call chain. It is what a person needs to go and change a kernel.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// IPIs of the window with one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribution {
    /// The named cause, such as `static key` or `vunmap`; `unknown` if no rule knows the chain.
    pub cause: String,
    /// The function that asked for it, where the cause says only what was asked for, as `queued work` does.
    pub by: Option<String>,
    /// Whether a CPU in user space could do without this IPI.
    pub deferrable: Deferrable,
    /// The vector or delivery mode, by its name.
    pub kind: String,
    /// The vCPU that sent.
    pub source: usize,
    /// The chain's number, as in [`crate::ledger::Write::chain`].
    pub number: Option<u32>,
    /// How many were sent to each vCPU.
    pub targets: BTreeMap<usize, u64>,
    /// What the targets were doing when they took it.
    pub taken: Taken,
    /// The sender's calls, innermost first.
    pub chain: Vec<Frame>,
    /// Why the chain ends where it does, if that is not its natural end.
    pub broken: Option<String>,
}

impl Attribution {
    /// The cause, with who asked for it: `queued work by smp_call_on_cpu`.
    #[must_use]
    pub fn reason(&self) -> String {
        reason(&self.cause, self.by.as_deref())
    }
}

/// A cause, with who asked for it if that is known.
#[must_use]
pub fn reason(cause: &str, by: Option<&str>) -> String {
    match by {
        Some(by) => format!("{cause} by {by}"),
        None => cause.to_owned(),
    }
}

/// Timer interrupts of one vCPU that were programmed for the same timers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimerAttribution {
    /// The vCPU.
    pub cpu: usize,
    /// Its number, as in [`crate::ledger::Delivery::due`].
    pub number: u32,
    /// What the vCPU was doing when it took them.
    pub taken: Taken,
    /// The timers that were due. None: those that the interrupt was programmed for were gone by then.
    pub timers: Vec<TimerFunction>,
}

/// A timer that was due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimerFunction {
    /// The named cause, such as `tick`; `timer` if no rule knows the function.
    pub cause: String,
    /// The function that tells, where the cause does not.
    pub by: Option<String>,
    /// The function that the timer calls, or its address where that has no name.
    pub function: String,
    /// The function of the delayed work that it queues, if it does.
    pub work: Option<String>,
}

/// Whether the kernel could defer an IPI to a CPU that is in user space.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Deferrable {
    /// Yes: what it asks for can be done at the next kernel entry.
    Yes,
    /// No: it must arrive.
    No,
    /// A CPU in user space need not do anything at all, then or later.
    Omit,
    /// The cause is not known.
    Unknown,
}

impl fmt::Display for Deferrable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Yes => "deferrable",
            Self::No => "not deferrable",
            Self::Omit => "could be omitted",
            Self::Unknown => "deferrable or not, unknown",
        })
    }
}

impl From<ipirig_blame::Deferrable> for Deferrable {
    fn from(deferrable: ipirig_blame::Deferrable) -> Self {
        match deferrable {
            ipirig_blame::Deferrable::Yes => Self::Yes,
            ipirig_blame::Deferrable::No => Self::No,
            ipirig_blame::Deferrable::Omit => Self::Omit,
            ipirig_blame::Deferrable::Unknown => Self::Unknown,
        }
    }
}

/// What the targets were doing when they took the IPIs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Taken {
    /// Running user space.
    pub user: u64,
    /// In the kernel, at work.
    pub kernel: u64,
    /// Halted.
    pub idle: u64,
}

impl Taken {
    /// How many there were.
    #[must_use]
    pub fn all(self) -> u64 {
        self.user
            .saturating_add(self.kernel)
            .saturating_add(self.idle)
    }
}

/// One call of a chain.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Frame {
    /// Where in the kernel, as the guest runs it.
    pub address: u64,
    /// The function that the symbol table names for it; `name [module]` for a module's.
    pub function: Option<String>,
    /// Bytes from the function's begin.
    pub offset: u64,
    /// Functions that the compiler inlined there, innermost first, where debug information tells.
    pub inlined: Vec<String>,
}

impl Frame {
    /// The function's name without the module that it is in.
    #[must_use]
    pub fn symbol(&self) -> Option<&str> {
        let name = self.function.as_deref()?;
        Some(name.split_once(" [").map_or(name, |(symbol, _)| symbol))
    }
}

/// The causes of IPIs to `cpu`: `303 static key (deferrable), 2 signal (not deferrable)`. None if
/// nothing is known of them.
#[must_use]
pub fn summary(blame: &[Attribution], cpu: usize) -> Option<String> {
    let mut causes: BTreeMap<(String, Deferrable), u64> = BTreeMap::new();
    for blame in blame {
        let count = blame.targets.get(&cpu).copied().unwrap_or_default();
        if count > 0 {
            *causes
                .entry((blame.reason(), blame.deferrable))
                .or_default() += count;
        }
    }
    let mut causes: Vec<_> = causes.into_iter().collect();
    causes.sort_by_key(|(_, count)| Reverse(*count));
    let words = causes
        .iter()
        .map(|((cause, deferrable), count)| format!("{count} {cause} ({deferrable})"));
    let words: Vec<String> = words.collect();
    (!words.is_empty()).then(|| words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blame(
        cause: &str,
        deferrable: Deferrable,
        source: usize,
        targets: &[(usize, u64)],
    ) -> Attribution {
        Attribution {
            cause: cause.to_owned(),
            by: None,
            deferrable,
            kind: "call-function".to_owned(),
            source,
            number: None,
            targets: targets.iter().copied().collect(),
            taken: Taken::default(),
            chain: vec![],
            broken: None,
        }
    }

    #[test]
    fn evidence_has_the_causes_only() {
        let all = [
            blame("static key", Deferrable::Yes, 0, &[(1, 3), (2, 3)]),
            blame("unknown", Deferrable::Unknown, 1, &[(2, 1)]),
            blame("static key", Deferrable::Yes, 1, &[(1, 5), (2, 4)]),
        ];
        assert_eq!(
            summary(&all, 2).as_deref(),
            Some("7 static key (deferrable), 1 unknown (deferrable or not, unknown)")
        );
        assert_eq!(summary(&all, 0), None);
    }
}
