//! Whether the host's own CPU is emulated. Its guests run true there, but no time that is measured says
//! anything of a CPU.

use std::fs;
use std::path::Path;

use crate::probe::Speed;

/// What QEMU's TCG has in EBX, ECX and EDX of CPUID leaf 0x40000000 (target/i386/cpu.c).
const TCG: &[u8; 12] = b"TCGTCGTCGTCG";
/// How the model names of emulated CPUs begin: what `-cpu max` has under TCG (target/i386/cpu.c), and
/// Bochs' generic model (bx_cpuid of cpu/generic_cpuid.cc).
const MODELS: [&str; 2] = ["QEMU TCG CPU", "Bochs"];
/// The firmware's vendor where it is Bochs' own; an old QEMU with KVM had the same, and a hypervisor bit.
const BOCHS: &str = "Bochs";
/// No CPU that has VMX or SVM takes this long for an instruction of CPL 3, its best of a few tries.
const SLOW_USER_NS: f64 = 20.0;

/// What there is to go by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs<'a> {
    /// EBX, ECX and EDX of CPUID leaf 0x40000000; anything where there is no such leaf.
    pub(super) hypervisor: [u8; 12],
    /// The CPU's model name.
    pub(super) model: &'a str,
    /// Whether CPUID says that a hypervisor is present (leaf 1, ECX bit 31).
    pub(super) virtual_machine: bool,
    /// Where sysfs is.
    pub(super) sysfs: &'a Path,
    /// How fast guests are, if they ran.
    pub(super) speed: Option<Speed>,
}

/// By what it is known that the host is emulated, for a person; `None` where nothing says so.
pub(super) fn emulated(signs: &Signs<'_>) -> Option<String> {
    if signs.hypervisor == *TCG {
        return Some("by QEMU's TCG, says CPUID leaf 0x40000000".to_owned());
    }
    if MODELS.iter().any(|model| signs.model.starts_with(model)) {
        return Some(format!("says its model name, {}", signs.model));
    }
    let vendor = fs::read_to_string(signs.sysfs.join("class/dmi/id/bios_vendor"));
    if !signs.virtual_machine && vendor.is_ok_and(|vendor| vendor.contains(BOCHS)) {
        return Some("by Bochs, says its firmware (bios_vendor in /sys/class/dmi/id)".to_owned());
    }
    let user_ns = signs.speed?.lasting_user_ns;
    (user_ns > SLOW_USER_NS).then(|| {
        let limit = Speed::millions(SLOW_USER_NS);
        format!("says its speed: less than {limit:.0} million instructions a second in CPL 3")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sign_of_emulation_is_enough_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let id = dir.path().join("class/dmi/id");
        fs::create_dir_all(&id).unwrap();
        let real = Signs {
            hypervisor: *b"KVMKVMKVM\0\0\0",
            model: "AMD EPYC",
            virtual_machine: false,
            sysfs: dir.path(),
            speed: Some(Speed {
                kernel_ns: 60.0,
                user_ns: 60.0,
                lasting_user_ns: 6.0,
            }),
        };
        assert_eq!(emulated(&real), None);
        let tcg = Signs {
            hypervisor: *TCG,
            ..real
        };
        let why = "by QEMU's TCG, says CPUID leaf 0x40000000";
        assert_eq!(emulated(&tcg).as_deref(), Some(why));
        let model = Signs {
            model: "QEMU TCG CPU version 2.5+",
            ..real
        };
        let why = "says its model name, QEMU TCG CPU version 2.5+";
        assert_eq!(emulated(&model).as_deref(), Some(why));
        let slow = Signs {
            speed: Some(Speed {
                kernel_ns: 250.0,
                user_ns: 250.0,
                lasting_user_ns: 200.0,
            }),
            ..real
        };
        let why = "says its speed: less than 50 million instructions a second in CPL 3";
        assert_eq!(emulated(&slow).as_deref(), Some(why));
        fs::write(id.join("bios_vendor"), "Bochs\n").unwrap();
        let why = "by Bochs, says its firmware (bios_vendor in /sys/class/dmi/id)";
        assert_eq!(emulated(&real).as_deref(), Some(why));
        let in_kvm = Signs {
            virtual_machine: true,
            ..real
        };
        assert_eq!(emulated(&in_kvm), None);
    }
}
