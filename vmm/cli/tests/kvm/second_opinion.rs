//! The same scenarios with KVM's own APICs, whose IPIs the host's trace counts.

use libtest_mimic::Failed;

use crate::Test;
use crate::harness::{ensure, run, targeted};

pub(crate) const TESTS: &[(&str, Test)] =
    &[("kvms_own_apic_sends_as_many_ipis_as_ours", as_many_as_ours)];

/// Why these are ignored: each boots, and how well a KVM without VMX/SVM does its own timers and halts is
/// not for ipirig to answer for.
pub(crate) fn asked_for() -> String {
    "tests the host's own APICs, with a boot each: run it by its name, with --ignored".to_owned()
}

fn as_many_as_ours() -> Result<(), Failed> {
    for (args, code) in [(vec![], 0), (vec!["--deferral", "off"], 1)] {
        let of = |apic: &str| {
            let (result, table) = run(
                "static-key-flip",
                &[&args[..], &["--apic", apic]].concat(),
                code,
            )?;
            let isolated = targeted(&result, "isolated");
            let witness = targeted(&result, "housekeeping") >= Some(100);
            ensure(witness && result["machine"]["apic"] == apic, || {
                table.clone()
            })?;
            Ok::<_, Failed>((isolated, table))
        };
        let (ours, _) = of("x2apic")?;
        let (kvms, table) = of("kernel")?;
        ensure(ours == kvms, || format!("{ours:?} and {kvms:?}\n{table}"))?;
        let warning = "warning: KVM's own APICs: IPIs are counted by the host's trace";
        ensure(table.contains(warning), || table.clone())?;
    }
    Ok(())
}
