//! Pictures as other people's programs read them. Where a reader is not at hand its test is listed as
//! ignored with the reason; none passes unrun.

mod chromium;
mod perfetto;

#[path = "../../src/specimen.rs"]
mod specimen;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};

/// A test, and where what it needs is, or why it is not there.
type Reading = (
    &'static str,
    fn() -> Result<PathBuf, String>,
    fn(&Path) -> Result<(), Failed>,
);

const READINGS: &[Reading] = &[
    (
        "perfetto_finds_each_ipi_where_it_was_sent_and_taken",
        perfetto::find,
        perfetto::agrees,
    ),
    (
        "chromium_shows_the_page_and_asks_nobody_for_anything",
        chromium::find,
        chromium::shows,
    ),
    (
        "chromium_shows_the_page_of_an_observation_and_asks_nobody_for_anything",
        chromium::find,
        chromium::shows_an_observation,
    ),
];

fn main() {
    let args = Arguments::from_args();
    let trials = READINGS.iter().map(|&(name, find, read)| {
        let found = find();
        let lacking = found.as_ref().err().cloned();
        Trial::test(name, move || read(&found?))
            .with_kind(lacking.clone().unwrap_or_default())
            .with_ignored_flag(lacking.is_some())
    });
    libtest_mimic::run(&args, trials.collect()).exit();
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
