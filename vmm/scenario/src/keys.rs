//! What the keys of a scenario file may be: ranges and names, and the schema of each.

use std::ops::RangeInclusive;

use ipirig_abi::{Flavour, Role};
use schemars::{Schema, SchemaGenerator, json_schema};

use crate::EntryKind;
use crate::scenario::{Mode, Partition};
use crate::storm::Kind;

/// Operations of one storm. The upper end keeps a window within minutes on a slow host.
pub(crate) const OPERATIONS: RangeInclusive<u64> = 1..=1_000_000;
/// Address spaces of an isolated vCPU besides its task's.
pub(crate) const ADDRESS_SPACES: RangeInclusive<u64> = 1..=16;
/// Changes of a storm before which a vCPU may enter.
pub(crate) const ENTER_BEFORE: RangeInclusive<u64> = 1..=1000;
/// Length of a name or group.
pub(crate) const NAME_MAX: usize = 40;
/// Length of a summary: a line of `ipirig list`.
pub(crate) const SUMMARY_MAX: usize = 120;

pub(crate) const FURTHER: [(&str, Role); 2] = [
    ("housekeeping", Role::Housekeeping),
    ("isolated", Role::Isolated),
];
pub(crate) const MODES: [(&str, Mode); 5] = [
    ("user", Mode::User),
    ("kernel", Mode::Kernel),
    ("idle", Mode::Idle),
    ("unused", Mode::Unused),
    ("replugged", Mode::Replugged),
];
/// What keeps other tasks off isolated vCPUs.
pub(crate) const PARTITIONS: [(&str, Partition); 2] = [
    ("isolcpus", Partition::CommandLine),
    ("cpuset", Partition::Cpuset),
];
/// Where housekeeping vCPUs are, and whether that is user space.
pub(crate) const HOUSEKEEPING: [(&str, bool); 2] = [("idle", false), ("user", true)];

pub(crate) fn name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^[a-z0-9-]+$", "maxLength": NAME_MAX })
}

pub(crate) fn summary(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": SUMMARY_MAX })
}

pub(crate) fn kernels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": Flavour::ALL.map(Flavour::name) })
}

pub(crate) fn roles(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": FURTHER.map(|(name, _)| name) })
}

pub(crate) fn modes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": MODES.map(|(name, _)| name) })
}

pub(crate) fn partitions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": PARTITIONS.map(|(name, _)| name) })
}

pub(crate) fn housekeeping_modes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": HOUSEKEEPING.map(|(name, _)| name) })
}

pub(crate) fn storms(_: &mut SchemaGenerator) -> Schema {
    let names: Vec<&str> = Kind::all().map(|kind| kind.name).collect();
    json_schema!({ "enum": names })
}

pub(crate) fn operations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "minimum": OPERATIONS.start(), "maximum": OPERATIONS.end() })
}

pub(crate) fn entry_kinds(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": { "enum": EntryKind::ALL.map(EntryKind::name) },
        "minItems": 1,
        "uniqueItems": true,
    })
}
