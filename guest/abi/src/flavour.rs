//! The flavours of the reference kernel.

use core::fmt;

/// A configuration of the reference kernel. `guest/kernel/config/README.md` says what is in each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// Little is on. It boots soon, also where the host emulates the guest's kernel.
    #[default]
    Fast,
    /// Has tracepoints, kprobes, the function tracer, BPF and sockets, for scenarios that toggle
    /// them. Takes longer to build and to boot.
    Tracing,
    /// As [`Flavour::Tracing`], with PREEMPT_RT.
    Rt,
}

impl Flavour {
    /// Every flavour.
    pub const ALL: [Self; 3] = [Self::Fast, Self::Tracing, Self::Rt];

    /// As typed, in scenario files too, and printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Tracing => "tracing",
            Self::Rt => "rt",
        }
    }

    /// The flavour of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|flavour| flavour.name() == name)
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
