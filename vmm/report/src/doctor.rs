//! What `ipirig doctor` says: what this host offers, what was probed, what is done about quirks,
//! and what to do about what is missing.

use std::fmt::Write as _;

use ipirig_evidence::chain;
use ipirig_machine::{GuestDebug, HostError, HostFacts, Virtualization};

use crate::paint::Paint;

/// State of the guest's parts, from whoever builds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestState {
    /// What it is, where it is, in a line.
    pub text: String,
    /// What to do about it, if anything.
    pub advice: Option<String>,
}

/// The report on a host that was probed, with a newline at its end.
#[must_use]
pub fn render(facts: Result<&HostFacts, &HostError>, guest: &GuestState, paint: Paint) -> String {
    let mut out = String::new();
    match facts {
        Ok(facts) => describe(&mut out, facts, paint),
        Err(error) => explain(&mut out, error),
    }
    let _ = writeln!(out, "{} {}", label("guest", paint), guest.text);
    if let Some(advice) = &guest.advice {
        let _ = writeln!(out, "{} {advice}", label("", paint));
    }
    let conclusion = match facts {
        Ok(_) => "Runs are possible here.",
        Err(_) => "No runs are possible here.",
    };
    let _ = writeln!(out, "\n{}", paint.bold(conclusion));
    out
}

/// What of guest debugging works, and what follows if not all does.
fn debugging(debug: &GuestDebug) -> String {
    match debug.lack() {
        None => {
            "breakpoints and single-steps work in guest kernels and on entry to them".to_owned()
        }
        Some(lack) => format!(
            "KVM {lack}: entries are not recorded, and the checks that rest on their records are \
             skipped"
        ),
    }
}

/// What `--apic kernel` sees.
fn kernel_apic(facts: &HostFacts) -> String {
    let parameters = facts.ipis_past_kvm.join(", ");
    match (facts.ipis_past_kvm.is_empty(), facts.inhibits_acceleration) {
        (true, _) => "KVM delivers all IPIs itself".to_owned(),
        (false, true) => {
            format!("hardware delivers IPIs ({parameters}); with --apic kernel KVM is made to")
        }
        (false, false) => {
            format!("hardware delivers IPIs ({parameters}), so that --apic kernel is skipped")
        }
    }
}

fn label(name: &str, paint: Paint) -> String {
    paint.dim(format!("{name:<12}"))
}

fn explain(out: &mut String, error: &HostError) {
    let _ = writeln!(out, "KVM          {}", chain(error));
    if let Some(advice) = error.advice() {
        let _ = writeln!(out, "             {advice}");
    }
}

fn describe(out: &mut String, facts: &HostFacts, paint: Paint) {
    let how = match facts.virtualization {
        Virtualization::Vmx => "VMX",
        Virtualization::Svm => "SVM",
        Virtualization::None => {
            "neither VMX nor SVM: guest kernels are emulated, some hundred times slower"
        }
    };
    let yes = |yes, then: &str, otherwise: &str| if yes { then } else { otherwise }.to_owned();
    let cores: Vec<String> = facts.cores.iter().map(ToString::to_string).collect();
    let sharing = if cores.len() < 3 {
        "; a run has 3 vCPUs, so some share a core (isolated ones last)"
    } else {
        ""
    };
    let tsc = match facts.tsc_khz {
        0 => "frequency unknown; guests calibrate for themselves".to_owned(),
        khz => format!("{}.{:03} MHz", khz / 1000, khz % 1000),
    };
    let rows = [
        (
            "KVM",
            format!("API {}, host Linux {}", facts.api_version, facts.kernel),
        ),
        ("CPU", format!("{} ({}); {how}", facts.model, facts.vendor)),
        (
            "cores",
            format!("{} ({}){sharing}", cores.len(), cores.join(", ")),
        ),
        ("TSC", tsc),
        (
            "x2APIC",
            yes(
                facts.x2apic,
                "reaches user space",
                "does not reach user space; xAPIC is used",
            ),
        ),
        (
            "PV features",
            yes(
                facts.enforce_pv,
                "hidden from guests, and KVM refuses them",
                "hidden from guests; this KVM does not enforce it (Linux 5.10 and later do)",
            ),
        ),
        ("debugging", debugging(&facts.debug)),
        ("kernel APIC", kernel_apic(facts)),
        (
            "sandbox",
            yes(
                facts.sandbox,
                "threads of vCPUs may make those system calls only that they need",
                "none: the host's kernel has no seccomp filters (CONFIG_SECCOMP_FILTER)",
            ),
        ),
    ];
    let emulated = facts.emulated.as_ref().map(|how| {
        (
            "host",
            format!("itself emulated, {how}: times mean nothing"),
        )
    });
    for (name, text) in rows.into_iter().chain(emulated) {
        let _ = writeln!(out, "{} {text}", label(name, paint));
    }
    let _ = writeln!(out, "\nProbes:");
    let width = facts
        .probes
        .iter()
        .map(|probe| probe.name.len())
        .max()
        .unwrap_or(0);
    for probe in &facts.probes {
        let _ = writeln!(
            out,
            "  {:<width$}  {}: {}",
            probe.name, probe.what, probe.finding
        );
        if let Some(assist) = probe.assist {
            let _ = writeln!(out, "  {:<width$}  -> {assist}", "");
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use ipirig_verdict::exit::{Code, host_code};

    use super::*;

    #[test]
    fn a_host_without_kvm_gets_advice_and_code_4() {
        let error = HostError::NoKvm {
            path: "/dev/kvm".into(),
        };
        let advice = error.advice().unwrap();
        let expected = format!(
            "\
KVM          /dev/kvm does not exist
             {advice}
guest        not built
             build it

No runs are possible here.
"
        );
        let guest = GuestState {
            text: "not built".into(),
            advice: Some("build it".to_owned()),
        };
        let probed = Err(&error);
        assert_eq!(host_code(&probed), Code::Skipped);
        assert_eq!(render(probed, &guest, Paint::PLAIN), expected);
    }
}
