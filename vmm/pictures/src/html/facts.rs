//! What was booted, in what, on what: names and values.

use ipirig_evidence::KernelSetup;
use ipirig_machine::{HostFacts, Virtualization};
use ipirig_verdict::result::{KernelInfo, MachineInfo, RunResult};

/// Facts about one thing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) about: &'static str,
    /// The names are sentences.
    pub(super) wide: bool,
    pub(super) facts: Vec<Fact>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fact {
    pub(super) name: String,
    pub(super) value: String,
    /// Something to type or to compare letter by letter.
    pub(super) code: bool,
}

fn plain(name: impl Into<String>, value: impl Into<String>) -> Fact {
    Fact {
        name: name.into(),
        value: value.into(),
        code: false,
    }
}

fn code(name: impl Into<String>, value: impl Into<String>) -> Fact {
    Fact {
        code: true,
        ..plain(name, value)
    }
}

pub(super) fn facts(run: &RunResult) -> Vec<Facts> {
    let kernel = run.kernel.as_ref().map(|kernel| Facts {
        about: "Kernel",
        wide: false,
        facts: of_kernel(kernel),
    });
    let machine = run.machine.as_ref().map(|machine| Facts {
        about: "Machine",
        wide: false,
        facts: of_machine(machine),
    });
    let host = run.host.as_ref().map(|host| Facts {
        about: "Host",
        wide: true,
        facts: of_host(host),
    });
    kernel.into_iter().chain(machine).chain(host).collect()
}

fn of_kernel(kernel: &KernelInfo) -> Vec<Fact> {
    let setup = kernel.setup.iter();
    let off = |setup: &KernelSetup| {
        let differences = setup
            .differences
            .iter()
            .map(|words| plain("warning", words));
        let list = |name: &str, cpus: &Option<String>| cpus.as_ref().map(|cpus| plain(name, cpus));
        let lists = [
            list("nohz_full", &setup.nohz_full),
            list("isolated CPUs", &setup.isolated),
        ];
        let off = setup.switched_off.iter();
        let off = off.map(|off| plain("switched off", off.to_string()));
        let all = differences.chain(lists.into_iter().flatten()).chain(off);
        all.collect::<Vec<_>>()
    };
    let module = |has: bool| plain("ipirig.ko", if has { "in the guest" } else { "not there" });
    let package = |version: &String| plain("source", format!("linux-source {version}"));
    [
        kernel
            .release
            .as_ref()
            .map(|release| plain("release", release)),
        kernel.package.as_ref().map(package),
        kernel
            .series
            .as_ref()
            .map(|series| code("patch series", series)),
        Some(code("file", &kernel.path)),
        Some(code("initramfs", &kernel.initramfs)),
        kernel.module.map(module),
        kernel
            .paging
            .map(|paging| plain("page tables", paging.to_string())),
        Some(code("command line", &kernel.cmdline)),
    ]
    .into_iter()
    .flatten()
    .chain(setup.flat_map(off))
    .collect()
}

fn of_machine(machine: &MachineInfo) -> Vec<Fact> {
    let cores: Vec<String> = machine.cores.iter().map(ToString::to_string).collect();
    let mut facts = vec![
        plain("APIC", &machine.apic),
        plain("memory", format!("{} MiB", machine.memory_mib)),
        plain("host core of each vCPU", cores.join(", ")),
    ];
    facts.extend(machine.warnings.iter().map(|w| plain("warning", w)));
    facts
}

fn of_host(host: &HostFacts) -> Vec<Fact> {
    let virtualization = match host.virtualization {
        Virtualization::Vmx => "VMX",
        Virtualization::Svm => "SVM",
        Virtualization::None => "none: KVM emulates the guest's kernel, and times mean little",
    };
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    let mut facts = vec![
        plain("processor", format!("{}, {}", host.model, host.vendor)),
        plain("virtualisation", virtualization),
        plain("kernel", &host.kernel),
        plain("cores for this process", host.cores.len().to_string()),
        plain("x2APIC to user space", yes(host.x2apic)),
        plain(
            "stops and steps guest kernels",
            host.debug.lack().unwrap_or_else(|| "yes".to_owned()),
        ),
    ];
    if let Some(how) = &host.emulated {
        let value = format!("{how}; times mean nothing");
        facts.push(plain("the host itself is emulated", value));
    }
    for probe in &host.probes {
        let value = match probe.assist {
            Some(assist) => format!("{} ({assist})", probe.finding),
            None => probe.finding.clone(),
        };
        facts.push(plain(probe.what, value));
    }
    facts
}
