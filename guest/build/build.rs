//! Tells the crate which compiler it was built with, so that the agent is built again when the
//! toolchain changes, and no `rustc` has to be started to find a cached agent.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    match Command::new(&rustc).arg("-vV").output() {
        Ok(out) if out.status.success() => {
            let version = String::from_utf8_lossy(&out.stdout).replace('\n', "; ");
            println!("cargo::rustc-env=IPIRIG_RUSTC={version}");
        }
        other => println!("cargo::error={} -vV: {other:?}", rustc.display()),
    }
}
