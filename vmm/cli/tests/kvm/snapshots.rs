//! Runs that restore a snapshot, and what becomes of the files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use libtest_mimic::Failed;
use serde_json::Value;
use tempfile::TempDir;

use crate::entries;
use crate::harness::{REFERENCE_MEMORY, ensure, interrupt, reference_kernel, run, stderr};

/// A cache of its own, without snapshots. The guest is that of the true one, which is read where it is: a cache does not believe
/// in links.
pub(crate) struct Cache(TempDir);

/// The cache that other runs use.
fn true_cache() -> Result<PathBuf, Failed> {
    let kernel = PathBuf::from(reference_kernel());
    let cache = kernel.ancestors().nth(3);
    Ok(cache.ok_or("a kernel without a cache")?.to_owned())
}

impl Cache {
    pub(crate) fn new() -> Result<Self, Failed> {
        Ok(Self(tempfile::tempdir()?))
    }

    /// `ipirig run static-key-flip`.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ipirig"));
        command
            .env("IPIRIG_CACHE_DIR", self.0.path())
            .args(["run", "static-key-flip", "--memory", REFERENCE_MEMORY])
            .args(["--kernel", &reference_kernel()])
            .args(["--initramfs", &entries::reference_initramfs()]);
        command
    }

    pub(crate) fn run(&self) -> Result<(Value, String), Failed> {
        let output: Output = self.command().args(["--json", "-"]).output()?;
        let table = stderr(&output);
        ensure(output.status.code() == Some(0), || table.clone())?;
        Ok((serde_json::from_slice(&output.stdout)?, table))
    }

    /// The names in the directory of snapshots.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>, Failed> {
        let directory = self.0.path().join("snapshot");
        let entries = fs::read_dir(directory)?;
        Ok(entries
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<_>>()?)
    }

    /// Takes over the snapshot of the true cache that was used last.
    fn take_newest(&self) -> Result<(), Failed> {
        let cache = true_cache()?;
        let mut newest = None;
        for entry in fs::read_dir(cache.join("snapshot"))? {
            let entry = entry?;
            newest = newest.max(Some((entry.metadata()?.modified()?, entry.path())));
        }
        let (_, path) = newest.ok_or("no snapshot")?;
        let own = self.0.path().join("snapshot");
        fs::create_dir(&own)?;
        fs::copy(&path, own.join(path.file_name().unwrap_or_default()))?;
        Ok(())
    }

    pub(crate) fn only(&self) -> Result<PathBuf, Failed> {
        match self.files()?.as_slice() {
            [one] if one.extension().is_some_and(|e| e == "snapshot") => Ok(one.clone()),
            other => Err(format!("{other:?}").into()),
        }
    }
}

/// Whether the guest booted or was restored from a snapshot.
fn booted(run: &Value) -> Result<bool, Failed> {
    match (
        run["timing"]["boot_s"].is_null(),
        run["timing"]["restored_s"].is_null(),
    ) {
        (false, true) => Ok(true),
        (true, false) => Ok(false),
        _ => Err(run["timing"].to_string().into()),
    }
}

/// What of a result has to be the same each time.
#[derive(Debug, PartialEq, Eq)]
struct Same {
    verdict: Value,
    checks: BTreeMap<String, Value>,
    /// IPIs to isolated vCPUs, by vCPU, and what they caught up with.
    isolated: Vec<(Value, Value)>,
    /// Of each entry: how it came in, its catch-up, and its danger zone.
    entries: Vec<[Value; 3]>,
}

impl Same {
    fn of(run: &Value) -> Self {
        let each = |name: &str| run[name].as_array().cloned().unwrap_or_default();
        let name = &run["scenario"]["name"];
        // One scenario has a storm of which the kernel's own bookkeeping decides how much is flushed.
        let exact = name != "bpf-jit";
        Self {
            verdict: run["verdict"].clone(),
            checks: each("checks")
                .iter()
                .map(|check| (check["name"].to_string(), check["status"].clone()))
                .collect(),
            isolated: each("vcpus")
                .iter()
                .filter(|vcpu| exact && vcpu["role"] == "isolated")
                .map(|vcpu| (vcpu["id"].clone(), vcpu["window"]["ipis_targeted"].clone()))
                .collect(),
            entries: each("entries")
                .iter()
                .map(|entry| ["began", "catch_up", "danger_zone"].map(|name| entry[name].clone()))
                .collect(),
        }
    }
}

pub(crate) fn as_cold() -> Result<(), Failed> {
    for (scenario, args, code) in [
        ("static-key-flip", vec![], 0),
        ("static-key-flip", vec!["--deferral", "off"], 1),
        ("entry-matrix", vec![], 0),
    ] {
        let (cold, _) = run(scenario, &[&args[..], &["--cold"]].concat(), code)?;
        ensure(booted(&cold)?, || "--cold did not boot".to_owned())?;
        // The first may have to make the snapshot.
        run(scenario, &args, code)?;
        let (restored, table) = run(scenario, &args, code)?;
        ensure(!booted(&restored)?, || table.clone())?;
        let (cold, restored) = (Same::of(&cold), Same::of(&restored));
        ensure(cold == restored, || {
            format!("{scenario} {args:?}\n{cold:#?}\n{restored:#?}")
        })?;
    }
    Ok(())
}

pub(crate) fn whole_catalogue() -> Result<(), Failed> {
    for (args, code) in [(vec![], 0), (vec!["--deferral", "off"], 1)] {
        let (cold, _) = run("all", &[&args[..], &["--cold"]].concat(), code)?;
        run("all", &args, code)?;
        let (restored, _) = run("all", &args, code)?;
        let runs = |suite: &Value| suite["runs"].as_array().cloned().unwrap_or_default();
        let (cold, restored) = (runs(&cold), runs(&restored));
        ensure(cold.len() == restored.len() && cold.len() >= 18, || {
            format!("{} and {} runs", cold.len(), restored.len())
        })?;
        let mut different = Vec::new();
        for (cold, restored) in cold.iter().zip(&restored) {
            ensure(booted(cold)? && !booted(restored)?, || {
                format!("{} and {}", cold["timing"], restored["timing"])
            })?;
            if Same::of(cold) != Same::of(restored) {
                different.push(format!(
                    "{}\n{:#?}\n{:#?}",
                    cold["scenario"]["name"],
                    Same::of(cold),
                    Same::of(restored)
                ));
            }
        }
        ensure(different.is_empty(), || different.join("\n"))?;
    }
    Ok(())
}

pub(crate) fn damaged() -> Result<(), Failed> {
    let cache = Cache::new()?;
    run("static-key-flip", &[], 0)?;
    cache.take_newest()?;
    let (first, table) = cache.run()?;
    ensure(!booted(&first)?, || table.clone())?;
    let snapshot = cache.only()?;
    let mut bytes = fs::read(&snapshot)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&snapshot, &bytes)?;

    let (second, table) = cache.run()?;
    ensure(booted(&second)?, || {
        "restored from what is damaged".to_owned()
    })?;
    let warning = format!(
        "warning: threw away {}: the snapshot is damaged: ",
        snapshot.display()
    );
    ensure(table.contains(&warning), || table.clone())?;

    let (third, table) = cache.run()?;
    ensure(!booted(&third)? && !table.contains("threw away"), || {
        table.clone()
    })?;
    ensure(cache.only()? == snapshot, || {
        "its name has changed".to_owned()
    })
}

/// As when it is built anew during a run.
pub(crate) fn replaced() -> Result<(), Failed> {
    run("static-key-flip", &[], 0)?;
    let dir = tempfile::tempdir()?;
    let program = dir.path().join("ipirig");
    fs::copy(env!("CARGO_BIN_EXE_ipirig"), &program)?;
    let child = Command::new(&program)
        .args(["run", "static-key-flip", "--json", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    fs::remove_file(&program)?;
    let output = child.wait_with_output()?;
    ensure(output.status.code() == Some(0), || stderr(&output))?;
    let result = serde_json::from_slice(&output.stdout)?;
    ensure(!booted(&result)?, || stderr(&output))
}

pub(crate) fn interrupted() -> Result<(), Failed> {
    let cache = Cache::new()?;
    interrupt(&mut cache.command(), "saving a snapshot")?;
    let whole = |path: &PathBuf| path.extension().is_some_and(|e| e == "snapshot");
    let files = cache.files()?;
    ensure(files.iter().all(whole), || format!("{files:?}"))?;
    // What there is, if anything, is good.
    let (_, table) = cache.run()?;
    ensure(!table.contains("threw away"), || table.clone())?;
    let left: &Path = &cache.only()?;
    ensure(left.exists(), || left.display().to_string())
}

/// Kernel and initramfs are given, and there are no guest sources.
pub(crate) fn away() -> Result<(), Failed> {
    let kernel = reference_kernel();
    let initramfs = entries::reference_initramfs();
    let own = tempfile::tempdir()?;
    let run = |cache: bool, scenarios: &[&str]| -> Result<(Value, String), Failed> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ipirig"));
        command.arg("run").args(scenarios);
        command.args(["--kernel", &kernel, "--initramfs", &initramfs]);
        command.args(["--memory", REFERENCE_MEMORY, "--json", "-"]);
        command.env("IPIRIG_GUEST_DIR", "/nonexistent");
        if cache {
            command.env("IPIRIG_CACHE_DIR", own.path());
        } else {
            for name in ["IPIRIG_CACHE_DIR", "XDG_CACHE_HOME", "HOME"] {
                command.env_remove(name);
            }
        }
        let output = command.output()?;
        let table = stderr(&output);
        ensure(output.status.code() == Some(0), || table.clone())?;
        Ok((serde_json::from_slice(&output.stdout)?, table))
    };
    for boots in [true, false] {
        let (result, table) = run(true, &["static-key-flip"])?;
        ensure(booted(&result)? == boots, || table)?;
    }
    let (suite, table) = run(false, &["static-key-flip", "vunmap-storm"])?;
    for result in suite["runs"].as_array().into_iter().flatten() {
        ensure(booted(result)?, || table.clone())?;
    }
    let reason = "no snapshot can be kept: no cache directory: set IPIRIG_CACHE_DIR";
    ensure(table.matches(reason).count() == 1, || table.clone())
}
