//! A housekeeping CPU that goes offline and comes back (Documentation/core-api/cpu_hotplug.rst). To take it down the
//! kernel stops every CPU, the isolated ones too (`takedown_cpu` of kernel/cpu.c).

use std::fs;

use crate::interfaces::Interfaces;
use crate::request::StormError;
use ipirig_system::During;

pub(crate) fn run(interfaces: &Interfaces<'_>) -> Result<(), StormError> {
    // The first one controls the guest.
    let Some(cpu) = interfaces.housekeeping.get(1..).unwrap_or_default().last() else {
        let lacking =
            "no housekeeping CPU but the one that controls the guest: --vcpus 3".to_owned();
        return Err(StormError::Lacking(lacking));
    };
    let file = format!("sys/devices/system/cpu/cpu{cpu}/online");
    let file = interfaces.root.join(file);
    if !file.exists() {
        let missing = format!("no CONFIG_HOTPLUG_CPU: {} is missing", file.display());
        return Err(StormError::Lacking(missing));
    }
    for (value, what) in [("0", "offline"), ("1", "online")] {
        fs::write(&file, value).during(|| format!("take CPU {cpu} {what}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::interfaces::Symbols;
    use ipirig_system::Errno;

    fn take(housekeeping: &[usize], root: &Path) -> Result<(), StormError> {
        run(&Interfaces {
            triggers: None,
            housekeeping,
            symbols: Symbols::default(),
            root,
            mount_tracefs: |_| Err(Errno(libc::ENODEV)),
        })
    }

    #[test]
    fn the_last_housekeeping_cpu_ends_online_and_the_first_is_never_taken() {
        let dir = tempfile::tempdir().unwrap();
        for cpu in [0, 1, 3] {
            let cpu = dir.path().join(format!("sys/devices/system/cpu/cpu{cpu}"));
            fs::create_dir_all(&cpu).unwrap();
            fs::write(cpu.join("online"), "2").unwrap();
        }
        assert!(matches!(
            take(&[0], dir.path()),
            Err(StormError::Lacking(_))
        ));
        assert_eq!(take(&[0, 1, 3], dir.path()), Ok(()));
        let state = |cpu| {
            let file = format!("sys/devices/system/cpu/cpu{cpu}/online");
            fs::read_to_string(dir.path().join(file)).unwrap()
        };
        assert_eq!([0, 1, 3].map(state), ["2", "2", "1"]);
        let missing = dir.path().join("sys/devices/system/cpu/cpu2/online");
        let lacking = format!("no CONFIG_HOTPLUG_CPU: {} is missing", missing.display());
        assert_eq!(take(&[0, 2], dir.path()), Err(StormError::Lacking(lacking)));
    }
}
