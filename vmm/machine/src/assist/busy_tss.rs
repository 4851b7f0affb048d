//! Ports that a program may use (ioperm(2)) and that it is denied once the TSS has been loaded as busy.
//!
//! LTR marks a TSS busy (SDM vol. 3, 8.2.2), and KVM says of any that it is (svm_get_segment of
//! arch/x86/kvm/svm/svm.c), so a vCPU that is restored has a busy one. QEMU's TCG looks at the permission map of a TSS
//! only where its type is that of an idle one (check_io of target/i386/tcg/seg_helper.c), as LTR leaves it there.
//! Then the first OUT of a restored guest's agent is a #GP, where the kernel has no `/dev/port` and it used ioperm.

use vmm_sys_util::errno;

use super::cpu::{Assist, Cpu};
use super::quirk::{Finding, Quirk, Remedy};
use crate::probe::{IDLE_TSS, Outcome, ProbeError, Prober, TSS};

pub(super) const QUIRK: Quirk = Quirk {
    name: "busy-tss",
    what: "port permissions of a busy TSS count",
    probe,
};

fn probe(prober: &Prober<'_>) -> Result<Finding, ProbeError> {
    const VALUE: u8 = 0x55;
    let done = Outcome::Vector(VALUE);
    let outcome = prober.out_from_ring3(VALUE, TSS)?;
    let remedy = Remedy {
        text: "a restored vCPU gets its TSS as an idle one",
        assist: Some(|| Box::new(BusyTss)),
        ..Remedy::default()
    };
    let mut finding = Finding::expect(&outcome, &done, "they do", remedy);
    if finding.remedy.is_some() && prober.out_from_ring3(VALUE, IDLE_TSS)? != done {
        finding.text.push_str(", nor do those of an idle one");
        finding.remedy = None;
    }
    Ok(finding)
}

#[derive(Debug)]
struct BusyTss;

impl Assist for BusyTss {
    fn name(&self) -> &'static str {
        QUIRK.name
    }

    fn restored(&mut self, cpu: &Cpu<'_>) -> Result<(), errno::Error> {
        let mut sregs = cpu.fd.get_sregs()?;
        if sregs.tr.type_ != TSS {
            return Ok(());
        }
        sregs.tr.type_ = IDLE_TSS;
        cpu.fd.set_sregs(&sregs)
    }
}
