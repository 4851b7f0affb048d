//! What the configuration of a kernel must have for the rig, and what it costs where it does not.

use std::fmt;

/// An option that a kernel is not configured with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// The options, with `CONFIG_`; any one of them would do.
    pub options: Vec<&'static str>,
    /// What it is needed for.
    pub purpose: &'static str,
    /// Nothing can be run without it.
    pub fatal: bool,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.options.join(" or "), self.purpose)
    }
}

/// One requirement: options of which one must be set, what for, and whether nothing works without.
type Requirement = (&'static [&'static str], &'static str, bool);

const REQUIREMENTS: [Requirement; 22] = [
    (&["CONFIG_64BIT"], "the rig runs 64-bit kernels", true),
    (&["CONFIG_SMP"], "an IPI needs two CPUs", true),
    (&["CONFIG_NO_HZ_FULL"], "isolated CPUs (nohz_full=)", true),
    (
        &["CONFIG_X86_MPPARSE", "CONFIG_ACPI"],
        "the vCPUs are found by either",
        true,
    ),
    (
        &["CONFIG_BLK_DEV_INITRD"],
        "the agent comes in an initramfs",
        true,
    ),
    (&["CONFIG_BINFMT_ELF"], "the agent is a program", true),
    (
        &["CONFIG_SERIAL_8250_CONSOLE"],
        "the console says why a boot failed",
        true,
    ),
    (
        &["CONFIG_PROC_FS"],
        "/proc/interrupts is the kernel's own count",
        true,
    ),
    (
        &["CONFIG_SYSFS"],
        "CPUs are brought up and listed in /sys",
        true,
    ),
    (&["CONFIG_DEVTMPFS"], "/dev of the initramfs", true),
    (
        &["CONFIG_DEVMEM"],
        "the mailbox is mapped through /dev/mem",
        true,
    ),
    (
        &["CONFIG_DEVPORT", "CONFIG_X86_IOPL_IOPERM"],
        "the doorbell is an I/O port",
        true,
    ),
    (
        &["CONFIG_HYPERVISOR_GUEST"],
        "x2APIC and the TSC's frequency are taken from the hypervisor",
        false,
    ),
    (
        &["CONFIG_X86_X2APIC"],
        "without it xAPIC is used, which is slower",
        false,
    ),
    (
        &[
            "CONFIG_MITIGATION_PAGE_TABLE_ISOLATION",
            "CONFIG_PAGE_TABLE_ISOLATION",
        ],
        "IPIs are deferred only with page table isolation",
        false,
    ),
    (
        &[
            "CONFIG_IPI_DEFERRAL",
            "CONFIG_TRACK_CR3",
            "CONFIG_COALESCE_TLBI",
        ],
        "without a series that defers IPIs the scenarios that want it are violated",
        false,
    ),
    (
        &["CONFIG_MODULES"],
        "without ipirig.ko the storms that it makes are skipped",
        false,
    ),
    (
        &["CONFIG_MODULE_UNLOAD"],
        "module-load-unload is skipped",
        false,
    ),
    (
        &["CONFIG_JUMP_LABEL"],
        "there are no static keys to flip",
        false,
    ),
    (&["CONFIG_VMAP_STACK"], "vmap-stack is skipped", false),
    (
        &["CONFIG_UNWINDER_ORC", "CONFIG_UNWINDER_FRAME_POINTER"],
        "stacks of senders cannot be followed",
        false,
    ),
    (
        &["CONFIG_DEBUG_FS"],
        "the fair server, which visits isolated CPUs once a second, cannot be turned off",
        false,
    ),
];

/// What `config`, a `.config`, lacks.
#[must_use]
pub fn lacks(config: &str) -> Vec<Lack> {
    REQUIREMENTS
        .iter()
        .filter(|(options, _, _)| {
            options
                .iter()
                .all(|option| crate::value(config, option).is_none())
        })
        .map(|&(options, purpose, fatal)| Lack {
            options: options.to_vec(),
            purpose,
            fatal,
        })
        .collect()
}

/// The requirements as a fragment for the kernel's `scripts/kconfig/merge_config.sh`. Where one of several
/// options would do, all are asked for; Kconfig drops those that a tree does not have.
#[must_use]
pub fn fragment() -> String {
    let mut text = String::new();
    for (options, purpose, fatal) in REQUIREMENTS {
        let needed = if fatal { "needed" } else { "wanted" };
        text.push_str(&format!("# {needed}: {purpose}\n"));
        // Unwinders exclude each other: the first is the one that kernels are built with.
        let exclusive = options.iter().any(|option| option.contains("UNWINDER"));
        for option in options
            .iter()
            .take(if exclusive { 1 } else { options.len() })
        {
            text.push_str(&format!("{option}=y\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_with_everything_lacks_nothing() {
        assert_eq!(lacks(&fragment()), []);
    }

    #[test]
    fn one_of_several_options_will_do() {
        let without = |name: &str| {
            fragment()
                .lines()
                .filter(|line| !line.starts_with(name))
                .map(|line| format!("{line}\n"))
                .collect::<String>()
        };
        assert_eq!(lacks(&without("CONFIG_ACPI")), []);
        assert_eq!(
            lacks(&without("CONFIG_DEVMEM")),
            [Lack {
                options: vec!["CONFIG_DEVMEM"],
                purpose: "the mailbox is mapped through /dev/mem",
                fatal: true,
            }]
        );
    }

    #[test]
    fn an_option_that_is_off_is_lacking() {
        let off = fragment().replace("CONFIG_MODULES=y", "# CONFIG_MODULES is not set");
        let lacks = lacks(&off);
        assert_eq!(
            lacks.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["CONFIG_MODULES: without ipirig.ko the storms that it makes are skipped"]
        );
    }
}
