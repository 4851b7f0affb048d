//! Builds `ipirig.ko`, and the module that the agent loads and unloads, against a finished kernel.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Built, GuestError, Places, Progress, recipe, tools};
use ipirig_store::{Ingredients, Store, StoreError};

/// Goes up whenever the steps below would build something else from the same inputs.
const RECIPE: u32 = 2;

/// The module.
const NAME: &str = "ipirig.ko";
/// The one next to it that does nothing: loading and unloading it is a storm of the agent's.
pub(crate) const DUMMY: &str = "ipirig_dummy.ko";

/// What modules are built against.
#[derive(Debug)]
pub(crate) struct Headers {
    /// Where to run make: a finished kernel's tree, or what is kept of one.
    pub(crate) tree: PathBuf,
    /// The slot of the cache that it is in, if it is in one.
    pub(crate) slot: Option<PathBuf>,
    /// Another one for another kernel.
    pub(crate) key: String,
    /// What make is told besides.
    pub(crate) arguments: Vec<String>,
}

/// Finds the modules in the cache or builds them. What comes back is [`NAME`]; [`DUMMY`] is next to it.
pub(crate) fn build(
    store: &Store,
    places: &Places,
    headers: &Headers,
    progress: &dyn Progress,
) -> Result<Built, GuestError> {
    let dir = places.guest.join("module");
    let sources = sources(&dir)?;
    let mut ingredients = Ingredients::of("module", RECIPE);
    ingredients.add("kernel", &headers.key);
    for source in &sources {
        let name = source.file_name().unwrap_or_default();
        ingredients.file(&name.to_string_lossy(), source)?;
    }
    let slot = store.slot(
        "module",
        ingredients.key(),
        &[NAME, DUMMY],
        progress,
        |work| {
            tools::ensure(&work.log, progress)?;
            if let Some(slot) = &headers.slot {
                // Scripts in it are run.
                store.verify(slot)?;
            }
            progress.stage("building the module");
            // A copy, since the build writes next to the sources.
            for source in &sources {
                let copy = work.scratch.join(source.file_name().unwrap_or_default());
                fs::copy(source, &copy).map_err(GuestError::io("create", &copy))?;
            }
            recipe::make(&headers.tree)
                .assign("M", &work.scratch)
                .args(&headers.arguments)
                .arg("modules")
                .run("building the module", &work.log, |_| {})?;
            for name in [NAME, DUMMY] {
                let made = work.scratch.join(name);
                if !made.exists() {
                    let reason = "was not made".to_owned();
                    return Err(GuestError::Store(StoreError::Product {
                        path: made,
                        reason,
                        log: work.log.clone(),
                    }));
                }
                let kept = work.out.join(name);
                fs::rename(&made, &kept).map_err(GuestError::io("keep", made))?;
            }
            Ok(())
        },
    )?;
    Ok(Built::in_slot(&slot, NAME))
}

/// The files that the module is made of, by name. What an earlier build by hand left there is not.
fn sources(dir: &Path) -> Result<Vec<PathBuf>, GuestError> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(dir).map_err(GuestError::io("list", dir))? {
        let path = entry.map_err(GuestError::io("list", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let made = name.ends_with(".mod.c") || name.starts_with('.');
        let source = ["c", "h", "S"]
            .iter()
            .any(|e| path.extension().is_some_and(|x| x == *e));
        if (source && !made) || name == "Kbuild" {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_a_build_are_not_sources() {
        let dir = tempfile::tempdir().expect("a directory");
        let names = [
            "Kbuild",
            "ipirig.c",
            "ipirig.h",
            "ipirig.mod.c",
            "ipirig.ko",
            "ipirig.o",
            ".ipirig.o.cmd",
            "Module.symvers",
            "README.md",
            ".x.c",
        ];
        for name in names {
            fs::write(dir.path().join(name), "").expect("written");
        }
        let found = sources(dir.path()).expect("listed");
        let found: Vec<_> = found.iter().filter_map(|path| path.file_name()).collect();
        assert_eq!(found, ["Kbuild", "ipirig.c", "ipirig.h"]);
    }
}
