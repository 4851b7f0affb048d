//! Names of paths, events and points, as people type them: `nmi@syscall+5`, `flip@timer-exit+0`, and
//! `flip@syscall+5/nmi+12` in the handler of an NMI that came at `syscall+5`.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What a path's name ends in that leads out of the kernel.
const EXIT: &str = "-exit";
/// The entry kind of an NMI.
pub(crate) const NMI: &str = "nmi";
/// Events that come wherever the CPU is, and in whose handlers others are swept.
const OUTER: [EventName; 3] = [EventName::Nmi, EventName::Debug, EventName::MachineCheck];
/// The entry kind of a #DB.
pub(crate) const DEBUG: &str = "debug";

/// A name that is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// No such event.
    #[error("no event is called `{0}`; there are {all}", all = EventName::all())]
    Event(String),
    /// No path.
    #[error(
        "`{0}` is no path: an entry kind, or an entry kind and `-exit`, or PATH+NUMBER/EVENT with nmi, debug or machine-check, as in syscall+5/nmi-exit"
    )]
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
    /// Where on another path the event comes whose way this is, and whose name `entry` is; `None` for one that comes from
    /// user space.
    pub within: Option<Within>,
}

/// An instruction of a path that begins in user space, at which an event comes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Within {
    /// The entry kind of the path.
    pub entry: String,
    /// The half.
    pub side: Side,
    /// The instruction's number in the path, from 0.
    pub number: usize,
}

impl PathName {
    /// Of an entry from user space.
    #[must_use]
    pub fn new(entry: &str, side: Side) -> Self {
        Self {
            entry: entry.to_owned(),
            side,
            within: None,
        }
    }

    /// Of the `event` that comes at instruction `number` of this path.
    #[must_use]
    pub fn event_at(&self, event: EventName, number: usize, side: Side) -> Self {
        Self {
            entry: event.name().to_owned(),
            side,
            within: Some(Within {
                entry: self.entry.clone(),
                side: self.side,
                number,
            }),
        }
    }
}

impl PathName {
    /// The event whose way this is, on another path.
    #[must_use]
    pub fn outer(&self) -> Option<EventName> {
        self.within.as_ref().and_then(|_| self.entry.parse().ok())
    }

    /// Whether it is the way of an NMI.
    pub(crate) fn handles_nmi(&self) -> bool {
        self.entry == NMI
    }
}

impl Side {
    fn suffix(self) -> &'static str {
        match self {
            Self::In => "",
            Self::Out => EXIT,
        }
    }
}

impl fmt::Display for PathName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{}{}", self.entry, self.side.suffix());
        match &self.within {
            None => f.pad(&name),
            Some(Within {
                entry,
                side,
                number,
            }) => f.pad(&format!("{entry}{}+{number}/{name}", side.suffix())),
        }
    }
}

impl FromStr for PathName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let none = || NameError::Path(text.to_owned());
        let Some((outer, name)) = text.split_once('/') else {
            let (entry, side) = half(text).ok_or_else(none)?;
            return Ok(Self::new(entry, side));
        };
        let (outer, number) = outer.rsplit_once('+').ok_or_else(none)?;
        let (Some((event, side)), Some((entry, outer_side))) = (half(name), half(outer)) else {
            return Err(none());
        };
        let event = OUTER.into_iter().find(|it| it.name() == event);
        let event = event.ok_or_else(none)?;
        let number = instruction(number).ok_or_else(none)?;
        Ok(Self::new(entry, outer_side).event_at(event, number, side))
    }
}

/// The entry kind and the half that `text` names.
fn half(text: &str) -> Option<(&str, Side)> {
    let (entry, side) = match text.strip_suffix(EXIT) {
        Some(entry) => (entry, Side::Out),
        None => (text, Side::In),
    };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (!entry.is_empty() && entry.chars().all(plain)).then_some((entry, side))
}

/// The number of an instruction.
fn instruction(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// What happens at an instruction.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum EventName {
    /// An NMI comes.
    Nmi,
    /// An NMI comes after the handler of the one before has executed an IRET, which unmasks NMIs.
    NestedNmi,
    /// A #DB comes, as of a data breakpoint of the kernel's.
    Debug,
    /// A #MC comes after which the interrupted program can go on.
    MachineCheck,
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
    /// The target, which was in the kernel, makes one whole exit while the sender stands there.
    Exit,
}

impl EventName {
    /// Each once.
    pub const ALL: [Self; 10] = [
        Self::Nmi,
        Self::NestedNmi,
        Self::Debug,
        Self::MachineCheck,
        Self::Timer,
        Self::Reschedule,
        Self::Flip,
        Self::Vunmap,
        Self::Entry,
        Self::Exit,
    ];

    /// Its name on the command line and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nmi => "nmi",
            Self::NestedNmi => "nested-nmi",
            Self::Debug => "debug",
            Self::MachineCheck => "machine-check",
            Self::Timer => "timer",
            Self::Reschedule => "reschedule",
            Self::Flip => "flip",
            Self::Vunmap => "vunmap",
            Self::Entry => "entry",
            Self::Exit => "exit",
        }
    }

    /// Whether it is an operation of the control vCPU, not something that the target takes.
    #[must_use]
    pub fn is_operation(self) -> bool {
        matches!(self, Self::Flip | Self::Vunmap)
    }

    /// The kernel's handler (arch/x86/include/asm/idtentry.h), where a kernel may be built without.
    #[must_use]
    pub fn optional_handler(self) -> Option<&'static str> {
        (self == Self::MachineCheck).then_some("asm_exc_machine_check")
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
        let number = instruction(number).ok_or_else(none)?;
        Ok(Self {
            path: path.parse()?,
            event: event.parse()?,
            number,
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
            "no event is called `smi`; there are nmi, nested-nmi, debug, machine-check, timer, reschedule, flip, vunmap, entry, exit"
        );
        assert!(told("nmi@-exit+1").contains("entry kind"));
        assert!(told("nmi@Sys call+1").contains("entry kind"));
        // Interrupts do not come in another's way.
        for text in [
            "flip@syscall+1/timer+1",
            "flip@syscall/nmi+1",
            "flip@/nmi+1",
            "flip@syscall+1/nmi+2/nmi+1",
        ] {
            assert!(told(text).contains("PATH+NUMBER/EVENT"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_read_as_it_was_written(
            entry in "[a-z][a-z0-9-]{0,20}[a-z0-9]",
            exit: bool,
            outer in proptest::option::of((any::<bool>(), any::<usize>(), 0..OUTER.len())),
            event in 0..EventName::ALL.len(),
            number: usize,
        ) {
            prop_assume!(!entry.ends_with(EXIT));
            let side = |exit| if exit { Side::Out } else { Side::In };
            let path = match outer {
                None => PathName::new(&entry, side(exit)),
                Some((outer, at, event)) => {
                    PathName::new(&entry, side(outer)).event_at(OUTER[event], at, side(exit))
                }
            };
            let name = PointName {
                path,
                event: EventName::ALL[event],
                number,
            };
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }
    }
}
