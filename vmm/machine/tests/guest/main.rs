//! Guests of a few instructions on the real KVM.
//!
//! Each test boots assembler text as the kernel and looks at what the machine reports of it. There
//! is no Linux here: that the whole works for a kernel is `ipirig`'s own business.
//!
//! Where /dev/kvm is missing or may not be opened, every test is listed as ignored, so that none
//! passes without having run. The listing shows the reason in brackets before each name.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a fixture that fails should stop its test"
)]

mod checkpoints;
mod debugging;
mod ending;
mod flags;
mod harness;
mod hostile;
mod image;
mod injection;
mod inspection;
mod ipis;
mod oracle;
mod placed;
mod pmu;
mod recording;
mod sandbox;
mod senders;
mod snapshots;
mod startup;
mod timer;

use std::process::ExitCode;

use ipirig_machine::{ApicMode, Host};
use libtest_mimic::{Arguments, Trial};

/// The tests, and why some or all of them cannot be run here.
struct Suite {
    no_kvm: Option<String>,
    no_x2apic: Option<String>,
    no_stepping: Option<String>,
    no_tsc_writes: Option<String>,
    trials: Vec<Trial>,
}

impl Suite {
    /// A test that does not care for the APIC's face.
    fn once(&mut self, name: &str, test: fn()) {
        self.add(name.to_owned(), self.no_kvm.clone(), test);
    }

    /// A test of each face of the APIC.
    fn both(&mut self, name: &str, test: fn(ApicMode)) {
        self.add(format!("xapic::{name}"), self.no_kvm.clone(), move || {
            test(ApicMode::Xapic);
        });
        let reason = self.no_kvm.clone().or_else(|| self.no_x2apic.clone());
        self.add(format!("x2apic::{name}"), reason, move || {
            test(ApicMode::X2apic);
        });
    }

    /// A test of what only x2APIC has.
    fn x2apic(&mut self, name: &str, test: fn()) {
        let reason = self.no_kvm.clone().or_else(|| self.no_x2apic.clone());
        self.add(format!("x2apic::{name}"), reason, test);
    }

    /// A measurement of x2APIC: run only when asked for, by `--ignored` and its name.
    fn measurement(&mut self, name: &str, test: fn()) {
        let reason = self.no_kvm.clone().or_else(|| self.no_x2apic.clone());
        let reason = reason.unwrap_or_else(|| "measures, judges nothing".to_owned());
        self.add(name.to_owned(), Some(reason), test);
    }

    /// A test that takes too long for each time: run only when asked for, by `--ignored` and its name.
    fn long(&mut self, name: &str, test: fn()) {
        let reason = self.no_kvm.clone();
        let reason = reason.unwrap_or_else(|| "takes long".to_owned());
        self.add(name.to_owned(), Some(reason), test);
    }

    /// A test that steps the guest's kernel.
    fn stepping(&mut self, name: &str, test: fn()) {
        let reason = self.no_kvm.clone().or_else(|| self.no_stepping.clone());
        self.add(name.to_owned(), reason, test);
    }

    /// A test that sets the guest's TSC.
    fn tsc(&mut self, name: &str, test: fn()) {
        let reason = self.no_kvm.clone().or_else(|| self.no_tsc_writes.clone());
        self.add(name.to_owned(), reason, test);
    }

    fn add(&mut self, name: String, reason: Option<String>, test: impl Fn() + Send + 'static) {
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        // Runners print the kind in front of the name, nextest too: the reason goes there.
        let trial = match reason {
            Some(reason) => trial.with_ignored_flag(true).with_kind(reason),
            None => trial,
        };
        self.trials.push(trial);
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let host = Host::probe();
    let mut suite = Suite {
        no_kvm: host.as_ref().err().and_then(harness::no_kvm),
        no_x2apic: host
            .as_ref()
            .is_ok_and(|host| !host.facts().x2apic)
            .then(|| "no x2APIC registers in user space".to_owned()),
        no_stepping: host
            .as_ref()
            .ok()
            .and_then(|host| host.facts().debug.lack()),
        no_tsc_writes: host.as_ref().ok().and_then(|host| {
            let mut probes = host.facts().probes.iter();
            let probe = probes.find(|probe| probe.name == "tsc-writes");
            probe
                .filter(|probe| probe.assist.is_some())
                .map(|_| "the TSC cannot be set".to_owned())
        }),
        trials: vec![],
    };
    checkpoints::list(&mut suite);
    debugging::list(&mut suite);
    flags::list(&mut suite);
    ending::list(&mut suite);
    hostile::list(&mut suite);
    injection::list(&mut suite);
    ipis::list(&mut suite);
    inspection::list(&mut suite);
    oracle::list(&mut suite);
    placed::list(&mut suite);
    pmu::list(&mut suite);
    recording::list(&mut suite);
    sandbox::list(&mut suite);
    snapshots::list(&mut suite);
    senders::list(&mut suite);
    startup::list(&mut suite);
    timer::list(&mut suite);
    libtest_mimic::run(&arguments, suite.trials).exit_code()
}
