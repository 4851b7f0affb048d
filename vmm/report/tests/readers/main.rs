//! Reports as other people's programs read them. Where a reader is not at hand its test is listed as
//! ignored with the reason; none passes unrun.

mod kunit;

#[path = "../../src/testing.rs"]
mod testing;

use std::process::{Command, Stdio};

use libtest_mimic::{Arguments, Trial};

fn main() {
    let args = Arguments::from_args();
    let found = kunit::find();
    let lacking = found.as_ref().err().cloned();
    let trial = Trial::test("the_kernels_own_ktap_reader_agrees", move || {
        kunit::agrees(&found?)
    });
    let trial = trial
        .with_kind(lacking.clone().unwrap_or_default())
        .with_ignored_flag(lacking.is_some());
    libtest_mimic::run(&args, vec![trial]).exit();
}

/// Whether a program is there and says its version.
fn works(program: &str) -> bool {
    let version = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    version.is_ok_and(|status| status.success())
}
