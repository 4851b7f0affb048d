//! Names of paths, events and points, as people type them: `nmi@syscall+5`, `flip@timer-exit+0`.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What a path's name ends in that leads out of the kernel.
const EXIT: &str = "-exit";

/// A name that is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// No such event.
    #[error("no event is called `{0}`; there are {all}", all = EventName::all())]
    Event(String),
    /// No path.
    #[error("`{0}` is no path: an entry kind, or an entry kind and `-exit`")]
    Path(String),
    /// No point.
    #[error("`{0}` is no point: EVENT@PATH+NUMBER, as in nmi@syscall+5")]
    Point(String),
}

/// Which half of a way through the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// From the first kernel instruction to the first instrumentable code.
    In,
    /// From the last instrumentable code to the return to user space.
    Out,
}

/// One half of the way through the kernel that an entry kind leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathName {
    /// The entry kind, by its name in scenario files.
    pub entry: String,
    /// The half.
    pub side: Side,
}

impl fmt::Display for PathName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exit = match self.side {
            Side::In => "",
            Side::Out => EXIT,
        };
        f.pad(&format!("{}{exit}", self.entry))
    }
}

impl FromStr for PathName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (entry, side) = match text.strip_suffix(EXIT) {
            Some(entry) => (entry, Side::Out),
            None => (text, Side::In),
        };
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if entry.is_empty() || !entry.chars().all(plain) {
            return Err(NameError::Path(text.to_owned()));
        }
        Ok(Self {
            entry: entry.to_owned(),
            side,
        })
    }
}

/// What happens at an instruction.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum EventName {
    /// An NMI comes.
    Nmi,
    /// The APIC timer's interrupt comes.
    Timer,
    /// A reschedule IPI comes.
    Reschedule,
    /// The control vCPU flips a static key while the target stands at the instruction.
    Flip,
    /// The control vCPU frees vmalloc memory and purges it meanwhile.
    Vunmap,
    /// The target makes one whole entry while the *sender* stands at the instruction.
    Entry,
}

impl EventName {
    /// Each once.
    pub const ALL: [Self; 6] = [
        Self::Nmi,
        Self::Timer,
        Self::Reschedule,
        Self::Flip,
        Self::Vunmap,
        Self::Entry,
    ];

    /// Its name on the command line and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nmi => "nmi",
            Self::Timer => "timer",
            Self::Reschedule => "reschedule",
            Self::Flip => "flip",
            Self::Vunmap => "vunmap",
            Self::Entry => "entry",
        }
    }

    /// Whether it is an operation of the control vCPU, not something that the target takes.
    #[must_use]
    pub fn is_operation(self) -> bool {
        matches!(self, Self::Flip | Self::Vunmap)
    }

    /// Whether it happens while a sender stands at the instruction, not the target.
    #[must_use]
    pub fn is_of_sender(self) -> bool {
        self == Self::Entry
    }

    /// Whether RFLAGS.IF decides if the target takes it.
    #[must_use]
    pub fn is_maskable(self) -> bool {
        matches!(self, Self::Timer | Self::Reschedule)
    }

    fn all() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for EventName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let found = Self::ALL.into_iter().find(|event| event.name() == text);
        found.ok_or_else(|| NameError::Event(text.to_owned()))
    }
}

/// One event at one instruction of one path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointName {
    /// The path.
    pub path: PathName,
    /// The event.
    pub event: EventName,
    /// The instruction's number in the path, from 0.
    pub number: usize,
}

impl fmt::Display for PointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}@{}+{}", self.event, self.path, self.number))
    }
}

impl FromStr for PointName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let none = || NameError::Point(text.to_owned());
        let (event, rest) = text.split_once('@').ok_or_else(none)?;
        let (path, number) = rest.rsplit_once('+').ok_or_else(none)?;
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(none());
        }
        Ok(Self {
            path: path.parse()?,
            event: event.parse()?,
            number: number.parse().map_err(|_| none())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_name_is_refused_with_what_there_is() {
        let told = |text: &str| text.parse::<PointName>().unwrap_err().to_string();
        for text in [
            "",
            "nmi",
            "nmi@syscall",
            "nmi@syscall+",
            "nmi@syscall+x",
            "nmi@syscall+-1",
        ] {
            assert!(told(text).contains("EVENT@PATH+NUMBER"), "{text}");
        }
        assert!(told("nmi@syscall+99999999999999999999999").contains("EVENT@PATH+NUMBER"));
        assert_eq!(
            told("smi@syscall+1"),
            "no event is called `smi`; there are nmi, timer, reschedule, flip, vunmap, entry"
        );
        assert!(told("nmi@-exit+1").contains("entry kind"));
        assert!(told("nmi@Sys call+1").contains("entry kind"));
    }

    proptest! {
        #[test]
        fn a_name_is_read_as_it_was_written(
            entry in "[a-z][a-z0-9-]{0,20}[a-z0-9]",
            exit: bool,
            event in 0..EventName::ALL.len(),
            number: usize,
        ) {
            prop_assume!(!entry.ends_with(EXIT));
            let side = if exit { Side::Out } else { Side::In };
            let name = PointName {
                path: PathName { entry, side },
                event: EventName::ALL[event],
                number,
            };
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }
    }
}
