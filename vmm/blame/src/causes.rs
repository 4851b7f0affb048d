//! From the functions of a chain to a named cause. The table is data: `causes.toml`.

use std::collections::BTreeSet;

use serde::Deserialize;
use thiserror::Error;

const BUILT_IN: &str = include_str!("causes.toml");
/// Stands for a chain that no rule knows.
pub const UNKNOWN: &str = "unknown";

/// Whether the kernel could defer an IPI to a CPU that is in user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deferrable {
    /// Yes: what it asks for can be done at the next kernel entry.
    Yes,
    /// No: it must arrive.
    No,
    /// A CPU in user space need not do anything at all, then or later.
    Omit,
    /// The cause is not known, or nobody has argued it.
    Unknown,
}

/// Why an IPI was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it could have been deferred.
    pub deferrable: Deferrable,
    /// The function that asked for it, where the name says only what was asked for: who queued the work, or who
    /// was to be woken by whom.
    pub by: Option<&'a str>,
}

/// Why a timer interrupt came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimerCause<'a> {
    /// Its name.
    pub name: &'a str,
    /// The function that the timer calls, or that of the delayed work it queues, where the name does not
    /// stand for it.
    pub by: Option<&'a str>,
}

/// Why a table of causes cannot be used.
#[derive(Debug, Error)]
pub enum CausesError {
    /// It is no table of causes.
    #[error("the table of causes is damaged")]
    Syntax(#[from] toml::de::Error),
    /// A rule says nothing, or contradicts another one.
    #[error("the table of causes is wrong: {0}")]
    Rule(String),
}

/// The table of causes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Causes {
    plumbing: BTreeSet<String>,
    entry: BTreeSet<String>,
    interrupts: BTreeSet<String>,
    cause: Vec<Rule>,
    #[serde(default)]
    timer: Vec<TimerRule>,
}

/// What the functions of timers, and of delayed work, stand for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TimerRule {
    name: String,
    /// The timer calls one of these, or queues work that does. Empty in the last rule, which takes what is left.
    at: BTreeSet<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    name: String,
    deferrable: Deferrable,
    /// One of these is on the chain.
    at: BTreeSet<String>,
    /// And, if there are any, one of these, further out.
    #[serde(default)]
    under: BTreeSet<String>,
    /// The kernel may have left what is in `at` by a jump. Then the innermost function that is no plumbing
    /// is one of `under`.
    #[serde(default)]
    left: bool,
    /// These only carry out what a function further out asked for, as those in `at` do: that function is told.
    through: Option<BTreeSet<String>>,
}

impl Causes {
    /// The table that comes with this crate.
    ///
    /// # Errors
    /// Never, as a test shows.
    pub fn built_in() -> Result<Self, CausesError> {
        Self::parse(BUILT_IN)
    }

    /// The names of the causes of IPIs and of timer interrupts, in the order of the table. A name that several
    /// rules have comes as often.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let timers = self.timer.iter().map(|rule| rule.name.as_str());
        self.cause
            .iter()
            .map(|rule| rule.name.as_str())
            .chain(timers)
    }

    /// Parses a table.
    ///
    /// # Errors
    /// When it is no such table, a rule has no function, or one name is deferrable in one rule and
    /// not in another.
    pub fn parse(text: &str) -> Result<Self, CausesError> {
        let causes: Self = toml::from_str(text)?;
        let wrong =
            |rule: &Rule, what: &str| Err(CausesError::Rule(format!("`{}` {what}", rule.name)));
        for (index, rule) in causes.cause.iter().enumerate() {
            if rule.at.is_empty() {
                return wrong(rule, "has no function");
            }
            if rule.name.is_empty() || rule.name == UNKNOWN {
                return wrong(rule, "is no name of a cause");
            }
            if rule.left && rule.under.is_empty() {
                return wrong(rule, "has nothing under what may have been left");
            }
            let names = rule.at.iter().chain(&rule.under);
            let names = names.chain(rule.through.iter().flatten());
            if let Some(name) = names.into_iter().find(|name| base_name(name) != *name) {
                return wrong(
                    rule,
                    &format!("names {name}, which has a compiler's suffix"),
                );
            }
            let earlier = causes.cause.get(..index).unwrap_or_default();
            for other in earlier {
                if other.name == rule.name && other.deferrable != rule.deferrable {
                    return wrong(rule, "is deferrable in one rule and not in another");
                }
                // The first rule that fits counts: what it takes in leaves nothing for a later one.
                if other.under.is_empty() && rule.at.is_subset(&other.at) {
                    return wrong(rule, &format!("is never reached, after `{}`", other.name));
                }
            }
        }
        causes.check_timers()?;
        Ok(causes)
    }

    fn check_timers(&self) -> Result<(), CausesError> {
        let mut seen = BTreeSet::new();
        let last = self.timer.len().saturating_sub(1);
        for (index, rule) in self.timer.iter().enumerate() {
            let wrong =
                |what: &str| Err(CausesError::Rule(format!("timer `{}` {what}", rule.name)));
            if rule.name.is_empty() || rule.name == UNKNOWN {
                return wrong("is no name of a cause");
            }
            if rule.at.is_empty() != (index == last) {
                return wrong("has no function, and is not the last, or is the last and has one");
            }
            for name in &rule.at {
                if base_name(name) != name {
                    return wrong(&format!("names {name}, which has a compiler's suffix"));
                }
                if !seen.insert(name) {
                    return wrong(&format!("names {name}, as one before it does"));
                }
            }
        }
        Ok(())
    }

    /// The cause of an IPI whose chain has these functions, innermost first. The first rule that fits
    /// counts. What an interrupt's handler sends has its cause there, not in what was interrupted.
    pub fn of<'f>(&'f self, functions: impl IntoIterator<Item = &'f str>) -> Cause<'f> {
        let functions = functions.into_iter().map(base_name);
        let functions: Vec<&str> = functions
            .take_while(|function| !self.is_interrupt(function))
            .collect();
        let is_sender = |function: &&str| !self.plumbing.contains(*function);
        let sender = functions.iter().position(is_sender);
        let mut rules = self.cause.iter();
        let found = rules.find_map(|rule| Some((rule, rule.fits(&functions, sender)?)));
        found.map_or(
            Cause {
                name: UNKNOWN,
                deferrable: Deferrable::Unknown,
                by: None,
            },
            |(rule, place)| Cause {
                name: &rule.name,
                deferrable: rule.deferrable,
                by: self.asker(rule, functions.get(place..).unwrap_or_default()),
            },
        )
    }

    /// The innermost of `functions` that does not just carry out what `rule` stands for.
    fn asker<'f>(&self, rule: &Rule, functions: &[&'f str]) -> Option<&'f str> {
        let through = rule.through.as_ref()?;
        let carries = |function: &str| {
            let of_rule = rule.at.contains(function) || through.contains(function);
            of_rule || self.plumbing.contains(function)
        };
        let asker = functions.iter().find(|function| !carries(function))?;
        (!self.is_entry(asker)).then_some(asker)
    }

    /// The cause of a timer interrupt whose timer calls `function`, and queues delayed work that calls `work`,
    /// if it does. A rule for the work comes before one for the timer.
    pub fn of_timer<'f>(&'f self, function: &'f str, work: Option<&'f str>) -> TimerCause<'f> {
        let [function, work] = [Some(function), work].map(|name| name.map(base_name));
        let rule = |name: &str| self.timer.iter().find(|rule| rule.at.contains(name));
        if let Some(rule) = work.and_then(rule) {
            return TimerCause {
                name: &rule.name,
                by: None,
            };
        }
        let rule = function.and_then(rule).or(self.timer.last());
        TimerCause {
            name: rule.map_or(UNKNOWN, |rule| &rule.name),
            by: work.or(function.filter(|_| rule.is_none_or(|rule| rule.at.is_empty()))),
        }
    }

    /// Whether `function` only carries out the sending, and says nothing of the reason.
    #[must_use]
    pub fn is_plumbing(&self, function: &str) -> bool {
        self.plumbing.contains(base_name(function))
    }

    /// Whether the kernel is entered by `function` for an interrupt that has nothing to do with what it
    /// interrupts.
    #[must_use]
    pub fn is_interrupt(&self, function: &str) -> bool {
        let mut begins = self.interrupts.iter();
        begins.any(|begin| function.starts_with(begin.as_str()))
    }

    /// Whether `function` only brings a CPU from user space to the system call or exception.
    #[must_use]
    pub fn is_entry(&self, function: &str) -> bool {
        self.entry.contains(base_name(function))
    }
}

impl Rule {
    /// Where it fits a chain of `functions`, of which that at `sender` is the innermost that is no plumbing.
    fn fits(&self, functions: &[&str], sender: Option<usize>) -> Option<usize> {
        let under = |place: &usize| {
            let function = functions.get(*place);
            function.is_some_and(|function| self.under.contains(*function))
        };
        if self.left && sender.as_ref().is_some_and(under) {
            return sender;
        }
        let at = |function: &&str| self.at.contains(*function);
        let place = functions.iter().position(at)?;
        let mut outer = functions.iter().skip(place + 1);
        let fits = self.under.is_empty() || outer.any(|function| self.under.contains(*function));
        fits.then_some(place)
    }
}

/// A function's name without what compilers add to the name of a part or a variant of it, such as
/// `.isra.0` or `.cold`.
#[must_use]
pub fn base_name(function: &str) -> &str {
    let end = function.find('.').filter(|end| *end > 0);
    end.and_then(|end| function.get(..end)).unwrap_or(function)
}

#[cfg(test)]
mod tests;
