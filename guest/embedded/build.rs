//! Packs what the program has inside once it is away from its checkout: the sources that a guest is built from, the
//! baselines, and the agent, which nobody who installs a program should have to compile.
//!
//! Debug builds have no agent, and do without the rest: their checkout is there, and a build of the agent would be
//! part of each build of the tests.

#[path = "../../guest/build/src/agent_profile.rs"]
mod agent_profile;

use std::env;
use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use agent_profile::{BUILD, NAME, RUSTFLAGS, SMALL, TARGET};
use ipirig_archive::Archive;

/// What of the checkout is inside, beside the agent.
const PLACES: [&str; 3] = ["guest/kernel", "guest/module", "results/baseline"];
/// The workspace's members that the agent consists of, and what is needed to build them.
const AGENT: [&str; 6] = [
    "Cargo.toml",
    "Cargo.lock",
    "guest/abi",
    "guest/agent",
    "guest/storms",
    "guest/system",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rustc-check-cfg=cfg(agent_inside)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../../guest/build/src/agent_profile.rs");
    let checkout = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../..");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut archive = Archive::default();
    for place in PLACES {
        println!("cargo::rerun-if-changed=../../{place}");
        let mut files = Vec::new();
        below(&checkout.join(place), &mut files)?;
        files.sort();
        for file in files {
            let name = file.strip_prefix(&checkout)?.to_string_lossy().into_owned();
            pack(&mut archive, &name, &file)?;
        }
    }
    if env::var("PROFILE")? == "release" {
        for place in AGENT {
            println!("cargo::rerun-if-changed=../../{place}");
        }
        let agent = agent(&checkout, &out.join("agent"))?;
        pack(&mut archive, &format!("agent/{NAME}"), &agent)?;
        println!("cargo::rustc-cfg=agent_inside");
    }
    fs::write(out.join("inside.cpio"), archive.finish()?)?;
    Ok(())
}

/// Adds all files below `dir` but what a build of the module by hand leaves there.
fn below(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let made = [".o", ".ko", ".mod", ".mod.c", ".order", ".symvers"];
        if name.starts_with('.') || made.iter().any(|end| name.ends_with(end)) {
            continue;
        }
        if path.is_dir() {
            below(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn pack(archive: &mut Archive, name: &str, file: &Path) -> Result<(), Box<dyn Error>> {
    // As Git has it: no more than whether it is a program.
    let program = file.metadata()?.permissions().mode() & 0o100 != 0;
    let mode = if program { 0o755 } else { 0o644 };
    Ok(archive.file(name, mode, &fs::read(file)?)?)
}

/// Builds the agent as `ipirig guest build` does, and says where it is.
fn agent(checkout: &Path, target: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(cargo);
    for (name, value) in SMALL {
        cargo.env(name, value);
    }
    // What the build of this program is told is not meant for a guest.
    for name in ["CARGO_ENCODED_RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER"] {
        cargo.env_remove(name);
    }
    let output = cargo
        .args(BUILD)
        .arg(NAME)
        .args(["--target", TARGET, "--target-dir"])
        .arg(target)
        .env("RUSTFLAGS", RUSTFLAGS)
        .current_dir(checkout)
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "cannot build the guest's agent, a static program (it needs libc.a: libc6-dev, glibc-static):\n{said}"
        )
        .into());
    }
    Ok(target.join(TARGET).join("release").join(NAME))
}
