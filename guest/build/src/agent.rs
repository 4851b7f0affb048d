//! Builds the agent: one static program from the Cargo workspace.

use std::fs;
use std::path::{Path, PathBuf};

use object::elf::{EM_X86_64, FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::agent_profile::{BUILD, NAME, RUSTFLAGS, SMALL, TARGET};
use crate::{Built, GuestError, Places, Progress};
use ipirig_store::{Ingredients, Program, Store, StoreError};

/// Goes up whenever the steps below would build something else from the same inputs.
const RECIPE: u32 = 2;

/// What is process 1 of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Init {
    /// The agent.
    Agent,
    /// One that lies and floods, for tests of the rig.
    Hostile,
}

impl Init {
    /// The program, which is that of the package.
    fn name(self) -> &'static str {
        match self {
            Self::Agent => NAME,
            Self::Hostile => "ipirig-hostile",
        }
    }

    /// The workspace's members that it consists of, under the guest directory.
    fn crates(self) -> &'static [&'static str] {
        match self {
            Self::Agent => &["agent", "abi", "storms", "system"],
            Self::Hostile => &["agent", "abi", "storms", "system", "hostile"],
        }
    }
}

/// Finds the agent inside the program or in the cache, or builds it.
pub(crate) fn build(
    store: &Store,
    places: &Places,
    init: Init,
    progress: &dyn Progress,
) -> Result<Built, GuestError> {
    if let (Init::Agent, Some(path)) = (init, &places.agent) {
        let mut ingredients = Ingredients::of("agent inside", RECIPE);
        ingredients.file(NAME, path)?;
        return Ok(Built {
            path: path.clone(),
            key: ingredients.key().to_string(),
            fresh: false,
        });
    }
    let name = init.name();
    let workspace = places.workspace();
    let mut ingredients = Ingredients::of("agent", RECIPE);
    ingredients.add("rustc", env!("IPIRIG_RUSTC"));
    for file in ["Cargo.toml", "Cargo.lock"] {
        ingredients.file(file, &workspace.join(file))?;
    }
    for name in init.crates() {
        let dir = places.guest.join(name);
        for file in sources(&dir)? {
            let label = file.strip_prefix(&places.guest).unwrap_or(&file);
            ingredients.file(&label.to_string_lossy(), &file)?;
        }
    }
    let slot = store.slot("agent", ingredients.key(), &[name], progress, |work| {
        progress.stage("building the agent");
        // Cargo has a lock of its own, and gives it up before the program is copied.
        let _lock = store.lock("cargo", "agent", progress)?;
        let target = store.cargo_target(places.workspace());
        let mut cargo = Program::new("cargo");
        for (name, value) in SMALL {
            cargo = cargo.env(name, value);
        }
        for var in [
            "CARGO_HOME",
            "RUSTUP_HOME",
            "RUSTUP_TOOLCHAIN",
            "CARGO_NET_OFFLINE",
        ] {
            cargo.keep(var);
        }
        cargo
            .args(BUILD)
            .args([name])
            .args(["--target", TARGET, "--target-dir"])
            .arg(&target)
            // Also overrides what the user's Cargo configuration says.
            .env("RUSTFLAGS", RUSTFLAGS)
            .dir(workspace)
            .run("building the agent", &work.log, |_| {})?;
        let made = target.join(TARGET).join("release").join(name);
        let program = fs::read(&made).map_err(GuestError::io("read", &made))?;
        if let Err(reason) = check_static(&program) {
            let reason = reason.to_owned();
            return Err(StoreError::Product {
                path: made,
                reason,
                log: work.log.clone(),
            }
            .into());
        }
        let kept = work.out.join(name);
        fs::write(&kept, program).map_err(GuestError::io("create", kept))
    })?;
    Ok(Built::in_slot(&slot, name))
}

/// The manifest and all below `src`, in a fixed order.
fn sources(dir: &Path) -> Result<Vec<PathBuf>, GuestError> {
    let mut files = vec![dir.join("Cargo.toml")];
    let script = dir.join("build.rs");
    if script.exists() {
        files.push(script);
    }
    let mut dirs = vec![dir.join("src")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).map_err(GuestError::io("list", &dir))? {
            let path = entry.map_err(GuestError::io("list", &dir))?.path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The initramfs has no dynamic linker, so the kernel must be able to start the program alone.
fn check_static(program: &[u8]) -> Result<(), &'static str> {
    let header = FileHeader64::<object::LittleEndian>::parse(program)
        .map_err(|_| "is not a 64-bit ELF file")?;
    let endian = header
        .endian()
        .map_err(|_| "is not a little-endian ELF file")?;
    if header.e_machine(endian) != EM_X86_64 {
        return Err("is not for x86-64");
    }
    let segments = header
        .program_headers(endian, program)
        .map_err(|_| "has no readable program headers")?;
    if segments
        .iter()
        .any(|segment| segment.p_type(endian) == PT_INTERP)
    {
        return Err("is not static: it asks for a dynamic linker, which the guest does not have");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_program_is_refused() {
        let this = std::env::current_exe().expect("a test program");
        let program = fs::read(this).expect("readable");
        assert_eq!(
            check_static(&program),
            Err("is not static: it asks for a dynamic linker, which the guest does not have")
        );
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert_eq!(check_static(b""), Err("is not a 64-bit ELF file"));
        assert_eq!(
            check_static(b"#!/bin/sh\n"),
            Err("is not a 64-bit ELF file")
        );
    }

    #[test]
    fn key_covers_every_crate_of_the_workspace_that_the_agent_uses() {
        let guest = Places::find().expect("a checkout").guest;
        let crates = Init::Hostile.crates();
        for name in crates {
            let manifest = guest.join(name).join("Cargo.toml");
            let text = fs::read_to_string(&manifest).expect("readable");
            let ours = text.lines().filter_map(|line| line.strip_prefix("ipirig-"));
            let covered = |rest: &&str| {
                crates
                    .iter()
                    .any(|name| rest.starts_with(&format!("{name}.")))
            };
            let others: Vec<_> = ours.filter(|rest| !covered(rest)).collect();
            assert_eq!(others, Vec::<&str>::new(), "{}", manifest.display());
        }
    }
}
