//! What `--help` of each command ends with: examples, and what its exit codes mean.

pub(crate) const AFTER: &str = include_str!("help/after.txt").trim_ascii_end();
pub(crate) const AFTER_ENTRY: &str = include_str!("help/entry.txt").trim_ascii_end();
pub(crate) const AFTER_OBSERVE: &str = include_str!("help/observe.txt").trim_ascii_end();
pub(crate) const AFTER_BLAME: &str = include_str!("help/blame.txt").trim_ascii_end();
pub(crate) const AFTER_MUTANTS: &str = include_str!("help/mutants.txt").trim_ascii_end();
pub(crate) const AFTER_RUN: &str = include_str!("help/run.txt").trim_ascii_end();
pub(crate) const AFTER_GATE: &str = include_str!("help/gate.txt").trim_ascii_end();
pub(crate) const AFTER_COMPARE: &str = include_str!("help/compare.txt").trim_ascii_end();
pub(crate) const AFTER_AUDIT: &str = include_str!("help/audit.txt").trim_ascii_end();
pub(crate) const AFTER_SCHEMA: &str = include_str!("help/schema.txt").trim_ascii_end();
pub(crate) const AFTER_COMPLETIONS: &str = include_str!("help/completions.txt").trim_ascii_end();
pub(crate) const AFTER_MAN: &str = include_str!("help/man.txt").trim_ascii_end();
pub(crate) const AFTER_LIST: &str = include_str!("help/list.txt").trim_ascii_end();
pub(crate) const AFTER_DOCTOR: &str = include_str!("help/doctor.txt").trim_ascii_end();
pub(crate) const AFTER_BUILD: &str = include_str!("help/build.txt").trim_ascii_end();
pub(crate) const AFTER_CONFIG: &str = include_str!("help/config.txt").trim_ascii_end();
pub(crate) const AFTER_PATH: &str = include_str!("help/path.txt").trim_ascii_end();
