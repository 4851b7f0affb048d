//! Outside oracles of the rig's APIC, on the real KVM: see the head of the library.
//!
//! Guests are made as those of `ipirig-machine`'s tests are, and by the same files. Where /dev/kvm or KVM's own APIC
//! is missing, tests are listed as ignored, with the reason in brackets before each name.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a fixture that fails should stop its test"
)]

mod differential;
#[path = "../../../machine/tests/guest/harness.rs"]
#[expect(dead_code, reason = "the machine's own tests have more use for it")]
mod harness;
#[path = "../../../machine/tests/guest/image.rs"]
#[expect(dead_code, reason = "the machine's own tests have more use for it")]
mod image;
mod kvm_unit_tests;
mod manual;
mod priority;

use std::process::ExitCode;
use std::sync::Arc;

use ipirig_machine::{ApicMode, Host};
use libtest_mimic::{Arguments, Trial};

/// The tests, and why some or all of them cannot be run here.
struct Suite {
    no_kvm: Option<String>,
    no_x2apic: Option<String>,
    no_kernel_apic: Option<String>,
    no_tsc_deadline: Option<String>,
    trials: Vec<Trial>,
}

impl Suite {
    /// A test of each face of the APIC.
    fn both(&mut self, name: &str, test: fn(ApicMode)) {
        let reason = self.no_kvm.clone();
        self.add(&format!("xapic::{name}"), reason, move || {
            test(ApicMode::Xapic);
        });
        let reason = self.no_x2apic.clone();
        self.add(&format!("x2apic::{name}"), reason, move || {
            test(ApicMode::X2apic);
        });
    }

    fn add(&mut self, name: &str, reason: Option<String>, test: impl Fn() + Send + 'static) {
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        // Runners print the kind in front of the name, nextest too: the reason goes there.
        self.trials.push(match reason {
            Some(reason) => trial.with_ignored_flag(true).with_kind(reason),
            None => trial,
        });
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let host = Host::probe().map(Arc::new);
    let no_kvm = host.as_ref().err().and_then(harness::no_kvm);
    let lacks_x2apic = host.as_ref().is_ok_and(|host| !host.facts().x2apic);
    let mut suite = Suite {
        no_x2apic: no_kvm
            .clone()
            .or_else(|| lacks_x2apic.then(|| "no x2APIC registers in user space".to_owned())),
        no_tsc_deadline: host
            .as_ref()
            .is_ok_and(|host| host.facts().tsc_deadline_khz().is_none())
            .then(|| "guests have no TSC deadlines here (SDM 11.5.4.1)".to_owned()),
        no_kernel_apic: no_kvm.clone().or_else(|| {
            host.ok()
                .and_then(|host| differential::no_kernel_apic(&host))
        }),
        no_kvm,
        trials: vec![],
    };
    differential::list(&mut suite);
    manual::list(&mut suite);
    priority::list(&mut suite);
    kvm_unit_tests::list(&mut suite);
    libtest_mimic::run(&arguments, suite.trials).exit_code()
}
