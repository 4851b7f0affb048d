//! The PMU that a machine does not have.
#![expect(unsafe_code, reason = "the guest's assembler text")]

use ipirig_machine::Host;

use crate::Suite;
use crate::harness::Guest;
use crate::image::guest;

pub(crate) fn list(suite: &mut Suite) {
    let intel = Host::probe().is_ok_and(|host| host.facts().vendor != "AuthenticAMD");
    let reason = suite
        .no_kvm
        .clone()
        .or_else(|| intel.then(|| "no AMD".to_owned()));
    suite.add(
        "amds_legacy_counters_are_not_there".to_owned(),
        reason,
        amds_legacy_counters_are_not_there,
    );
}

// PerfEvtSel0 and PerfCtr0 (APM vol. 2, appendix A): KVM without a PMU ignores writes and reads zeroes.
guest!(
    LEGACY,
    "
    call rt_setup
    mov ecx, 0xc0010000
    mov eax, 0x00430076                 # enabled, CPL 0 and 3: cycles not in HLT
    xor edx, edx
    wrmsr
    rdmsr
    mov dword ptr [r15], eax
    mov ecx, 100
2:  dec ecx
    jnz 2b
    mov ecx, 0xc0010004
    rdmsr
    mov dword ptr [r15 + 128], eax
    call rt_ring
    jmp rt_rest
    "
);

fn amds_legacy_counters_are_not_there() {
    let mut guest = Guest::new(&LEGACY).start();
    guest.rings();
    let seen = guest.stop();
    assert_eq!(seen.words[..2], [0, 0], "what was selected, and counted");
}
