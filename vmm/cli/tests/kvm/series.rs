//! The reference series on another kernel than the reference kernel's.

use libtest_mimic::Failed;

use crate::harness::run;
use crate::observe::not_built;

/// Versions that there is a series for beside 6.12, where they have been built, which takes minutes each; and the name of
/// its test.
pub(crate) const PORTS: &[(&str, &str)] = &[(
    "7.2",
    "flips_are_deferred_by_the_series_on_7_2_and_not_without_it",
)];

/// Why a version cannot be run with its series and without it.
pub(crate) fn lacking(version: &str) -> Option<String> {
    not_built(version, true).or_else(|| not_built(version, false))
}

pub(crate) fn flips(version: &str) -> Result<(), Failed> {
    run("static-key-flip", &["--stock", version, "--series"], 0)?;
    run("static-key-flip", &["--stock", version], 1)?;
    Ok(())
}
