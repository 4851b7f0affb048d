//! The kernels that can be built, and the fragments that set each apart.

use std::fmt;

use ipirig_abi::Flavour;
use serde::{Deserialize, Serialize};

/// What a kernel is configured as. A manifest keeps its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "&str", try_from = "String")]
pub(crate) enum Configuration {
    /// The reference kernel.
    Reference(Flavour),
    /// Source as Debian ships it ([`crate::stock`]).
    Stock,
    /// The same with the reference series.
    Patched,
    /// Source of the user's, patched or not ([`crate::linux_tree`]).
    Tree,
    /// No guest's kernel at all, but that of an emulated host ([`crate::lab`]).
    Lab,
}

impl Configuration {
    const fn name(self) -> &'static str {
        match self {
            Self::Reference(flavour) => flavour.name(),
            Self::Stock => "stock",
            Self::Patched => "patched",
            Self::Tree => "tree",
            Self::Lab => "lab",
        }
    }

    /// The fragments that not all flavours have. They come after those that all have, in this order.
    pub(crate) const fn own_fragments(self) -> &'static [&'static str] {
        match self {
            Self::Reference(Flavour::Fast) => &[],
            Self::Reference(Flavour::Tracing) => &["tracing.config"],
            Self::Reference(Flavour::Rt) => &["tracing.config", "rt.config"],
            // In a directory of its own: the reference kernel knows nothing of it.
            Self::Stock | Self::Patched => &["stock/stock.config"],
            Self::Tree => &["tree/tree.config"],
            Self::Lab => &["lab/lab.config"],
        }
    }

    /// The fragments that it does without: the switch of the series, which stock source does not have,
    /// and the further ways into the kernel, which no stock kernel is asked about.
    pub(crate) const fn left_out(self) -> &'static [&'static str] {
        match self {
            Self::Reference(_) | Self::Patched | Self::Tree => &[],
            Self::Stock | Self::Lab => &["compat.config", "deferral.config"],
        }
    }

    /// Lines like `  CC  kernel/fork.o` in a build: what the first one on a machine is measured
    /// against.
    pub(crate) const fn usual_steps(self) -> u64 {
        match self {
            Self::Reference(Flavour::Fast) | Self::Tree => 1130,
            Self::Reference(Flavour::Tracing) => 1300,
            Self::Reference(Flavour::Rt) => 1300,
            Self::Stock | Self::Patched => 1600,
            Self::Lab => 1500,
        }
    }
}

/// Of kernels from before there were flavours.
impl Default for Configuration {
    fn default() -> Self {
        Flavour::default().into()
    }
}

impl From<Flavour> for Configuration {
    fn from(flavour: Flavour) -> Self {
        Self::Reference(flavour)
    }
}

impl From<Configuration> for &str {
    fn from(configuration: Configuration) -> Self {
        configuration.name()
    }
}

impl TryFrom<String> for Configuration {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "stock" => Ok(Self::Stock),
            "patched" => Ok(Self::Patched),
            "tree" => Ok(Self::Tree),
            "lab" => Ok(Self::Lab),
            other => Flavour::find(other).map(Self::Reference).ok_or(name),
        }
    }
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_read_from_the_name_that_a_manifest_keeps() {
        let all = Flavour::ALL.map(Configuration::Reference);
        let others = [
            Configuration::Stock,
            Configuration::Patched,
            Configuration::Tree,
            Configuration::Lab,
        ];
        let all = [&all[..], &others].concat();
        let json = serde_json::to_string(&all).expect("text");
        assert_eq!(
            json,
            r#"["fast","tracing","rt","stock","patched","tree","lab"]"#
        );
        let read: Vec<Configuration> = serde_json::from_str(&json).expect("read");
        assert_eq!(read, all);
        serde_json::from_str::<Configuration>("\"other\"").expect_err("no such kernel");
        assert_eq!(Configuration::default(), Flavour::Fast.into());
    }
}
