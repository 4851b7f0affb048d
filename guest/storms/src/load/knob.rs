//! Files of the kernel that somebody writes to, whose writes interrupt every CPU.

use std::fs;
use std::path::Path;

use crate::request::StormError;
use ipirig_system::During;

/// A file, and what is written to it in one operation: in the end it has what it had at boot.
#[derive(Debug)]
pub(super) struct Knob {
    /// Below the root.
    pub(super) file: &'static str,
    /// One write each.
    pub(super) values: &'static [&'static str],
    /// The file is there with this.
    pub(super) needs: &'static str,
}

impl Knob {
    /// Writes each value.
    pub(super) fn turn(&self, root: &Path) -> Result<(), StormError> {
        let file = root.join(self.file);
        if !file.exists() {
            let missing = format!("no {}: {} is missing", self.needs, file.display());
            return Err(StormError::Lacking(missing));
        }
        for value in self.values {
            fs::write(&file, value).during(|| format!("write {value} to {}", file.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_written_in_turn_and_a_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let knob = Knob {
            file: "proc/knob",
            values: &["1", "0"],
            needs: "CONFIG_KNOB",
        };
        let file = dir.path().join(knob.file);
        let missing = format!("no CONFIG_KNOB: {} is missing", file.display());
        assert_eq!(knob.turn(dir.path()), Err(StormError::Lacking(missing)));
        fs::create_dir(dir.path().join("proc")).unwrap();
        fs::write(&file, "2").unwrap();
        assert_eq!(knob.turn(dir.path()), Ok(()));
        assert_eq!(fs::read_to_string(&file).unwrap(), "0");
    }
}
