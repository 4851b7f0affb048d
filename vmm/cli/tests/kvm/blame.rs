//! Who is blamed for the IPIs of a stock kernel, on real KVM.

use libtest_mimic::Failed;
use serde_json::Value;

use crate::harness::{ensure, ipirig, run, stderr, targeted};

/// With `--deferral off` every IPI to the isolated vCPU is put down to one cause by a chain that goes
/// out through the function `through` and `ipirig.ko` to the entry from user space.
pub(crate) fn every_ipi_has_its_cause(
    scenario: &str,
    cause: &str,
    through: &str,
) -> Result<(), Failed> {
    let (result, table) = run(scenario, &["--deferral", "off"], 1)?;
    let isolated = targeted(&result, "isolated").ok_or("no isolated vCPU")?;
    let mut blamed = 0;
    for blame in result["blame"].as_array().into_iter().flatten() {
        let Some(count) = blame["targets"]["2"].as_u64() else {
            continue;
        };
        let ours = blame["cause"] == cause && blame["source"] == 0;
        ensure(ours && blame["deferrable"] == "yes", || blame.to_string())?;
        let functions = functions(blame);
        // Then out through the module, whichever of its functions the compiler inlined.
        let mut outer = functions.iter().skip_while(|name| *name != through);
        let module = outer.any(|name| name.ends_with(" [ipirig]"));
        ensure(module, || functions.join(" <- "))?;
        let last = functions.last().map_or("", String::as_str);
        // Whole: from the ICR write to the system call.
        ensure(last.starts_with("entry_SYSCALL_64"), || {
            functions.join(" <- ")
        })?;
        ensure(
            functions[0].contains("end_IPI") && blame["broken"].is_null(),
            || blame.to_string(),
        )?;
        blamed += count;
    }
    ensure(isolated > 0 && blamed == isolated, || {
        format!("{blamed} of {isolated} IPIs have a cause\n{table}")
    })?;
    let summary = format!("{isolated} {cause} (deferrable)");
    ensure(table.contains(&summary), || table.clone())?;
    let line = format!("; {cause}, deferrable");
    ensure(table.contains(&line), || table.clone())
}

/// Names, innermost first.
fn functions(blame: &Value) -> Vec<String> {
    let frames = blame["chain"].as_array().into_iter().flatten();
    let name = |frame: &Value| frame["function"].as_str().unwrap_or("?").to_owned();
    frames.map(name).collect()
}

/// `ipirig blame` gives the same from a run and from its JSON, and writes folded stacks; without
/// stacks nobody is blamed.
pub(crate) fn by_the_command() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (json, live, read) = (path("result.json"), path("live"), path("read"));
    let blame = |what: &str, args: &[&str]| -> Result<String, Failed> {
        let output = ipirig(&[&["blame", what][..], args].concat());
        ensure(output.status.code() == Some(0), || stderr(&output))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let args = ["--deferral", "off", "--json", &json, "--folded", &live];
    let run = blame("static-key-flip", &args)?;
    let from_json = blame(&json, &["--folded", &read])?;
    ensure(run == from_json, || format!("{run}\n{from_json}"))?;
    ensure(run.contains(" static key, deferrable\n"), || run.clone())?;
    let folded = std::fs::read_to_string(&live)?;
    ensure(folded == std::fs::read_to_string(&read)?, || folded.clone())?;
    let counts: Option<u64> = folded
        .lines()
        .map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum();
    ensure(counts >= Some(303), || folded.clone())?;
    ensure(folded.contains("_[ipirig];"), || folded.clone())?;
    let all = blame(&json, &["--to", "all"])?;
    ensure(all.contains(" IPIs to vCPUs, by cause"), || all.clone())
}

pub(crate) fn nobody_without_stacks() -> Result<(), Failed> {
    let (result, table) = run("static-key-flip", &["--deferral", "off", "--no-stacks"], 1)?;
    ensure(result["blame"] == serde_json::json!([]), || {
        result["blame"].to_string()
    })?;
    ensure(!table.contains("IPIs to isolated vCPUs"), || table.clone())
}
