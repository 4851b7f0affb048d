//! Progress on standard error: a spinner or a bar on a terminal, which vanishes; else a plain line
//! a stage.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::say;

/// Shows one thing at a time.
#[derive(Debug)]
pub(crate) struct Progress {
    /// `None`: not a terminal.
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Progress for whoever reads standard error. `quiet`: something else is shown there, such as
    /// the guest's console, that a bar would garble; then lines it is.
    pub(crate) fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar }
    }

    /// A stage begins.
    pub(crate) fn stage(&self, name: &str) {
        match &self.bar {
            None => say(&format!("ipirig: {name}\n")),
            Some(bar) => {
                bar.set_style(ProgressStyle::default_spinner());
                bar.set_message(name.to_owned());
            }
        }
    }

    /// Something to know, which stays.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            None => say(&format!("ipirig: {text}\n")),
            Some(bar) => bar.println(format!("ipirig: {text}")),
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
