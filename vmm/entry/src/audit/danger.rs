//! What a CPU must not do before it catches up.

use ipirig_image::Table;
use ipirig_instruction::decode::Executed;

use crate::audit::trace::{Trace, TracedStep};
use crate::audit::{Finding, PendingInput, What, push};
use crate::layout::{CodeRegion, KernelLayout};

/// What is wrong with the first `checked` instructions.
pub(super) fn find(
    trace: &Trace<'_>,
    layout: &KernelLayout,
    pending: &PendingInput,
    checked: usize,
    catch_up: Option<usize>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for seen in trace.steps().iter().take(checked) {
        if let Some(executed) = &seen.executed {
            check_code(&mut findings, seen, executed, layout, pending);
            check_accesses(&mut findings, seen, executed, layout, pending);
        } else {
            let words = format!("is not known at {}", layout.describe(seen.rip()));
            push(&mut findings, seen, seen.rip(), What::Undecodable, words);
        }
    }
    if let Some(seen) = trace
        .steps()
        .iter()
        .find(|seen| seen.place.is_instrumentable())
        && catch_up.is_none_or(|step| step >= seen.number)
    {
        let words = format!(
            "is in instrumentable code with no catch-up before it, at {}",
            layout.describe(seen.rip())
        );
        push(&mut findings, seen, seen.rip(), What::NoCatchUp, words);
        findings.sort_by_key(|finding| finding.step);
    }
    findings
}

fn check_code(
    findings: &mut Vec<Finding>,
    seen: &TracedStep<'_>,
    executed: &Executed,
    layout: &KernelLayout,
    pending: &PendingInput,
) {
    let rip = seen.rip();
    let code = rip..rip.saturating_add(executed.length as u64);
    let mut add = |what, words: String| {
        let words = format!("{words} at {}", layout.describe(rip));
        push(findings, seen, rip, what, words);
    };
    if pending.text.knows(&code) {
        add(
            What::PatchedText,
            "executes text that was patched".to_owned(),
        );
    }
    for site in layout.sites_at(&code) {
        let what = match site.kind.table() {
            Table::StaticKeys => What::StaticKey,
            Table::StaticCalls => What::StaticCall,
            Table::Ftrace => What::Ftrace,
            Table::Alternatives if pending.alternatives_open => What::Alternative,
            Table::Alternatives => continue,
        };
        add(what, format!("executes {}", layout.site_name(site.kind)));
    }
    if seen.place == CodeRegion::Module {
        add(What::ModuleText, "executes a module's text".to_owned());
    }
    let stack = seen.step.registers.general[4];
    if pending.translations.knows(&code) && layout.can_be_unmapped(seen.rip(), stack) {
        add(What::Unmapped, "is fetched from unmapped memory".to_owned());
    }
}

fn check_accesses(
    findings: &mut Vec<Finding>,
    seen: &TracedStep<'_>,
    executed: &Executed,
    layout: &KernelLayout,
    pending: &PendingInput,
) {
    // RSP.
    let stack = seen.step.registers.general[4];
    for access in &executed.accesses {
        let verb = if access.write { "writes" } else { "reads" };
        let stale = pending.translations.knows(&(access.address..access.end()))
            && layout.can_be_unmapped(access.address, stack);
        let what = if stale {
            What::Unmapped
        } else if layout.is_vmalloc(access.address, stack) {
            What::Vmalloc
        } else {
            continue;
        };
        let memory = if what == What::Unmapped {
            "unmapped memory"
        } else {
            "vmalloc memory"
        };
        let words = format!(
            "{verb} {memory} at {:#x}, in {}",
            access.address,
            layout.describe(seen.rip())
        );
        push(findings, seen, access.address, what, words);
    }
}
