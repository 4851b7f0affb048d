//! Progress on standard error: a spinner or a bar on a terminal, which vanishes; else a plain line
//! a stage.

use std::env;
use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use ipirig_terminal::text::line;

use crate::say::say;

/// Shows one thing at a time.
#[derive(Debug)]
pub(crate) struct Progress {
    /// `None`: not a terminal.
    bar: Option<ProgressBar>,
    /// Packages may be installed without a question.
    installs: bool,
}

impl Progress {
    /// Progress for whoever reads standard error. `quiet`: something else is shown there, such as
    /// the guest's console, that a bar would garble; then lines it is.
    pub(crate) fn new(quiet: bool) -> Self {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self {
            bar,
            installs: false,
        }
    }

    /// The same where packages that a build needs are installed without a question, if `installs`.
    pub(crate) fn installing(mut self, installs: bool) -> Self {
        self.installs = installs;
        self
    }

    /// A stage begins.
    pub(crate) fn stage(&self, name: &str) {
        match &self.bar {
            None => say(&format!("ipirig: {name}\n")),
            Some(bar) => {
                bar.set_style(ProgressStyle::default_spinner());
                bar.set_message(line(name).into_owned());
            }
        }
    }

    /// Something to know, which stays.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            None => say(&format!("ipirig: {text}\n")),
            Some(bar) => bar.println(format!("ipirig: {}", line(text))),
        }
    }

    /// Whether what is shown takes the place of what was.
    pub(crate) fn is_live(&self) -> bool {
        self.bar.is_some()
    }

    /// Nothing more to show.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

impl ipirig_guest::Progress for Progress {
    fn stage(&self, name: &str) {
        Progress::stage(self, name);
    }

    fn note(&self, text: &str) {
        Progress::note(self, text);
    }

    fn may_install(&self, packages: &[&str]) -> bool {
        let ci = env::var_os("CI").is_some_and(|ci| ci == "true");
        let terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
        let ask = || {
            let packages = packages.join(" ");
            say(&format!("ipirig: install {packages} with apt-get? [y/N] "));
            let mut answer = String::new();
            // Without an answer it is no.
            let _ = io::stdin().read_line(&mut answer);
            answer
        };
        consent(self.installs || ci, terminal, || match &self.bar {
            None => ask(),
            Some(bar) => bar.suspend(ask),
        })
    }

    fn step(&self, done: u64, total: Option<u64>) {
        let Some(bar) = &self.bar else { return };
        if let Some(total) = total {
            // A constant template, so it parses; the spinner stays if it ever should not.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {wide_bar} {eta}") {
                bar.set_style(style);
            }
            bar.set_length(total);
        }
        bar.set_position(done);
    }
}

/// Whether something may be changed on this machine: `given` beforehand, or on a terminal by whoever sits there.
fn consent(given: bool, terminal: bool, ask: impl FnOnce() -> String) -> bool {
    given || (terminal && matches!(ask().trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_installed_if_that_was_asked_for_or_somebody_says_yes() {
        let never = || panic!("nobody is there to be asked");
        assert!(consent(true, false, never));
        assert!(!consent(false, false, never));
        let said = ["y\n", "yes\n", "\n", "", "n\n"]
            .map(|answer| consent(false, true, || answer.to_owned()));
        assert_eq!(said, [true, true, false, false, false]);
    }
}
