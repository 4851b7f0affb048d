//! The page, in Chromium.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ipirig_pictures::html::{Provenance, html, observation};
use libtest_mimic::Failed;

use crate::{specimen, works};

pub(crate) fn find() -> Result<PathBuf, String> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names.into_iter().find(|name| works(name));
    found.map(PathBuf::from).ok_or("no Chromium".to_owned())
}

struct Browser<'a> {
    program: &'a Path,
    /// Its profile, the pages and the pictures.
    dir: &'a Path,
}

impl Browser<'_> {
    fn open(&self, page: &str, args: &[String]) -> Result<Output, Failed> {
        let file = self.dir.join("page.html");
        fs::write(&file, page)?;
        let output = Command::new(self.program)
            .args(["--headless", "--disable-gpu", "--enable-logging=stderr"])
            // Root has to do without, and a page of ours needs none.
            .arg("--no-sandbox")
            .arg(format!("--user-data-dir={}", self.dir.display()))
            .args(args)
            .arg(format!("file://{}", file.display()))
            .output()?;
        if output.status.success() {
            Ok(output)
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned().into())
        }
    }

    /// The document as it stands, and what the page made the browser complain of: what is against its
    /// policy, to fetch anything above all, and what is wrong with it.
    fn read(&self, page: &str) -> Result<(String, Vec<String>), Failed> {
        let output = self.open(page, &["--dump-dom".to_owned()])?;
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let complaints = log.lines().filter(|line| line.contains(":CONSOLE"));
        let complaints = complaints.map(str::to_owned).collect();
        Ok((String::from_utf8(output.stdout)?, complaints))
    }

    /// A picture of the page, as PNG. Blink's number of a colour scheme: 0 is dark, 1 is light.
    fn picture(&self, page: &str, scheme: u8) -> Result<Vec<u8>, Failed> {
        let file = self.dir.join("page.png");
        let args = [
            format!("--screenshot={}", file.display()),
            format!("--blink-settings=preferredColorScheme={scheme}"),
        ];
        self.open(page, &args)?;
        let picture = fs::read(&file)?;
        fs::remove_file(file)?;
        Ok(picture)
    }
}

pub(crate) fn shows(program: &Path) -> Result<(), Failed> {
    let page = html(&[specimen::violated()], &Provenance::default())?;
    let shown = [
        "vCPU 2: 2 IPIs (call-function 2)",
        "text_poke_sync",
        "</svg>",
    ];
    reads(program, &page, &shown)
}

pub(crate) fn shows_an_observation(program: &Path) -> Result<(), Failed> {
    let page = observation(&specimen::observed(), &Provenance::default())?;
    let shown = [
        "queued work by smp_call_on_cpu",
        "stop the static key",
        "text_poke_sync",
        "</svg>",
    ];
    reads(program, &page, &shown)
}

fn reads(program: &Path, page: &str, shown: &[&str]) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let browser = Browser {
        program,
        dir: dir.path(),
    };

    let (document, complaints) = browser.read(page)?;
    if !complaints.is_empty() {
        return Err(complaints.join("\n").into());
    }
    for part in shown {
        if !document.contains(*part) {
            return Err(format!("no {part:?} in\n{document}").into());
        }
    }

    // So it would complain.
    let fetching = page.replace("</body>", "<img src=\"http://192.0.2.1/x.png\"></body>");
    let (_, complaints) = browser.read(&fetching)?;
    if !complaints.iter().any(|line| line.contains("192.0.2.1")) {
        return Err("a page that fetches a picture is as good as one that does not".into());
    }

    let [dark, light] = [0, 1].map(|scheme| browser.picture(page, scheme));
    if dark? == light? {
        return Err("light and dark look the same".into());
    }
    Ok(())
}
