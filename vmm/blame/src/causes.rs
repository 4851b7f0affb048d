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
}

impl Causes {
    /// The table that comes with this crate.
    ///
    /// # Errors
    /// Never, as a test shows.
    pub fn built_in() -> Result<Self, CausesError> {
        Self::parse(BUILT_IN)
    }

    /// The names of the causes, in the order of the table. A name that several rules have comes as often.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.cause.iter().map(|rule| rule.name.as_str())
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
        Ok(causes)
    }

    /// The cause of an IPI whose chain has these functions, innermost first. The first rule that fits
    /// counts. What an interrupt's handler sends has its cause there, not in what was interrupted.
    pub fn of<'f>(&self, functions: impl IntoIterator<Item = &'f str>) -> Cause<'_> {
        let functions = functions.into_iter().map(base_name);
        let functions: Vec<&str> = functions
            .take_while(|function| !self.is_interrupt(function))
            .collect();
        let sender = functions
            .iter()
            .find(|function| !self.plumbing.contains(**function));
        let mut rules = self.cause.iter();
        let found = rules.find(|rule| rule.fits(&functions, sender.copied()));
        found.map_or(
            Cause {
                name: UNKNOWN,
                deferrable: Deferrable::Unknown,
            },
            |rule| Cause {
                name: &rule.name,
                deferrable: rule.deferrable,
            },
        )
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
    /// Whether it fits a chain of `functions`, of which `sender` is the innermost that is no plumbing.
    fn fits(&self, functions: &[&str], sender: Option<&str>) -> bool {
        if self.left && sender.is_some_and(|function| self.under.contains(function)) {
            return true;
        }
        let at = |function: &&str| self.at.contains(*function);
        let Some(place) = functions.iter().position(at) else {
            return false;
        };
        let mut outer = functions.iter().skip(place + 1);
        self.under.is_empty() || outer.any(|function| self.under.contains(*function))
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
