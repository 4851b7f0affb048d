//! How the guest's kernel is set up, as it says: whether CPUs are isolated as planned, and what was switched off so that
//! they are left alone.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// Most lines that are looked at, and most characters of one.
const LINES: usize = 256;
const LINE: usize = 400;
/// Above any CPU number that a list may have.
const CPUS: usize = 8192;

/// How a kernel is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct KernelSetup {
    /// CPUs without a tick while they run one task, as the kernel lists them; null without `CONFIG_NO_HZ_FULL`.
    pub nohz_full: Option<String>,
    /// CPUs without load balancing.
    pub isolated: Option<String>,
    /// CPUs that are up.
    pub online: Option<String>,
    /// CPUs that may come up.
    pub possible: Option<String>,
    /// CPUs that run in NO_HZ mode, without which no tick stops; null where the kernel does not say.
    pub tickless: Option<String>,
    /// What the kernel's log says about isolation.
    pub log: Vec<String>,
    /// How it is not set up as the run planned it, in words; with them, no isolated CPU may be left alone.
    pub differences: Vec<String>,
    /// What was switched off so that isolated CPUs are left alone.
    pub switched_off: Vec<SwitchedOff>,
}

/// Periodic work of the kernel that was switched off.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct SwitchedOff {
    /// A word of the kernel's command line, or what was written to which file.
    pub by: String,
    /// What comes where it is on.
    pub would: String,
    /// Why the kernel refused it, so that it comes all the same; null if it did not.
    pub refused: Option<String>,
}

/// Whether a kernel isolates CPUs as it was told to. What is said is a sentence, with the kernel's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// It does.
    AsPlanned,
    /// It cannot stop its tick.
    NoSuchThing(String),
    /// It does not stop its tick there.
    Ticks(String),
    /// CPUs of the plan are not up.
    Missing(String),
    /// It may put other tasks there.
    Balanced(String),
}

impl SwitchedOff {
    /// By a word of the command line.
    #[must_use]
    pub fn by_word(word: &str, would: &str) -> Self {
        Self {
            by: word.to_owned(),
            would: would.to_owned(),
            refused: None,
        }
    }
}

impl fmt::Display for SwitchedOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { by, would, refused } = self;
        match refused {
            None => write!(f, "{by}: else {would}"),
            Some(why) => write!(f, "{by}: refused ({why}), so {would}"),
        }
    }
}

impl KernelSetup {
    /// From what the agent says ([`ipirig_abi::KernelText::Setup`]). What makes no sense is left out; `None` if
    /// nothing does.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut setup = Self::default();
        for line in text.lines().take(LINES) {
            let shown = |c: &char| ipirig_terminal::text::is_shown(*c);
            let line: String = line.chars().filter(shown).take(LINE).collect();
            let words: Vec<&str> = line.split('\t').collect();
            let list = |list: &str| Some(list.to_owned());
            let switched_off =
                |file: &str, value: &str, would: &str, refused: Option<&str>| SwitchedOff {
                    by: format!("{value} in {file}"),
                    would: would.to_owned(),
                    refused: refused.map(str::to_owned),
                };
            match words[..] {
                ["nohz_full", cpus] => setup.nohz_full = list(cpus),
                ["isolated", cpus] => setup.isolated = list(cpus),
                ["online", cpus] => setup.online = list(cpus),
                ["possible", cpus] => setup.possible = list(cpus),
                ["tickless", cpus] => setup.tickless = list(cpus),
                ["log", said] => setup.log.push(without_prefix(said).to_owned()),
                ["set", file, value, would] => {
                    setup
                        .switched_off
                        .push(switched_off(file, value, would, None));
                }
                ["refused", file, value, would, why] => {
                    let refused = switched_off(file, value, would, Some(why));
                    setup.switched_off.push(refused);
                }
                _ => {}
            }
        }
        (setup != Self::default()).then_some(setup)
    }

    /// Whether the kernel has all of `vcpus` up and isolates `cpus` of them: from its tick, and from load balancing where
    /// it was told to (`balanced`).
    #[must_use]
    pub fn compare(&self, vcpus: usize, cpus: &[usize], balanced: bool) -> Isolation {
        let all: Vec<usize> = (0..vcpus).collect();
        if let Some(online) = self.online.as_ref().filter(|list| !has_all(list, &all)) {
            let possible = self.possible.as_deref().unwrap_or("not said");
            return Isolation::Missing(format!(
                "of {vcpus} vCPUs the kernel has `{online}` up (possible: `{possible}`){}",
                self.quoted()
            ));
        }
        let tick = "the kernel keeps its tick on isolated vCPUs";
        let should = format!("and {cpus:?} should be in it{}", self.quoted());
        match &self.nohz_full {
            None => {
                let what = format!("{tick}: it has no nohz_full (CONFIG_NO_HZ_FULL)");
                return Isolation::NoSuchThing(what);
            }
            Some(list) if !has_all(list, cpus) => {
                let what = format!("{tick}: its nohz_full is `{list}`, {should}");
                return Isolation::Ticks(what);
            }
            Some(_) => {}
        }
        if let Some(list) = self.tickless.as_ref().filter(|list| !has_all(list, cpus)) {
            return Isolation::Ticks(format!(
                "{tick}: only those of `{list}` are in NO_HZ mode (/proc/timer_list), {should}"
            ));
        }
        let list = self.isolated.as_deref().unwrap_or_default();
        if balanced && !has_all(list, cpus) {
            return Isolation::Balanced(format!(
                "the kernel balances load onto isolated vCPUs: its list of isolated CPUs is `{list}`, {should}"
            ));
        }
        Isolation::AsPlanned
    }

    /// Whether the kernel refused to switch off something that may come to isolated CPUs.
    #[must_use]
    pub fn refused(&self) -> bool {
        self.switched_off.iter().any(|it| it.refused.is_some())
    }

    /// What the kernel says about isolation, a sentence each.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let said = self.log.iter();
        said.map(|line| format!("the kernel says: {line}"))
            .collect()
    }

    /// The same, to be put after a sentence; nothing if it said nothing.
    fn quoted(&self) -> String {
        let said = self.complaints().into_iter();
        said.map(|words| format!("; {words}")).collect()
    }
}

/// A line of the log without its level and time.
fn without_prefix(line: &str) -> &str {
    let line = line
        .strip_prefix('<')
        .and_then(|rest| rest.split_once('>'))
        .map_or(line, |(_, rest)| rest);
    let rest = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "));
    rest.map_or(line, |(_, rest)| rest)
}

/// Whether a list as the kernel writes it, such as `1-3,5`, has all of `cpus`.
fn has_all(list: &str, cpus: &[usize]) -> bool {
    let ranges: Vec<(usize, usize)> = list
        .split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let number = |text: &str| text.trim().parse().ok().filter(|&cpu: &usize| cpu < CPUS);
            Some((number(first)?, number(last)?))
        })
        .collect();
    let has = |cpu: &usize| {
        ranges
            .iter()
            .any(|(first, last)| (first..=last).contains(&cpu))
    };
    cpus.iter().all(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setup_is_read_line_by_line_and_nonsense_left_out() {
        let text = "nohz_full\t(null)\nisolated\t2\nonline\t0-2\n\
                    log\t<4>[    0.000000] Housekeeping: nohz_full= must match isolcpus=\n\
                    set\t/proc/x\t0\ta timer comes\nrefused\t/sys/y\tnever\tkhugepaged\tEPERM\n\
                    set\tshort\nwhat\x1b[31m\n";
        let switched_off = |by: &str, would: &str, refused: Option<&str>| SwitchedOff {
            by: by.into(),
            would: would.into(),
            refused: refused.map(str::to_owned),
        };
        let setup = KernelSetup::parse(text).unwrap();
        assert_eq!(
            setup,
            KernelSetup {
                nohz_full: Some("(null)".into()),
                isolated: Some("2".into()),
                online: Some("0-2".into()),
                log: vec!["Housekeeping: nohz_full= must match isolcpus=".into()],
                switched_off: vec![
                    switched_off("0 in /proc/x", "a timer comes", None),
                    switched_off("never in /sys/y", "khugepaged", Some("EPERM")),
                ],
                ..KernelSetup::default()
            }
        );
        assert_eq!(
            setup.quoted(),
            "; the kernel says: Housekeeping: nohz_full= must match isolcpus="
        );
        let shown: Vec<String> = setup.switched_off.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "0 in /proc/x: else a timer comes",
                "never in /sys/y: refused (EPERM), so khugepaged",
            ]
        );
        // What an agent that knows no such text may answer.
        assert_eq!(KernelSetup::parse("cpu deferred\n1 2\n"), None);
    }

    #[test]
    fn lists_of_cpus_are_the_kernels() {
        for (list, cpus, all) in [
            ("1-3,5", &[1, 3, 5][..], true),
            ("1-3,5", &[4], false),
            ("", &[1], false),
            ("(null)", &[1], false),
            ("0-99999999999", &[1], false),
            ("3-1", &[2], false),
            ("2", &[], true),
        ] {
            assert_eq!(has_all(list, cpus), all, "{list} {cpus:?}");
        }
    }

    #[test]
    fn a_difference_is_told_with_the_kernels_own_words() {
        let compare = |text| KernelSetup::parse(text).unwrap().compare(3, &[2], true);
        let tick = "the kernel keeps its tick on isolated vCPUs: ";
        let complaint = "Housekeeping: nohz_full= must match isolcpus=";
        let log = format!("nohz_full\t1\nlog\t{complaint}\n");
        let ticks = format!(
            "{tick}its nohz_full is `1`, and [2] should be in it; the kernel says: {complaint}"
        );
        assert_eq!(compare(&log), Isolation::Ticks(ticks));
        let none = format!("{tick}it has no nohz_full (CONFIG_NO_HZ_FULL)");
        assert_eq!(compare("online\t0-2\n"), Isolation::NoSuchThing(none));
        let balanced = "the kernel balances load onto isolated vCPUs: its list of isolated CPUs is ``, and [2] \
                        should be in it";
        assert_eq!(
            compare("nohz_full\t2\n"),
            Isolation::Balanced(balanced.into())
        );
        let whole = "nohz_full\t2\nisolated\t1-2\nonline\t0-2\ntickless\t0,1,2\n";
        assert_eq!(compare(whole), Isolation::AsPlanned);
        let periodic = format!(
            "{tick}only those of `0,1` are in NO_HZ mode (/proc/timer_list), and [2] should be in it"
        );
        assert_eq!(
            compare("nohz_full\t2\nisolated\t2\ntickless\t0,1\n"),
            Isolation::Ticks(periodic)
        );
        let missing = "of 3 vCPUs the kernel has `0,2` up (possible: `0,2-3`)";
        assert_eq!(
            compare("nohz_full\t2\nisolated\t2\nonline\t0,2\npossible\t0,2-3\n"),
            Isolation::Missing(missing.into())
        );
    }

    #[test]
    fn a_guest_cannot_fill_the_result() {
        let text = format!("log\t{}\n", "x".repeat(LINE * 2)).repeat(LINES * 2);
        let setup = KernelSetup::parse(&text).unwrap();
        assert_eq!(setup.log.len(), LINES);
        assert!(setup.log.iter().all(|line| line.len() <= LINE));
    }
}
