//! What is for machines: JSON that fits its schema, reports, the gate, exit codes for git.

use std::path::Path;
use std::process::{Command, Output};

use libtest_mimic::Failed;
use serde_json::Value;

use crate::harness::{REFERENCE_MEMORY, ensure, ipirig, stderr};

/// Fits `results/schema.json`, as someone else's validator says.
pub(crate) fn fits_the_schema(json: &Value) -> Result<(), Failed> {
    let schema = include_str!("../../../../results/schema.json");
    let schema: Value = serde_json::from_str(schema)?;
    let validator = jsonschema::validator_for(&schema).map_err(|error| error.to_string())?;
    let errors: Vec<String> = validator
        .iter_errors(json)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    ensure(errors.is_empty(), || errors.join("\n"))
}

/// A mutant that never spares a CPU.
pub(crate) fn gate() -> Result<(), Failed> {
    let patch = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../guest/kernel/mutants/never-skips.patch"
    );
    let guest = ipirig(&["guest", "path", "--patch", patch]);
    let paths = String::from_utf8_lossy(&guest.stdout).into_owned();
    let path = |what: &str| {
        let mut lines = paths.lines().filter_map(|line| line.strip_prefix(what));
        lines.next().unwrap_or_default().trim().to_owned()
    };
    let (kernel, initramfs) = (path("kernel "), path("initramfs "));
    let files = ["--kernel", &kernel, "--initramfs", &initramfs];
    let args = ["gate", "static-key-flip", "--memory", REFERENCE_MEMORY];
    let output = ipirig(&[&args[..], &files].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let whole = || format!("{text}\n{}", stderr(&output));
    ensure(output.status.code() == Some(1), whole)?;
    for words in [
        "changed     static-key-flip\n            verdict: held -> violated\n",
        "check isolated-ipis: held -> violated\n",
        "IPIs to isolated vCPUs, call-function: 0 -> 303 (3.00 an operation)\n",
        "0 same, 1 changed, 0 not known\n",
    ] {
        ensure(text.contains(words), whole)?;
    }
    Ok(())
}

/// Commits of a switch: the third turns deferral off.
pub(crate) fn bisection() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let git = |args: &[&str]| -> Result<Output, Failed> {
        let output = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
            .args(args)
            .current_dir(dir.path())
            .output()?;
        Ok(output)
    };
    let done = |args: &[&str]| {
        let output = git(args)?;
        ensure(output.status.success(), || stderr(&output))
    };
    done(&["init", "-q"])?;
    for (name, deferral) in [("1", "on"), ("2", "on"), ("3", "off"), ("4", "off")] {
        std::fs::write(dir.path().join("deferral"), deferral)?;
        std::fs::write(dir.path().join("number"), name)?;
        done(&["add", "."])?;
        done(&["commit", "-q", "-m", name])?;
        done(&["tag", name])?;
    }
    done(&["bisect", "start", "4", "1"])?;
    let run = format!(
        "{} run static-key-flip --bisect --deferral \"$(cat deferral)\"",
        env!("CARGO_BIN_EXE_ipirig")
    );
    let output = git(&["bisect", "run", "sh", "-c", &run])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure(output.status.success(), || {
        format!("{text}\n{}", stderr(&output))
    })?;
    let bad = git(&["show", "-s", "--format=%s", "refs/bisect/bad"])?;
    ensure(bad.stdout == b"3\n", || text)
}

/// A run that is skipped, as KTAP, as annotation and summary, and to git.
pub(crate) fn reports() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let summary = dir.path().join("summary.md");
    std::fs::write(&summary, "before\n")?;
    // Mounts made inside do not come out: unshare(1) makes all of them private.
    let run = |args: &str| {
        let ipirig = env!("CARGO_BIN_EXE_ipirig");
        let script = format!("mount -t tmpfs none /dev && exec {ipirig} run {args}");
        Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .env("GITHUB_ACTIONS", "true")
            .env("GITHUB_STEP_SUMMARY", &summary)
            .env("GITHUB_WORKSPACE", workspace())
            .current_dir(workspace())
            .output()
    };
    let output = run("static-key-flip --bisect --ktap -")?;
    let whole = || stderr(&output);
    ensure(output.status.code() == Some(125), whole)?;
    let ktap = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = "\
KTAP version 1
1..1
  KTAP version 1
  # Subtest: static-key-flip
  1..1
  # run: /dev/kvm does not exist
  ok 1 run # SKIP /dev/kvm does not exist
# static-key-flip: 101 static key flips, deferral on
ok 1 static-key-flip # SKIP run: /dev/kvm does not exist
";
    ensure(ktap == expected, || ktap.clone())?;
    let annotation = "::warning file=scenarios/static-key-flip.toml,\
                      title=static-key-flip%3A run skipped::/dev/kvm does not exist\n";
    ensure(stderr(&output).contains(annotation), whole)?;
    let text = std::fs::read_to_string(&summary)?;
    let row = "before\n### ipirig\n";
    ensure(
        text.starts_with(row) && text.contains("**skipped** | static-key-flip | on |"),
        || text.clone(),
    )?;

    let xml = dir.path().join("report.xml");
    let two = format!("static-key-flip vunmap-storm --junit {}", xml.display());
    let output = run(&two)?;
    ensure(output.status.code() == Some(4), || stderr(&output))?;
    let xml = std::fs::read_to_string(xml)?;
    let totals = r#"<testsuites name="ipirig" tests="2" skipped="2" failures="0" errors="0""#;
    ensure(xml.contains(totals), || xml.clone())?;
    // Each format tells the two runs of one scenario apart.
    let file = |name: &str| dir.path().join(name).display().to_string();
    let formats = ["json", "ktap", "junit", "html"].map(|format| (format, file(format)));
    let options = formats
        .iter()
        .map(|(option, path)| format!(" --{option} {path}"));
    let twice = "vmap-stack vmap-stack".to_owned() + &options.collect::<String>();
    let output = run(&twice)?;
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure(table.contains("skipped   vmap-stack:2 "), || table.clone())?;
    for (format, path) in formats {
        let text = std::fs::read_to_string(path)?;
        let count = text.matches("vmap-stack:2").count();
        ensure(count > 0, || format!("{format}: {text}"))?;
    }
    let allowed = run("vmap-stack vmap-stack --allow-skipped vmap-stack")?;
    let hint = "hint: what was skipped may be missing: `--allow-skipped vmap-stack`";
    ensure(stderr(&output).contains(hint), || stderr(&output))?;
    ensure(!stderr(&allowed).contains(hint), || stderr(&allowed))?;
    let file = "file=scenarios/vmap-stack.toml,title=vmap-stack%3A2%3A run skipped";
    ensure(stderr(&output).contains(file), || stderr(&output))?;
    // Whatever may be skipped: where nothing was run nothing held.
    let output = run("static-key-flip vunmap-storm --allow-skipped all")?;
    ensure(output.status.code() == Some(4), || stderr(&output))
}

fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
