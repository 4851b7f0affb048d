//! What benches of whole runs have in common: `ipirig run`, and what to make of several figures. What it does not do: time parts of
//! a run; `ipirig-evidence`, `ipirig-machine` and `ipirig-apic` have benches of their own.

use std::env;
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode};
use std::sync::OnceLock;

use serde_json::Value;

/// The numbers on the command line: `cargo bench` adds words of its own.
pub fn numbers() -> Vec<usize> {
    env::args()
        .skip(1)
        .filter_map(|arg| arg.parse().ok())
        .collect()
}

/// A bench's end.
pub fn end(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// The command line, built as this bench is: before the first run, and not between those that are timed.
fn program() -> Result<PathBuf, String> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PROGRAM.get_or_init(build).clone()
}

fn build() -> Result<PathBuf, String> {
    let told = |error: std::io::Error| error.to_string();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "--package", "ipirig"])
        .status()
        .map_err(told)?;
    if !built.success() {
        return Err("ipirig cannot be built".to_owned());
    }
    // target/release/deps/run-0123456789abcdef
    let bench = env::current_exe().map_err(told)?;
    let release = bench.ancestors().nth(2);
    let program = release.map(|release| release.join("ipirig"));
    program.ok_or_else(|| format!("{} is in no target directory", bench.display()))
}

/// The result of `ipirig run static-key-flip` with more arguments; `meanwhile` may watch the process.
/// An error, with what it said, if it has no window that was held.
pub fn run(args: &[&str], meanwhile: impl FnOnce(&mut Child)) -> Result<Value, String> {
    let told = |error: std::io::Error| error.to_string();
    let json = tempfile::NamedTempFile::new().map_err(told)?;
    let mut words = tempfile::tempfile().map_err(told)?;
    let mut child = Command::new(program()?)
        .args(["run", "static-key-flip", "--json"])
        .arg(json.path())
        .args(args)
        .stdout(words.try_clone().map_err(told)?)
        .stderr(words.try_clone().map_err(told)?)
        .spawn()
        .map_err(told)?;
    meanwhile(&mut child);
    child.wait().map_err(told)?;
    // By its path: the file is replaced, not written into.
    let text = std::fs::read_to_string(json.path()).map_err(told)?;
    match serde_json::from_str::<Value>(&text) {
        Ok(result) if result["verdict"] == "held" => Ok(result),
        _ => {
            let mut text = String::new();
            words.rewind().map_err(told)?;
            words.read_to_string(&mut text).map_err(told)?;
            Err(text)
        }
    }
}

/// A time of a result, in seconds.
pub fn seconds(result: &Value, name: &str) -> Result<f64, String> {
    result["timing"][name]
        .as_f64()
        .ok_or_else(|| format!("no timing.{name} in the result"))
}

/// The median; NaN of nothing.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
