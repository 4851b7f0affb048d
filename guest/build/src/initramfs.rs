//! Packs agent and modules into the archive that the kernel unpacks at boot.

use std::fs;
use std::io;
use std::path::Path;

use crate::module::DUMMY;
use crate::{Built, GuestError};
use ipirig_archive::Archive;
use ipirig_store::{Ingredients, Store};

/// Goes up whenever the archive would look different for the same inputs.
const RECIPE: u32 = 3;

const NAME: &str = "initramfs.cpio";

/// The contents of the modules.
struct Modules {
    /// What the agent calls.
    main: Vec<u8>,
    /// What it loads and unloads.
    dummy: Vec<u8>,
}

/// Finds the archive in the cache or writes it. `module` has the other module next to it.
pub(crate) fn build(
    store: &Store,
    agent: &Built,
    module: Option<&Built>,
) -> Result<Built, GuestError> {
    let mut ingredients = Ingredients::of("initramfs", RECIPE);
    ingredients.add("agent", &agent.key);
    ingredients.add("module", module.map_or("none", |module| &module.key));
    let slot = store.slot("initramfs", ingredients.key(), &[NAME], &(), |work| {
        let modules = module.map(|module| {
            Ok::<_, GuestError>(Modules {
                main: read(&module.path)?,
                dummy: read(&module.path.with_file_name(DUMMY))?,
            })
        });
        let path = work.out.join(NAME);
        let archive = pack(&read(&agent.path)?, modules.transpose()?.as_ref())
            .map_err(GuestError::io("pack", &path))?;
        fs::write(&path, archive).map_err(GuestError::io("create", path))
    })?;
    Ok(Built::in_slot(&slot, NAME))
}

fn read(path: &Path) -> Result<Vec<u8>, GuestError> {
    fs::read(path).map_err(GuestError::io("read", path))
}

fn pack(agent: &[u8], modules: Option<&Modules>) -> io::Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in ["dev", "proc", "sys"] {
        archive.directory(dir, 0o755)?;
    }
    // The kernel opens it for PID 1 before anything is mounted: init/main.c, console_on_rootfs().
    archive.character_device("dev/console", 0o600, (5, 1))?;
    archive.file("init", 0o755, agent)?;
    if let Some(modules) = modules {
        archive.file("ipirig.ko", 0o644, &modules.main)?;
        archive.file(DUMMY, 0o644, &modules.dummy)?;
    }
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> Modules {
        Modules {
            main: b"module".into(),
            dummy: b"dummy".into(),
        }
    }

    #[test]
    fn modules_are_packed_only_when_there_are_any() {
        for name in ["ipirig.ko", DUMMY] {
            let is_in =
                |archive: &[u8]| archive.windows(name.len()).any(|at| at == name.as_bytes());
            assert!(is_in(&pack(b"agent", Some(&modules())).expect("packed")));
            assert!(!is_in(&pack(b"agent", None).expect("packed")));
        }
    }

    #[test]
    fn same_content_gives_the_same_bytes() {
        assert_eq!(
            pack(b"agent", Some(&modules())).expect("packed"),
            pack(b"agent", Some(&modules())).expect("packed")
        );
    }

    #[test]
    fn slot_changes_with_agent_and_module() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let made = |key: &str| {
            let path = dir.path().join(key);
            fs::write(&path, key).expect("written");
            fs::write(path.with_file_name(DUMMY), key).expect("written");
            Built {
                path,
                key: key.to_owned(),
                fresh: true,
            }
        };
        let build = |agent: &str, module: Option<&str>| {
            let module = module.map(made);
            let built = build(&store, &made(agent), module.as_ref()).expect("built");
            (built.path, built.fresh)
        };
        let (first, fresh) = build("a1", Some("m1"));
        assert!(fresh);
        assert_eq!(build("a1", Some("m1")), (first.clone(), false));
        for (other, fresh) in [
            build("a2", Some("m1")),
            build("a1", Some("m2")),
            build("a1", None),
        ] {
            assert!(fresh);
            assert_ne!(other, first);
        }
    }
}
