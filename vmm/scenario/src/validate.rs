//! From the text of a scenario to a [`Scenario`]: every error points at its place.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

use ipirig_abi::{Flavour, MAX_CPUS, Role};
use ipirig_blame::Causes;
use toml::Spanned;

use super::raw::{RawExpect, RawScenario, RawStorm, RawVcpus};
use super::{
    Diagnostic, EntryKind, Expectations, IsolatedIpis, Kind, Mode, Partition, Scenario, Storm,
    Vcpus,
};
use crate::keys::{
    ADDRESS_SPACES, ENTER_BEFORE, FURTHER, HOUSEKEEPING, MODES, NAME_MAX, OPERATIONS, PARTITIONS,
    SUMMARY_MAX,
};
use crate::suggest;

/// Whether a scenario or a group may be called so.
pub fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(plain)
}

pub(super) fn parse(file: &str, text: &str) -> Result<Scenario, Diagnostic> {
    let place = SourceText { file, text };
    let raw: RawScenario = toml::from_str(text).map_err(|error| place.syntax(&error))?;
    let scenario = Scenario {
        name: place.name(&raw.name)?,
        group: place.name(&raw.group)?,
        summary: place.summary(&raw.summary)?,
        kernel: place
            .one_of(
                "kernel",
                raw.kernel.as_ref(),
                &Flavour::ALL.map(|flavour| (flavour.name(), flavour)),
            )?
            .unwrap_or_default(),
        vcpus: place.vcpus(&raw.vcpus)?,
        storm: place.storm(&raw.storm)?,
        entries: place.entries(raw.entries.as_ref())?,
        enter_before: place.enter_before(raw.enter_before.as_ref())?,
        expect: place.expect(&raw.expect)?,
    };
    place.enters_from_user(raw.enter_before.as_ref(), &scenario)?;
    place.address_spaces(&raw.vcpus, &scenario)?;
    place.partition(&raw.vcpus, &scenario)?;
    Ok(scenario)
}

/// The file being read, for errors.
struct SourceText<'a> {
    file: &'a str,
    text: &'a str,
}

impl SourceText<'_> {
    fn at(&self, span: Range<usize>, message: impl Into<String>) -> Diagnostic {
        Diagnostic::at(self.file, self.text, span, message)
    }

    fn syntax(&self, error: &toml::de::Error) -> Diagnostic {
        let span = error.span().unwrap_or(0..0);
        let message = error.message();
        // serde's wording: unknown field `x`, expected one of `a`, `b`. Everything after the
        // first name is a candidate; if the wording changes, only the suggestion is lost.
        let mut quoted = message.split('`').skip(1).step_by(2);
        if let (true, Some(given)) = (message.starts_with("unknown field"), quoted.next()) {
            let allowed: Vec<&str> = quoted.collect();
            let mut help = format!("allowed here: {}", allowed.join(", "));
            if let Some(meant) = suggest::closest(given, allowed.iter().copied()) {
                help = format!("did you mean `{meant}`? {help}");
            }
            return self.at(span, format!("unknown key `{given}`")).help(help);
        }
        self.at(span, message.trim_end().replace('\n', "; "))
    }

    fn name(&self, name: &Spanned<String>) -> Result<String, Diagnostic> {
        let text = name.get_ref();
        if is_name(text) {
            return Ok(text.clone());
        }
        Err(self.at(name.span(), "not a name").help(format!(
            "1 to {NAME_MAX} of lower-case letters, digits and `-`, as in `static-key-flip`"
        )))
    }

    fn summary(&self, summary: &Spanned<String>) -> Result<String, Diagnostic> {
        let text = summary.get_ref();
        let one_line = !text.trim().is_empty() && !text.chars().any(char::is_control);
        if one_line && text.chars().count() <= SUMMARY_MAX {
            return Ok(text.clone());
        }
        Err(self
            .at(summary.span(), "not a summary")
            .help(format!("one line of at most {SUMMARY_MAX} characters")))
    }

    fn number(
        &self,
        what: &str,
        value: &Spanned<u64>,
        range: RangeInclusive<u64>,
    ) -> Result<u64, Diagnostic> {
        let number = *value.get_ref();
        if range.contains(&number) {
            return Ok(number);
        }
        let (low, high) = range.into_inner();
        Err(self
            .at(value.span(), format!("{what} = {number} is out of range"))
            .help(format!("{low} to {high}")))
    }

    fn vcpus(&self, raw: &RawVcpus) -> Result<Vcpus, Diagnostic> {
        let most = MAX_CPUS as u64 - 1;
        let count = |what, value: &Option<Spanned<u64>>, low| match value {
            // In range, so it fits.
            Some(value) => self.number(what, value, low..=most).map(|n| n as usize),
            None => Ok(1),
        };
        let housekeeping = count("housekeeping", &raw.housekeeping, 0)?;
        let isolated = count("isolated", &raw.isolated, 1)?;
        if let Some(value) = &raw.isolated
            && 1 + housekeeping + isolated > MAX_CPUS
        {
            let message = format!("{} vCPUs are too many", 1 + housekeeping + isolated);
            return Err(self.at(value.span(), message).help(format!(
                "control (1), housekeeping and isolated together: at most {MAX_CPUS}"
            )));
        }
        Ok(Vcpus {
            housekeeping,
            isolated,
            further: self
                .one_of("role", raw.further.as_ref(), &FURTHER)?
                .unwrap_or(Role::Housekeeping),
            isolated_in: self
                .one_of("mode", raw.isolated_in.as_ref(), &MODES)?
                .unwrap_or_default(),
            isolated_by: self
                .one_of("partition", raw.isolated_by.as_ref(), &PARTITIONS)?
                .unwrap_or_default(),
            housekeeping_in_user: self
                .one_of("mode", raw.housekeeping_in.as_ref(), &HOUSEKEEPING)?
                .unwrap_or_default(),
            address_spaces: match &raw.address_spaces {
                Some(value) => self.number("address_spaces", value, ADDRESS_SPACES)?,
                None => 0,
            },
        })
    }

    /// A partition is of CPUs that are up and have a task to be in it.
    fn partition(&self, raw: &RawVcpus, scenario: &Scenario) -> Result<(), Diagnostic> {
        match &raw.isolated_by {
            Some(value)
                if scenario.vcpus.isolated_by == Partition::Cpuset
                    && !scenario.vcpus.isolated_in.has_task() =>
            {
                Err(self
                    .at(value.span(), "a vCPU without a task is in no cpuset")
                    .help("leave out `isolated_in`, or this line"))
            }
            _ => Ok(()),
        }
    }

    /// A vCPU goes through address spaces in a system call that comes from user space.
    fn address_spaces(&self, raw: &RawVcpus, scenario: &Scenario) -> Result<(), Diagnostic> {
        let Some(value) = &raw.address_spaces else {
            return Ok(());
        };
        let wrong = |message: &str| self.at(value.span(), message);
        if scenario.entries != [EntryKind::Syscall] {
            return Err(wrong("address spaces are gone through in a system call")
                .help("leave out `entries`, or this line"));
        }
        if scenario.vcpus.isolated_in != Mode::User {
            return Err(wrong("a vCPU that stays in the kernel has no entry")
                .help("leave out `isolated_in`, or this line"));
        }
        if !scenario.storm.needs_module() {
            return Err(
                wrong("address spaces need the module, and the storm does not")
                    .help("another kind of storm, such as `vunmap`"),
            );
        }
        Ok(())
    }

    fn storm(&self, raw: &Spanned<RawStorm>) -> Result<Storm, Diagnostic> {
        let storm = raw.get_ref();
        let name = &storm.kind;
        let Some(kind) = Kind::find(name.get_ref()) else {
            let names: Vec<&str> = Kind::all().map(|kind| kind.name).collect();
            return Err(self.choice("kind of storm", name, &names));
        };
        let operations = self.number("operations", &storm.operations, OPERATIONS)?;
        if kind.odd() && operations % 2 == 0 {
            let message = format!("operations = {operations} is even");
            return Err(self.at(storm.operations.span(), message).help(
                "an odd number of flips: after an even one the branch is where it was, and whether \
                 an isolated vCPU caught up could not be seen",
            ));
        }
        let size = match (kind.sizes(), &storm.size) {
            (None, None) => 0,
            (Some(range), Some(size)) => self.number("size", size, range)?,
            (None, Some(size)) => {
                let message = format!("`size` means nothing to kind `{}`", kind.name);
                return Err(self.at(size.span(), message).help("remove the line"));
            }
            (Some(range), None) => {
                let message = format!("a storm of kind `{}` needs `size`", kind.name);
                let help = format!("add a line such as `size = {}`", range.start());
                return Err(self.at(name.span(), message).help(help));
            }
        };
        Ok(Storm {
            kind,
            operations,
            size,
        })
    }

    /// A system call, if the file does not say.
    fn entries(
        &self,
        raw: Option<&Spanned<Vec<Spanned<String>>>>,
    ) -> Result<Vec<EntryKind>, Diagnostic> {
        let Some(raw) = raw else {
            return Ok(vec![EntryKind::Syscall]);
        };
        if raw.get_ref().is_empty() {
            return Err(self
                .at(raw.span(), "no entry kind")
                .help("at least one, or no such line for `syscall`"));
        }
        let mut entries = Vec::new();
        for name in raw.get_ref() {
            let Some(kind) = EntryKind::find(name.get_ref()) else {
                let allowed = EntryKind::ALL.map(EntryKind::name);
                return Err(self.choice("entry kind", name, &allowed));
            };
            if entries.contains(&kind) {
                let message = format!("`{}` is listed twice", kind.name());
                return Err(self.at(name.span(), message).help("remove one"));
            }
            entries.push(kind);
        }
        Ok(entries)
    }

    fn enter_before(
        &self,
        raw: Option<&Spanned<Vec<Spanned<u64>>>>,
    ) -> Result<Vec<u64>, Diagnostic> {
        let all = raw.map(|raw| raw.get_ref().as_slice()).unwrap_or_default();
        all.iter()
            .map(|nth| self.number("enter_before", nth, ENTER_BEFORE))
            .collect()
    }

    /// Who enters the kernel in mid-operation comes from user space, and stays by means of the module.
    fn enters_from_user(
        &self,
        raw: Option<&Spanned<Vec<Spanned<u64>>>>,
        scenario: &Scenario,
    ) -> Result<(), Diagnostic> {
        let Some(raw) = raw.filter(|raw| !raw.get_ref().is_empty()) else {
            return Ok(());
        };
        let wrong = |message: &str| self.at(raw.span(), message);
        if scenario.vcpus.isolated_in != Mode::User {
            return Err(wrong("a vCPU enters the kernel from user space")
                .help("leave out `isolated_in`, or this line"));
        }
        if scenario.entries != [EntryKind::Syscall] {
            return Err(
                wrong("a vCPU that is in the kernel has no entry afterwards")
                    .help("leave out `entries`, or this line"),
            );
        }
        if !scenario.storm.needs_module() {
            return Err(
                wrong("to stay in the kernel needs the module, and the storm does not")
                    .help("another kind of storm, such as `text-and-tlb`"),
            );
        }
        Ok(())
    }

    /// The value that `given` names, if it is given.
    fn one_of<T: Copy, const N: usize>(
        &self,
        what: &str,
        given: Option<&Spanned<String>>,
        all: &[(&str, T); N],
    ) -> Result<Option<T>, Diagnostic> {
        let Some(given) = given else {
            return Ok(None);
        };
        match all.iter().find(|(name, _)| name == given.get_ref()) {
            Some((_, value)) => Ok(Some(*value)),
            None => Err(self.choice(what, given, &all.map(|(name, _)| name))),
        }
    }

    fn choice(&self, what: &str, given: &Spanned<String>, allowed: &[&str]) -> Diagnostic {
        let mut help = format!("allowed: {}", allowed.join(", "));
        if let Some(meant) = suggest::closest(given.get_ref(), allowed.iter().copied()) {
            help = format!("did you mean `{meant}`? {help}");
        }
        self.at(given.span(), format!("no {what} `{}`", given.get_ref()))
            .help(help)
    }

    fn by_cause(
        &self,
        raw: &BTreeMap<Spanned<String>, Spanned<u64>>,
    ) -> Result<BTreeMap<String, u64>, Diagnostic> {
        let Ok(causes) = Causes::built_in() else {
            return Ok(BTreeMap::new());
        };
        let mut least = BTreeMap::new();
        for (name, count) in raw {
            if !causes.names().any(|known| known == name.get_ref()) {
                let names: Vec<&str> = causes.names().collect();
                return Err(self.choice("cause", name, &names));
            }
            let count = self.number("by_cause", count, OPERATIONS)?;
            least.insert(name.get_ref().clone(), count);
        }
        Ok(least)
    }

    fn expect(&self, raw: &RawExpect) -> Result<Expectations, Diagnostic> {
        if let (Some(_), Some(min)) = (&raw.isolated_ipis_max, &raw.isolated_ipis_min) {
            let message = "isolated_ipis_max and isolated_ipis_min exclude each other";
            return Err(self.at(min.span(), message).help(
                "with a minimum IPIs must be delivered, with a maximum they must not; keep one",
            ));
        }
        let isolated = match (&raw.isolated_ipis_max, &raw.isolated_ipis_min) {
            // Zero would be a delivery that nobody needs.
            (_, Some(min)) => {
                IsolatedIpis::AtLeast(self.number("isolated_ipis_min", min, OPERATIONS)?)
            }
            (Some(max), None) => IsolatedIpis::AtMost(*max.get_ref()),
            (None, None) => IsolatedIpis::AtMost(0),
        };
        let housekeeping_ipis_min = match &raw.housekeeping_ipis_min {
            None => 1,
            // Zero would be a witness who saw nothing.
            Some(value) => self.number("housekeeping_ipis_min", value, OPERATIONS)?,
        };
        let by_cause = self.by_cause(&raw.by_cause)?;
        Ok(Expectations {
            isolated,
            housekeeping_ipis_min,
            by_cause,
            handlers: raw.handlers.unwrap_or_default(),
        })
    }
}
