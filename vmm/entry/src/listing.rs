//! A record as an annotated listing, plain text, one line an instruction.

mod notes;

use std::fmt::Write;
use std::ops::Range;

use crate::audit::{Audit, Finding, Trace};
use crate::layout::KernelLayout;
use crate::record::{Began, Ended, Record};

/// Instructions shown from the first instrumentable one on, and up to the last write to CR3.
const AROUND: usize = 6;
/// Fewest instructions that are left out: less is not worth a line.
const LEFT_OUT_MIN: usize = 8;

/// How much of a record is listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// The way in and the way out.
    #[default]
    Ends,
    /// All.
    Whole,
}

/// The instructions of a record with what was found of them, as text: neither the record nor the kernel's symbols have
/// to be kept for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    whole: String,
    /// How many instructions are between the ends, and where they are in `whole`.
    between: Option<(usize, Range<usize>)>,
}

impl Listing {
    /// The instructions of `record` with what `audit` says of them.
    #[must_use]
    pub fn new(record: &Record, layout: &KernelLayout, audit: &Audit) -> Self {
        let trace = Trace::new(record, layout);
        let mut whole = header(record, audit);
        let left_out = left_out(&trace, audit);
        let mut between = whole.len()..whole.len();
        for seen in trace.steps() {
            if left_out.is_some_and(|(first, _)| first == seen.number) {
                between.start = whole.len();
            }
            let line = notes::line(seen, layout, audit);
            let _ = writeln!(whole, "{}", line.trim_end());
            for finding in findings(audit).filter(|finding| finding.step == seen.number) {
                let _ = writeln!(whole, "        ! {}", finding.words);
            }
            if left_out.is_some_and(|(_, last)| last == seen.number) {
                between.end = whole.len();
            }
        }
        let end = match record.ended {
            Ended::User => "back in user space",
            Ended::Limit => "recorded no further",
            Ended::Halted => "halted",
            Ended::Interrupted => "back in what was interrupted",
            Ended::NoBreakpoint => "not recorded",
        };
        let _ = writeln!(whole, "{end}");
        Self {
            whole,
            between: left_out.map(|(first, last)| (last - first + 1, between)),
        }
    }

    /// So much of it, a line each.
    #[must_use]
    pub fn text(&self, extent: Extent) -> String {
        let ends = || {
            let (count, between) = self.between.as_ref()?;
            let begin = self.whole.get(..between.start)?;
            let end = self.whole.get(between.end..)?;
            Some(format!(
                "{begin}        ... {count} instructions ...\n{end}"
            ))
        };
        match extent {
            Extent::Ends => ends().unwrap_or_else(|| self.whole.clone()),
            Extent::Whole => self.whole.clone(),
        }
    }
}

fn findings(audit: &Audit) -> impl Iterator<Item = &Finding> {
    audit
        .danger
        .iter()
        .chain(&audit.order)
        .chain(&audit.stale_pcids)
}

fn header(record: &Record, audit: &Audit) -> String {
    let zone = match audit.danger_zone {
        1 => "1 instruction".to_owned(),
        count => format!("{count} instructions"),
    };
    let catch_up = match audit.catch_up {
        None => "no catch-up".to_owned(),
        Some(0) => "nothing to catch up with".to_owned(),
        Some(step) => format!("catch-up by instruction {step}"),
    };
    format!(
        "CPU {} enters the kernel by {}: {catch_up}, danger zone {zone}\n",
        record.cpu,
        way(record.began)
    )
}

/// The name of a way in. Interrupt vectors: arch/x86/include/asm/irq_vectors.h.
pub(crate) fn way(began: Began) -> String {
    let vector = match began {
        Began::Syscall => return "SYSCALL".into(),
        Began::CompatSyscall => return "32-bit SYSCALL".into(),
        Began::Sysenter => return "SYSENTER".into(),
        Began::Call => return "a call".into(),
        Began::FaultingReturn(vector) => return format!("{} of IRET", way(Began::Vector(vector))),
        Began::Vector(vector) => vector,
    };
    let exception = match vector {
        0 => "#DE",
        1 => "#DB",
        2 => "NMI",
        3 => "#BP",
        4 => "#OF",
        5 => "#BR",
        6 => "#UD",
        7 => "#NM",
        8 => "#DF",
        10 => "#TS",
        11 => "#NP",
        12 => "#SS",
        13 => "#GP",
        14 => "#PF",
        16 => "#MF",
        17 => "#AC",
        18 => "#MC",
        19 => "#XM",
        21 => "#CP",
        29 => "#VC",
        0x80 => "INT 0x80",
        0xec => "interrupt 0xec (local timer)",
        0xf6 => "interrupt 0xf6 (irq_work)",
        0xfb => "interrupt 0xfb (call function, single)",
        0xfc => "interrupt 0xfc (call function)",
        0xfd => "interrupt 0xfd (reschedule)",
        _ if vector < 32 => return format!("exception {vector}"),
        _ => return format!("interrupt {vector:#x}"),
    };
    exception.into()
}

/// The first and the last of the instructions between the way in and the way out.
fn left_out(trace: &Trace<'_>, audit: &Audit) -> Option<(usize, usize)> {
    // The way in ends where ordinary code begins, or later where it is caught up with.
    let first = audit.first_instrumentable?.max(audit.catch_up?) + AROUND;
    let last = match audit.ended {
        Ended::User => trace
            .steps()
            .iter()
            .rev()
            .find(|seen| seen.cr3().is_some())
            .filter(|seen| seen.number > first)
            .map_or(audit.steps, |seen| seen.number)
            .saturating_sub(AROUND),
        Ended::Limit | Ended::Halted | Ended::Interrupted | Ended::NoBreakpoint => {
            audit.steps.saturating_sub(AROUND)
        }
    };
    (last >= first + LEFT_OUT_MIN).then_some((first, last))
}

#[cfg(test)]
mod tests;
