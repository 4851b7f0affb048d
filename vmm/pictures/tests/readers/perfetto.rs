//! The trace, read by Perfetto's trace processor: the one that its UI runs, in WebAssembly.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use ipirig_pictures::trace::chrome_trace;
use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::{specimen, works};

/// Where Perfetto's UI is.
const PLACE: &str = "IPIRIG_PERFETTO";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/readers/perfetto.js");

pub(crate) fn find() -> Result<PathBuf, String> {
    if !works("node") {
        return Err("no node".to_owned());
    }
    let place = env::var_os(PLACE).ok_or_else(|| {
        format!("{PLACE} does not say where Perfetto's UI is: `.ci/perfetto DIR` fetches it")
    })?;
    let place = PathBuf::from(place);
    if place.join("engine_bundle.js").is_file() {
        Ok(place)
    } else {
        Err(format!("no engine_bundle.js in {}", place.display()))
    }
}

/// What Perfetto answers to each query.
fn ask(perfetto: &Path, trace: &Path, queries: &[&str]) -> Result<Vec<Value>, Failed> {
    let output = Command::new("node")
        .arg(SCRIPT)
        .args([perfetto, trace])
        .args(queries)
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        // The bundle is on one line of its own.
        let short = said.lines().filter(|line| line.len() < 1000);
        return Err(short.collect::<Vec<_>>().join("\n").into());
    }
    let answers = String::from_utf8(output.stdout)?;
    Ok(answers
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?)
}

pub(crate) fn agrees(perfetto: &Path) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let trace = dir.path().join("trace.json");
    let run = specimen::violated();
    chrome_trace(std::slice::from_ref(&run), File::create(&trace)?)?;
    let answers = ask(
        perfetto,
        &trace,
        &[
            "select name from thread where name is not null order by utid",
            "select sent.ts, sender.name, taken.ts, target.name from flow \
             join slice sent on sent.id = flow.slice_out \
             join slice taken on taken.id = flow.slice_in \
             join thread_track a on a.id = sent.track_id join thread sender on sender.utid = a.utid \
             join thread_track b on b.id = taken.track_id join thread target on target.utid = b.utid \
             order by 1, 3",
            "select distinct dur from slice where name = 'window'",
            "select name, value from stats where severity != 'info' and value > 0",
        ],
    )?;

    let threads = run
        .vcpus
        .iter()
        .map(|vcpu| format!("vCPU {} {}", vcpu.id, vcpu.role));
    let threads: Vec<Value> = ["phases".to_owned()]
        .into_iter()
        .chain(threads)
        .map(|name| json!([name]))
        .collect();
    // The trace begins with the run, at 1 ms of the machine's clock.
    let arrow = |sent_ns: u64, taken_ns: u64, target: &str| {
        let [sent, taken] = [sent_ns, taken_ns].map(|ns| ns - 1_000_000);
        json!([sent, "vCPU 0 control", taken, target])
    };
    let expected = [
        json!(threads),
        json!([
            arrow(6_500_000, 6_500_400, "vCPU 1 housekeeping"),
            arrow(6_500_000, 6_500_700, "vCPU 2 isolated"),
            arrow(7_500_000, 7_500_900, "vCPU 2 isolated"),
        ]),
        json!([[4_000_000]]),
        json!([]),
    ];
    if answers == expected {
        Ok(())
    } else {
        Err(format!("{answers:?}\ninstead of\n{expected:?}").into())
    }
}
