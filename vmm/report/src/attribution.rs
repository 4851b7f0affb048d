//! Blame as a person reads it: who interrupted whom, and why, by cause and by chain of functions;
//! and as programs that draw flame graphs do.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use ipirig_blame::Causes;
use ipirig_document::{Blame, SCHEMA_VERSION};
use ipirig_evidence::blame::{Deferrable, Frame, reason};
use ipirig_verdict::result::RunResult;
use serde::Deserialize;

use crate::paint::Paint;

/// Chains that a run's report shows; `ipirig blame` shows all.
const SHOWN: usize = 8;

/// Which vCPUs' IPIs to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// Those to isolated vCPUs.
    Isolated,
    /// All.
    All,
    /// Those to one vCPU.
    One(usize),
}

/// What of a result attribution needs; a result's JSON is one too.
#[derive(Clone, Debug, Deserialize)]
pub struct Account {
    /// Version of the JSON's layout.
    pub schema_version: u32,
    scenario: Scenario,
    vcpus: Vec<Vcpu>,
    blame: Vec<Blame>,
}

#[derive(Clone, Debug, Deserialize)]
struct Scenario {
    name: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Vcpu {
    id: usize,
    role: String,
}

/// IPIs with one cause, kind, sender and chain of functions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Origin {
    /// With who asked for it.
    cause: String,
    deferrable: Deferrable,
    kind: String,
    source: usize,
    /// Innermost first.
    calls: Vec<String>,
    broken: Option<String>,
}

impl From<&RunResult> for Account {
    fn from(result: &RunResult) -> Self {
        let vcpus = result.vcpus.iter();
        Self {
            schema_version: SCHEMA_VERSION,
            scenario: Scenario {
                name: result.scenario.name.clone(),
            },
            vcpus: vcpus
                .map(|vcpu| Vcpu {
                    id: vcpu.id,
                    role: vcpu.role.to_owned(),
                })
                .collect(),
            blame: result.blame.iter().map(Into::into).collect(),
        }
    }
}

impl Account {
    /// Whether `cpu` is one that `to` means.
    fn is_meant(&self, to: To, cpu: usize) -> bool {
        match to {
            To::All => true,
            To::One(one) => one == cpu,
            To::Isolated => {
                let isolated = |vcpu: &Vcpu| vcpu.id == cpu && vcpu.role == "isolated";
                self.vcpus.iter().any(isolated)
            }
        }
    }

    /// The origins of IPIs to those vCPUs, by how many they sent, most first. `causes`: leave out what
    /// interrupts interrupted.
    fn origins(&self, to: To, causes: Option<&Causes>) -> Vec<(Origin, u64)> {
        let mut sends: BTreeMap<Origin, u64> = BTreeMap::new();
        for blame in &self.blame {
            let counts = blame.targets.iter();
            let count: u64 = counts
                .filter(|(cpu, _)| self.is_meant(to, **cpu))
                .map(|(_, count)| count)
                .sum();
            if count > 0 {
                let origin = Origin {
                    cause: reason(&blame.cause, blame.by.as_deref()),
                    deferrable: blame.deferrable,
                    kind: blame.kind.clone(),
                    source: blame.source,
                    calls: calls(&blame.chain, causes),
                    broken: blame.broken.clone(),
                };
                let sum = sends.entry(origin).or_default();
                *sum = sum.saturating_add(count);
            }
        }
        let mut sends: Vec<(Origin, u64)> = sends.into_iter().collect();
        sends.sort_by_key(|(_, count)| Reverse(*count));
        sends
    }

    /// The lines that a run's report has about its isolated vCPUs; empty if they got no IPI.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let causes = Causes::built_in().ok();
        let origins = self.origins(To::Isolated, causes.as_ref());
        let mut lines: Vec<String> = origins
            .iter()
            .take(SHOWN)
            .map(|(origin, count)| {
                format!(
                    "{count} x {} from vCPU {}: {}; {}, {}",
                    origin.kind,
                    origin.source,
                    origin.shown(causes.as_ref()),
                    origin.cause,
                    origin.deferrable
                )
            })
            .collect();
        if let Some(more) = origins.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            let count: u64 = origins.iter().skip(SHOWN).map(|(_, count)| count).sum();
            lines.push(format!(
                "{count} more by {more} other chains: `ipirig blame {}` shows them",
                self.scenario.name
            ));
        }
        lines
    }

    /// All causes of IPIs to those vCPUs, and under each its chains; ends with a newline.
    #[must_use]
    pub fn table(&self, to: To, paint: Paint) -> String {
        let causes = Causes::built_in().ok();
        let origins = self.origins(to, causes.as_ref());
        let whom = match to {
            To::Isolated => "isolated vCPUs".to_owned(),
            To::All => "vCPUs".to_owned(),
            To::One(cpu) => format!("vCPU {cpu}"),
        };
        let name = paint.bold(&self.scenario.name);
        if origins.is_empty() {
            return format!("{name}: no IPI to {whom} was accounted for\n");
        }
        let mut groups: BTreeMap<(&str, Deferrable), Vec<&(Origin, u64)>> = BTreeMap::new();
        for entry in &origins {
            let (origin, _) = entry;
            groups
                .entry((&origin.cause, origin.deferrable))
                .or_default()
                .push(entry);
        }
        let sum = |group: &[&(Origin, u64)]| group.iter().map(|(_, count)| count).sum::<u64>();
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(_, group)| Reverse(sum(group)));
        let total: u64 = origins.iter().map(|(_, count)| count).sum();
        let mut out = format!("{name}: {total} IPIs to {whom}, by cause\n");
        for ((cause, deferrable), group) in groups {
            let head = format!("{:>7}  {cause}, {deferrable}", sum(&group));
            let _ = write!(out, "\n{}\n", paint.bold(head));
            for (origin, count) in group {
                let Origin { kind, source, .. } = origin;
                let calls = origin.shown(causes.as_ref());
                let _ = writeln!(out, "{count:>7}    {kind} from vCPU {source}: {calls}");
            }
        }
        out
    }

    /// The chains of IPIs to those vCPUs as a folded-stack file has them: a line each, outermost
    /// function first, then how many.
    #[must_use]
    pub fn folded(&self, to: To) -> String {
        let mut lines: BTreeMap<String, u64> = BTreeMap::new();
        for (origin, count) in self.origins(to, None) {
            let mut calls: Vec<String> =
                origin.calls.iter().rev().map(|call| folded(call)).collect();
            if calls.is_empty() {
                calls.push("[unknown]".to_owned());
            }
            *lines.entry(calls.join(";")).or_default() += count;
        }
        let mut out = String::new();
        for (calls, count) in lines {
            let _ = writeln!(out, "{calls} {count}");
        }
        out
    }
}

impl Origin {
    /// The calls, innermost first, without those that only send or only enter the kernel.
    fn shown(&self, causes: Option<&Causes>) -> String {
        let is = |what: fn(&Causes, &str) -> bool| {
            move |call: &&String| causes.is_some_and(|causes| what(causes, symbol(call)))
        };
        let sends = self.calls.iter().take_while(is(Causes::is_plumbing));
        let sends = sends.count();
        let enters = self.calls.iter().rev().take_while(is(Causes::is_entry));
        let end = self.calls.len() - enters.count();
        let calls = self.calls.get(sends..end).unwrap_or_default();
        // If nothing is left, all of it is better than nothing.
        let calls = if calls.is_empty() { &self.calls } else { calls };
        let mut text = match calls {
            [] => "?".to_owned(),
            calls => calls.join(" <- "),
        };
        if let Some(broken) = &self.broken {
            let _ = write!(text, " <- ? ({broken})");
        }
        text
    }
}

/// The functions of a chain, innermost first, inlined ones too; if there are `causes`, up to the
/// first interrupt.
fn calls(chain: &[Frame], causes: Option<&Causes>) -> Vec<String> {
    let mut calls = Vec::new();
    for frame in chain {
        calls.extend(frame.inlined.iter().cloned());
        let address = || format!("{:#x}", frame.address);
        let call = frame.function.clone().unwrap_or_else(address);
        let interrupt = causes.is_some_and(|causes| causes.is_interrupt(&call));
        calls.push(call);
        if interrupt {
            break;
        }
    }
    calls
}

/// A function's name without its module.
fn symbol(call: &str) -> &str {
    call.split_once(" [").map_or(call, |(symbol, _)| symbol)
}

/// A name as folded stacks can have it: they end at a semicolon, and the count comes after the last
/// space.
fn folded(call: &str) -> String {
    call.replace([' ', ';', '\n'], "_")
}

#[cfg(test)]
mod tests;
