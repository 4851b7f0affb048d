//! Looks for a C compiler, so that the test of the module's header can say that it was left out.

use std::io::Write;
use std::process::{Command, Stdio};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(has_cc)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PATH");
    if preprocesses("#include <linux/ioctl.h>\n") {
        println!("cargo::rustc-cfg=has_cc");
    }
}

/// Whether there is a `cc`, with the kernel's headers for user space.
fn preprocesses(source: &str) -> bool {
    let Ok(mut cc) = Command::new("cc")
        .args(["-E", "-x", "c", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
    else {
        return false;
    };
    let written = cc
        .stdin
        .take()
        .is_some_and(|mut pipe| pipe.write_all(source.as_bytes()).is_ok());
    written && cc.wait().is_ok_and(|status| status.success())
}
