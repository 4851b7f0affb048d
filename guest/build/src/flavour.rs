//! The kernels that can be built from one source, and the fragment that sets each apart.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A configuration of the reference kernel. `guest/kernel/config/README.md` says what is in each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Flavour {
    /// Boots soon, also where the host emulates the guest's kernel.
    #[default]
    Fast,
    /// Has tracepoints, kprobes, the function tracer, BPF and sockets, for scenarios that toggle
    /// them. Takes longer to build and to boot.
    Tracing,
    /// As [`Flavour::Tracing`], with PREEMPT_RT.
    Rt,
    /// Not the reference kernel, but source as Debian ships it ([`crate::stock`]).
    Stock,
    /// No guest's kernel at all, but that of an emulated host ([`crate::lab`]).
    Lab,
}

impl Flavour {
    /// Every flavour of the reference kernel.
    pub const ALL: [Self; 3] = [Self::Fast, Self::Tracing, Self::Rt];

    /// As typed and printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Tracing => "tracing",
            Self::Rt => "rt",
            Self::Stock => "stock",
            Self::Lab => "lab",
        }
    }

    /// The fragments that not all flavours have. They come after those that all have, in this order.
    pub(crate) const fn own_fragments(self) -> &'static [&'static str] {
        match self {
            Self::Fast => &[],
            Self::Tracing => &["tracing.config"],
            Self::Rt => &["tracing.config", "rt.config"],
            // In a directory of its own: the reference kernel knows nothing of it.
            Self::Stock => &["stock/stock.config"],
            Self::Lab => &["lab/lab.config"],
        }
    }

    /// The fragments that it does without: the switch of the series, which stock source does not have,
    /// and the further ways into the kernel, which no stock kernel is asked about.
    pub(crate) const fn left_out(self) -> &'static [&'static str] {
        match self {
            Self::Fast | Self::Tracing | Self::Rt => &[],
            Self::Stock | Self::Lab => &["compat.config", "deferral.config"],
        }
    }

    /// Lines like `  CC  kernel/fork.o` in a build: what the first one on a machine is measured
    /// against.
    pub(crate) const fn usual_steps(self) -> u64 {
        match self {
            Self::Fast => 1130,
            Self::Tracing => 1300,
            Self::Rt => 1300,
            Self::Stock => 1600,
            Self::Lab => 1500,
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_listed_once_under_the_names_that_a_manifest_keeps() {
        let names = Flavour::ALL.map(|f| serde_json::to_value(f).expect("a string"));
        assert_eq!(names, ["fast", "tracing", "rt"]);
        assert_eq!(
            Flavour::ALL.map(|f| f.to_string()),
            ["fast", "tracing", "rt"]
        );
        assert_eq!(Flavour::default(), Flavour::Fast);
    }
}
