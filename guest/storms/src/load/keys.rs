//! A static key that anyone may flip who may write sysctls.

use std::fs;
use std::path::Path;

use crate::request::StormError;
use ipirig_system::During;

/// `sched_schedstats` of kernel/sched/stats.h.
const SCHEDSTATS: &str = "/proc/sys/kernel/sched_schedstats";

pub(crate) fn run() -> Result<(), StormError> {
    flip(Path::new(SCHEDSTATS))
}

fn flip(file: &Path) -> Result<(), StormError> {
    if !file.exists() {
        let missing = format!("no CONFIG_SCHEDSTATS: {} is missing", file.display());
        return Err(StormError::Lacking(missing));
    }
    for value in ["1", "0"] {
        fs::write(file, value).during(|| format!("write {value} to {}", file.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_ends_as_it_began_and_a_missing_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        let missing = format!("no CONFIG_SCHEDSTATS: {} is missing", file.display());
        assert_eq!(flip(&file), Err(StormError::Lacking(missing)));
        fs::write(&file, "0").unwrap();
        assert_eq!(flip(&file), Ok(()));
        assert_eq!(fs::read_to_string(&file).unwrap(), "0");
    }
}
