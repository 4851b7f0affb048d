//! Hardware that delivers IPIs between guests' CPUs without KVM: there KVM's own APICs see too few.
//!
//! Intel's IPI virtualisation sends an IPI with no exit (SDM vol. 3, 30.1.6), APICv without it still
//! does self-IPIs (30.1.5); AMD's AVIC does both (APM vol. 2, 15.29). All of it is off for a virtual
//! machine in which some vCPU's interrupts are blocked for debugging (`KVM_GUESTDBG_BLOCKIRQ`, KVM API
//! 4.87; APICV_INHIBIT_REASON_BLOCKIRQ in arch/x86/include/asm/kvm_host.h).

use std::fs;
use std::path::Path;

use kvm_bindings::{KVM_CAP_SET_GUEST_DEBUG2, KVM_GUESTDBG_BLOCKIRQ};
use kvm_ioctls::Kvm;

/// A parameter of a KVM module that is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parameter {
    module: &'static str,
    name: &'static str,
}

/// In the order in which they are worth switching off.
const PARAMETERS: [Parameter; 3] = [
    Parameter {
        module: "kvm_intel",
        name: "enable_ipiv",
    },
    Parameter {
        module: "kvm_intel",
        name: "enable_apicv",
    },
    Parameter {
        module: "kvm_amd",
        name: "avic",
    },
];

/// The modules' parameters by which hardware may deliver IPIs on its own: those that are on.
pub(super) fn accelerated_by(sysfs: &Path) -> Vec<String> {
    let on = |Parameter { module, name }: &Parameter| {
        let path = sysfs
            .join("module")
            .join(module)
            .join("parameters")
            .join(name);
        fs::read_to_string(path).is_ok_and(|value| matches!(value.trim(), "Y" | "1"))
    };
    PARAMETERS
        .iter()
        .filter(|parameter| on(parameter))
        .map(|Parameter { module, name }| format!("{module}.{name}"))
        .collect()
}

/// Whether a vCPU's interrupts can be blocked for debugging.
pub(super) fn can_block(kvm: &Kvm) -> bool {
    let flags = kvm.check_extension_raw(KVM_CAP_SET_GUEST_DEBUG2.into());
    u32::try_from(flags).is_ok_and(|flags| flags & KVM_GUESTDBG_BLOCKIRQ != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_that_are_on_are_named_and_those_of_no_module_are_not() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(accelerated_by(dir.path()), [""; 0]);
        let set = |module: &str, name: &str, value: &str| {
            let parameters = dir.path().join("module").join(module).join("parameters");
            fs::create_dir_all(&parameters).unwrap();
            fs::write(parameters.join(name), value).unwrap();
        };
        set("kvm_intel", "enable_apicv", "N\n");
        set("kvm_intel", "enable_ipiv", "N\n");
        set("kvm_amd", "avic", "0\n");
        assert_eq!(accelerated_by(dir.path()), [""; 0]);
        set("kvm_intel", "enable_apicv", "Y\n");
        assert_eq!(accelerated_by(dir.path()), ["kvm_intel.enable_apicv"]);
        set("kvm_intel", "enable_ipiv", "Y\n");
        set("kvm_amd", "avic", "1\n");
        let all = [
            "kvm_intel.enable_ipiv",
            "kvm_intel.enable_apicv",
            "kvm_amd.avic",
        ];
        assert_eq!(accelerated_by(dir.path()), all);
    }
}
