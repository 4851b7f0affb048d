//! A scenario file as it is written, and its JSON Schema. Types only; [`super::validate`] gives it meaning.
//! Of each key, the comment and the attributes are what `ipirig schema scenario` says.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use crate::keys::{
    entry_kinds, housekeeping_modes, kernels, modes, name, operations, partitions, roles, storms,
    summary,
};

/// What to provoke, on which vCPUs, and what must hold.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(title = "Scenario of ipirig")]
#[serde(deny_unknown_fields)]
pub(super) struct RawScenario {
    /// The name, as `ipirig run` takes it.
    #[schemars(schema_with = "name")]
    pub(super) name: Spanned<String>,
    /// What it belongs to: `ipirig run --group` runs all of a group.
    #[schemars(schema_with = "name")]
    pub(super) group: Spanned<String>,
    /// One line for `ipirig list`.
    #[schemars(schema_with = "summary")]
    pub(super) summary: Spanned<String>,
    /// Which configuration of the reference kernel has what the storm needs.
    #[schemars(schema_with = "kernels", extend("default" = "fast"))]
    #[serde(default)]
    pub(super) kernel: Option<Spanned<String>>,
    /// The vCPUs besides the control vCPU, which runs the storm.
    #[serde(default)]
    pub(super) vcpus: RawVcpus,
    /// What to provoke.
    #[schemars(with = "RawStorm")]
    pub(super) storm: Spanned<RawStorm>,
    /// By which entry kinds the isolated vCPUs enter the kernel after the storm: a window each.
    #[schemars(schema_with = "entry_kinds", extend("default" = ["syscall"]))]
    #[serde(default)]
    pub(super) entries: Option<Spanned<Vec<Spanned<String>>>>,
    /// Before which of the changes that the storm makes, counted from 1, the isolated vCPUs enter the kernel,
    /// to stay there until it is over: a window each. Not with `entries`.
    #[schemars(with = "Vec<u64>", extend("default" = []))]
    #[serde(default)]
    pub(super) enter_before: Option<Spanned<Vec<Spanned<u64>>>>,
    /// What must hold in each window.
    #[serde(default)]
    pub(super) expect: RawExpect,
}

/// The vCPUs besides the control vCPU: at most 63.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "vcpus")]
#[serde(deny_unknown_fields)]
pub(super) struct RawVcpus {
    /// How many idle, and show by the IPIs that they get that the storm is real.
    #[schemars(with = "u64", range(min = 0, max = 63), extend("default" = 1))]
    #[serde(default)]
    pub(super) housekeeping: Option<Spanned<u64>>,
    /// How many are isolated, with a task in user space each.
    #[schemars(with = "u64", range(min = 1, max = 63), extend("default" = 1))]
    #[serde(default)]
    pub(super) isolated: Option<Spanned<u64>>,
    /// What the vCPUs are that `--vcpus` asks for beyond these.
    #[schemars(schema_with = "roles", extend("default" = "housekeeping"))]
    #[serde(default)]
    pub(super) further: Option<Spanned<String>>,
    /// Where the isolated vCPUs are while the storm runs.
    #[schemars(schema_with = "modes", extend("default" = "user"))]
    #[serde(default)]
    pub(super) isolated_in: Option<Spanned<String>>,
    /// What keeps other tasks off the isolated vCPUs: `isolcpus=` of the command line, or a cpuset that is made a
    /// partition once the guest has booted, which needs a kernel with cpusets.
    #[schemars(schema_with = "partitions", extend("default" = "isolcpus"))]
    #[serde(default)]
    pub(super) isolated_by: Option<Spanned<String>>,
    /// Where the housekeeping vCPUs are while the storm runs.
    #[schemars(schema_with = "housekeeping_modes", extend("default" = "idle"))]
    #[serde(default)]
    pub(super) housekeeping_in: Option<Spanned<String>>,
    /// Address spaces besides its task's that each isolated vCPU uses before the window, and that its entry
    /// goes through. For a storm that has the module, and entries by `syscall` from user space.
    #[schemars(with = "u64", range(min = 1, max = 16))]
    #[serde(default)]
    pub(super) address_spaces: Option<Spanned<u64>>,
}

/// A burst of operations of one kind on the control vCPU.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "storm")]
#[serde(deny_unknown_fields)]
pub(super) struct RawStorm {
    /// Which.
    #[schemars(schema_with = "storms")]
    pub(super) kind: Spanned<String>,
    /// How many operations in each window. Odd where each undoes the one before.
    #[schemars(schema_with = "operations")]
    pub(super) operations: Spanned<u64>,
    /// How large one operation is. For the kinds that have sizes, and needed there.
    #[schemars(with = "u64", range(min = 1, max = 4096))]
    #[serde(default)]
    pub(super) size: Option<Spanned<u64>>,
}

/// What must hold in each window.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "expect")]
#[serde(deny_unknown_fields)]
pub(super) struct RawExpect {
    /// Most IPIs that may be sent to each isolated vCPU. Not with `isolated_ipis_min`.
    #[schemars(with = "u64", extend("default" = 0))]
    #[serde(default)]
    pub(super) isolated_ipis_max: Option<Spanned<u64>>,
    /// Fewest IPIs that must be sent to each isolated vCPU, where deferring them would be a bug.
    #[schemars(schema_with = "operations")]
    #[serde(default)]
    pub(super) isolated_ipis_min: Option<Spanned<u64>>,
    /// Fewest IPIs that must be sent to each housekeeping vCPU: else there was no storm.
    #[schemars(schema_with = "operations", extend("default" = 1))]
    #[serde(default)]
    pub(super) housekeeping_ipis_min: Option<Spanned<u64>>,
    /// Whether what isolated vCPUs execute for each IPI is followed, and has to be what that was sent for.
    #[schemars(with = "bool", extend("default" = false))]
    #[serde(default)]
    pub(super) handlers: Option<bool>,
    /// Fewest IPIs of a cause, by its name, that must be sent to each vCPU that nothing may be deferred for.
    #[schemars(with = "BTreeMap<String, u64>")]
    #[serde(default)]
    pub(super) by_cause: BTreeMap<Spanned<String>, Spanned<u64>>,
}
