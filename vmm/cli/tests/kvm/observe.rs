//! Observations on real KVM.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use ipirig_guest::stock::StockRequest;
use libtest_mimic::Failed;
use serde_json::Value;

use crate::harness::{ensure, ipirig, stderr};

/// Stock kernels that are observed where they have been built, which takes minutes each: a version, and
/// the name of its test.
pub(crate) const STOCK: &[(&str, &str)] = &[
    ("6.1", "a_stock_kernel_of_6_1_is_observed_under_load"),
    ("6.12", "a_stock_kernel_of_6_12_is_observed_under_load"),
    ("7.2", "a_stock_kernel_of_7_2_is_observed_under_load"),
];

/// Why a version cannot be observed.
pub(crate) fn no_stock(version: &str) -> Option<String> {
    not_built(version, false)
}

/// Why a kernel of Debian's source cannot be run, with the reference series or without.
pub(crate) fn not_built(version: &str, series: bool) -> Option<String> {
    let request = StockRequest {
        version: version.to_owned(),
        series,
        ..StockRequest::default()
    };
    let with = if series { " --series" } else { "" };
    match ipirig_guest::stock::cached(&request) {
        Ok(Some(_)) => None,
        Ok(None) => Some(format!(
            "not in the cache: `ipirig guest build --stock {version}{with}` builds it"
        )),
        Err(error) => Some(error.to_string()),
    }
}

/// Observes with `--json -`, checks the exit code and gives the report and the table.
fn observe(args: &[&str], code: i32) -> Result<(Value, String), Failed> {
    let output = ipirig(&[&["observe", "--json", "-"], args].concat());
    let table = stderr(&output);
    ensure(output.status.code() == Some(code), || {
        format!("{:?} instead of exit code {code}\n{table}", output.status)
    })?;
    Ok((serde_json::from_slice(&output.stdout)?, table))
}

/// IPIs to the isolated vCPU, by the ledger and by their origins.
fn isolated(report: &Value) -> (u64, u64) {
    let sum = |counts: &Value| -> u64 {
        let counts = counts.as_object().into_iter().flatten();
        counts.filter_map(|(_, count)| count.as_u64()).sum()
    };
    let observation = &report["observation"];
    let origins = observation["origins"].as_array().into_iter().flatten();
    (
        sum(&observation["isolated"][0]["ipis"]),
        origins.map(|origin| sum(&origin["targets"])).sum(),
    )
}

pub(crate) fn deferral() -> Result<(), Failed> {
    let load = ["--for", "3", "--max-ipis", "0", "--", "load", "keys"];
    let (report, table) = observe(&load, 0)?;
    ensure(isolated(&report) == (0, 0), || table.clone())?;
    ensure(
        report["observation"]["command"]["ending"] == "time-up",
        || table,
    )?;

    let (report, table) = observe(&[&["--deferral", "off"], &load[..]].concat(), 1)?;
    let (ipis, of_origins) = isolated(&report);
    ensure(ipis > 0 && ipis == of_origins, || {
        format!("{ipis} IPIs, {of_origins} by origin\n{table}")
    })
}

/// A static program that prints `hi`, a newline, and exits with 5.
fn tiny_program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let code: &[u8] = &[
        0xb8, 1, 0, 0, 0, // mov eax, 1: write
        0xbf, 1, 0, 0, 0, // mov edi, 1
        0x48, 0x8d, 0x35, 19, 0, 0, 0, // lea rsi, [rip + 19]: the text
        0xba, 3, 0, 0, 0, // mov edx, 3
        0x0f, 0x05, // syscall
        0xb8, 60, 0, 0, 0, // mov eax, 60: exit
        0xbf, 5, 0, 0, 0, // mov edi, 5
        0x0f, 0x05, // syscall
        b'h', b'i', b'\n',
    ];
    let size = HEADERS + code.len() as u64;
    // Elf64_Ehdr and Elf64_Phdr: elf(5).
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2_u16, 62] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1_u32.to_le_bytes());
    for word in [BASE + HEADERS, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 64, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    for flags in [1_u32, 5] {
        elf.extend(flags.to_le_bytes());
    }
    for word in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}

pub(crate) fn program() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let (program, output) = (dir.path().join("tiny"), dir.path().join("output"));
    fs::write(&program, tiny_program())?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let file = format!("{}:/opt/tiny", program.display());
    let to = output.display().to_string();
    let args = [
        "--ignore-exit-code",
        "--file",
        &file,
        "--output",
        &to,
        "--",
        "/opt/tiny",
        "-x",
    ];
    // A command that failed is no observation, unless that is said to be one.
    observe(&args[1..], 3)?;
    // A guest that has booted serves any command.
    let (report, table) = observe(&args, 0)?;
    ensure(!report["timing"]["restored_s"].is_null(), || table.clone())?;
    let command = &report["observation"]["command"];
    ensure(
        command["ending"] == "exited" && command["code"] == 5,
        || format!("{command}\n{table}"),
    )?;
    ensure(fs::read_to_string(&output)? == "hi\n", || table.clone())?;
    ensure(
        table.contains("  | hi\n") && table.contains("exited with 5"),
        || table.clone(),
    )
}

pub(crate) fn missing() -> Result<(), Failed> {
    let (report, table) = observe(&["--", "nonesuch", "-x"], 3)?;
    let evidence = report["checks"][0]["evidence"].as_str().unwrap_or_default();
    ensure(evidence.contains("find nonesuch in the guest"), || {
        format!("{evidence}\n{table}")
    })
}

pub(crate) fn stock(version: &str) -> Result<(), Failed> {
    // By rounds: in ten seconds, a slow host does not come to the end of the first.
    let args = format!("--stock {version} --for 300 -- load --rounds 3 fork bpf net");
    let (report, table) = observe(&args.split(' ').collect::<Vec<_>>(), 0)?;
    ensure(
        report["observation"]["command"]["ending"] == "exited",
        || table.clone(),
    )?;
    let release = report["kernel"]["release"].as_str().unwrap_or_default();
    ensure(release.starts_with(&format!("{version}.")), || {
        format!("{release}\n{table}")
    })?;
    let (ipis, of_origins) = isolated(&report);
    ensure(ipis > 0 && ipis == of_origins, || {
        format!("{ipis} IPIs, {of_origins} by origin\n{table}")
    })?;
    // vCPU 2 is the isolated one.
    let blame = report["blame"].as_array().into_iter().flatten();
    let causes: BTreeSet<&str> = blame
        .filter(|blame| !blame["targets"]["2"].is_null())
        .filter_map(|blame| blame["cause"].as_str())
        .collect();
    ensure(
        causes.contains("static key") && !causes.contains("unknown"),
        || format!("{causes:?}\n{table}"),
    )?;
    ensure(!table.contains("lacking"), || table)
}
