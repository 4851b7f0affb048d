//! Can the kernel hold anything back at all, as it was booted?

use ipirig_evidence::Evidence;
use ipirig_scenario::plan::Plan;

/// Words of a command line that switch page table isolation off (arch/x86/mm/pti.c,
/// `pti_check_boottime_disable`).
const OFF: [&str; 3] = ["pti=off", "nopti", "mitigations=off"];

/// Why the kernel holds nothing back although it is told to: page table isolation is off, which the
/// user switched off, or which the kernel's way of deferral rests on. `None` if it is on, or nobody
/// can say so.
pub(super) fn off(plan: &Plan, evidence: &Evidence) -> Option<String> {
    if !plan.deferral || evidence.paging.is_none_or(|paging| paging.isolated) {
        return None;
    }
    let append = plan.append.as_deref().unwrap_or_default();
    if let Some(word) = append.split_whitespace().find(|word| OFF.contains(word)) {
        return Some(format!(
            "page table isolation is off, by `{word}` on the command line"
        ));
    }
    let layout = evidence.layout.as_ref().ok()?;
    let flag = layout.flag()?;
    Some(format!(
        "page table isolation is off, without which a kernel with `{}` defers nothing",
        flag.name
    ))
}
