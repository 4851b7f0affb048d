//! A scenario file as it is written. Types only; [`super::validate`] gives it meaning.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawScenario {
    pub(super) name: Spanned<String>,
    pub(super) group: Spanned<String>,
    pub(super) summary: Spanned<String>,
    pub(super) kernel: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) vcpus: RawVcpus,
    pub(super) storm: Spanned<RawStorm>,
    pub(super) entries: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) enter_before: Option<Spanned<Vec<Spanned<u64>>>>,
    #[serde(default)]
    pub(super) expect: RawExpect,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVcpus {
    pub(super) housekeeping: Option<Spanned<u64>>,
    pub(super) isolated: Option<Spanned<u64>>,
    pub(super) further: Option<Spanned<String>>,
    pub(super) isolated_in: Option<Spanned<String>>,
    pub(super) housekeeping_in: Option<Spanned<String>>,
    pub(super) address_spaces: Option<Spanned<u64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStorm {
    pub(super) kind: Spanned<String>,
    pub(super) operations: Spanned<u64>,
    pub(super) size: Option<Spanned<u64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawExpect {
    pub(super) isolated_ipis_max: Option<Spanned<u64>>,
    pub(super) isolated_ipis_min: Option<Spanned<u64>>,
    pub(super) housekeeping_ipis_min: Option<Spanned<u64>>,
    pub(super) handlers: Option<bool>,
    #[serde(default)]
    pub(super) by_cause: BTreeMap<Spanned<String>, Spanned<u64>>,
}
