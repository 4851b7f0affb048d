//! From the text of a scenario to a [`Scenario`]: every error points at its place.

use std::ops::{Range, RangeInclusive};

use ipirig_abi::{MAX_CPUS, Role};
use toml::Spanned;

use super::raw::{RawExpect, RawScenario, RawStorm, RawVcpus};
use super::{Diagnostic, EntryKind, Expectations, Scenario, Storm, Vcpus};
use crate::suggest;

/// Operations of one storm. The upper end keeps a window within minutes on a slow host.
const OPERATIONS: RangeInclusive<u64> = 1..=1_000_000;
/// Pages of one vmalloc area, as the agent accepts them.
const PAGES: RangeInclusive<u64> = 1..=4096;
/// Length of a name or group.
const NAME_MAX: usize = 40;
/// Length of a summary: a line of `ipirig list`.
const SUMMARY_MAX: usize = 120;

const KINDS: [&str; 3] = ["static-key-flip", "vunmap", "text-and-tlb"];
const FURTHER: [(&str, Role); 2] = [
    ("housekeeping", Role::Housekeeping),
    ("isolated", Role::Isolated),
];

pub(super) fn parse(file: &str, text: &str) -> Result<Scenario, Diagnostic> {
    let place = Place { file, text };
    let raw: RawScenario = toml::from_str(text).map_err(|error| place.syntax(&error))?;
    Ok(Scenario {
        name: place.name(&raw.name)?,
        group: place.name(&raw.group)?,
        summary: place.summary(&raw.summary)?,
        vcpus: place.vcpus(&raw.vcpus)?,
        storm: place.storm(&raw.storm)?,
        entries: place.entries(raw.entries.as_ref())?,
        expect: place.expect(&raw.expect)?,
    })
}

/// The file being read, for errors.
struct Place<'a> {
    file: &'a str,
    text: &'a str,
}

impl Place<'_> {
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
        let fits = !text.is_empty()
            && text.len() <= NAME_MAX
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits {
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
        let further = match &raw.further {
            None => Role::Housekeeping,
            Some(given) => match FURTHER.iter().find(|(name, _)| name == given.get_ref()) {
                Some((_, role)) => *role,
                None => return Err(self.choice("role", given, &FURTHER.map(|(name, _)| name))),
            },
        };
        Ok(Vcpus {
            housekeeping,
            isolated,
            further,
        })
    }

    fn storm(&self, raw: &Spanned<RawStorm>) -> Result<Storm, Diagnostic> {
        let storm = raw.get_ref();
        let kind = &storm.kind;
        match kind.get_ref().as_str() {
            "static-key-flip" => {
                self.only(kind, &[("rounds", &storm.rounds), ("pages", &storm.pages)])?;
                let flips = self.flips(kind, storm)?;
                Ok(Storm::StaticKeyFlip { flips })
            }
            "vunmap" => {
                self.only(kind, &[("flips", &storm.flips)])?;
                let (rounds, pages) = self.rounds(kind, storm)?;
                Ok(Storm::Vunmap { rounds, pages })
            }
            "text-and-tlb" => {
                let flips = self.flips(kind, storm)?;
                let (rounds, pages) = self.rounds(kind, storm)?;
                Ok(Storm::TextAndTlb {
                    flips,
                    rounds,
                    pages,
                })
            }
            _ => Err(self.choice("kind of storm", kind, &KINDS)),
        }
    }

    fn flips(&self, kind: &Spanned<String>, storm: &RawStorm) -> Result<u64, Diagnostic> {
        let value = self.required(kind, "flips", &storm.flips)?;
        let flips = self.number("flips", value, OPERATIONS)?;
        if flips % 2 == 0 {
            let message = format!("flips = {flips} is even");
            return Err(self.at(value.span(), message).help(
                "an odd number: after an even one the branch is where it was, and whether an \
                 isolated vCPU caught up could not be seen",
            ));
        }
        Ok(flips)
    }

    fn rounds(&self, kind: &Spanned<String>, storm: &RawStorm) -> Result<(u64, u64), Diagnostic> {
        let rounds = self.required(kind, "rounds", &storm.rounds)?;
        let pages = self.required(kind, "pages", &storm.pages)?;
        Ok((
            self.number("rounds", rounds, OPERATIONS)?,
            self.number("pages", pages, PAGES)?,
        ))
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
                .at(raw.span(), "no way into the kernel")
                .help("at least one, or no such line for `syscall`"));
        }
        let mut entries = Vec::new();
        for name in raw.get_ref() {
            let Some(kind) = EntryKind::find(name.get_ref()) else {
                let allowed = EntryKind::ALL.map(EntryKind::name);
                return Err(self.choice("way into the kernel", name, &allowed));
            };
            if entries.contains(&kind) {
                let message = format!("`{}` is listed twice", kind.name());
                return Err(self.at(name.span(), message).help("remove one"));
            }
            entries.push(kind);
        }
        Ok(entries)
    }

    fn required<'r>(
        &self,
        kind: &Spanned<String>,
        key: &str,
        value: &'r Option<Spanned<u64>>,
    ) -> Result<&'r Spanned<u64>, Diagnostic> {
        value.as_ref().ok_or_else(|| {
            self.at(
                kind.span(),
                format!("a storm of kind `{}` needs `{key}`", kind.get_ref()),
            )
            .help(format!("add a line such as `{key} = 101`"))
        })
    }

    /// Refuses the sizes that belong to other kinds.
    fn only(
        &self,
        kind: &Spanned<String>,
        foreign: &[(&str, &Option<Spanned<u64>>)],
    ) -> Result<(), Diagnostic> {
        for (key, value) in foreign {
            if let Some(value) = value {
                let message = format!("`{key}` means nothing to kind `{}`", kind.get_ref());
                return Err(self.at(value.span(), message).help("remove the line"));
            }
        }
        Ok(())
    }

    fn choice(&self, what: &str, given: &Spanned<String>, allowed: &[&str]) -> Diagnostic {
        let mut help = format!("allowed: {}", allowed.join(", "));
        if let Some(meant) = suggest::closest(given.get_ref(), allowed.iter().copied()) {
            help = format!("did you mean `{meant}`? {help}");
        }
        self.at(given.span(), format!("no {what} `{}`", given.get_ref()))
            .help(help)
    }

    fn expect(&self, raw: &RawExpect) -> Result<Expectations, Diagnostic> {
        let isolated_ipis_max = raw
            .isolated_ipis_max
            .as_ref()
            .map_or(0, |value| *value.get_ref());
        let housekeeping_ipis_min = match &raw.housekeeping_ipis_min {
            None => 1,
            // Zero would be a witness who saw nothing.
            Some(value) => self.number("housekeeping_ipis_min", value, OPERATIONS)?,
        };
        Ok(Expectations {
            isolated_ipis_max,
            housekeeping_ipis_min,
        })
    }
}
