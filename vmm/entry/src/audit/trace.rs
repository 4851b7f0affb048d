//! A record with each step decoded, and walks along it.

use crate::audit::{Finding, What, push};
use crate::decode::{Decoder, Effect, Executed};
use crate::layout::{KernelLayout, Place};
use crate::record::{Record, Step};
use crate::shadow::{Shadow, control_after, pcid};

/// The bit of CR3 that says which of a pair of page tables is loaded: set, the user's
/// (PTI_USER_PGTABLE_BIT, arch/x86/entry/calling.h).
pub const USER_TABLE_BIT: u32 = 12;
pub(crate) const USER_TABLE: u64 = 1 << USER_TABLE_BIT;

/// One instruction of a record.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    /// From 1.
    pub(crate) number: usize,
    pub(crate) step: &'a Step,
    /// None if its bytes are no instruction.
    pub(crate) executed: Option<Executed>,
    pub(crate) place: Place,
    pub(crate) flag: Option<FlagWrite>,
}

/// A write to the flag that senders read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlagWrite {
    Set,
    Clear,
    /// The instruction computes what it writes.
    Unclear,
}

/// When what was pending was no longer: numbers of instructions.
#[derive(Clone, Debug, Default)]
pub(super) struct Cleared {
    pub(super) text: Option<usize>,
    pub(super) translations: Option<usize>,
    pub(super) stale_pcids: Vec<Finding>,
}

/// What CR3 says.
#[derive(Clone, Copy, Debug)]
struct PageTable {
    pcid: u16,
    /// Whether it maps the kernel as a whole. What a CPU holds for a user page table says nothing
    /// of vmalloc memory, which is not in it.
    kernel: bool,
}

impl PageTable {
    fn new(cr3: u64, cr4: u64) -> Self {
        Self {
            pcid: pcid(cr3, cr4),
            kernel: cr3 & USER_TABLE == 0,
        }
    }
}

/// A record with each step decoded.
#[derive(Debug)]
pub(crate) struct Trace<'a>(Vec<Seen<'a>>);

impl Seen<'_> {
    pub(crate) fn effect(&self) -> Effect {
        self.executed
            .as_ref()
            .map_or(Effect::None, |executed| executed.effect)
    }

    /// What it writes to CR3.
    pub(crate) fn cr3(&self) -> Option<u64> {
        match self.effect() {
            Effect::WriteCr3 { value } => Some(value),
            _ => None,
        }
    }

    pub(crate) fn rip(&self) -> u64 {
        self.step.registers.rip
    }

    /// The page table in force after it.
    fn table_after(&self) -> PageTable {
        let (cr3, cr4) = control_after(self.effect(), &self.step.registers);
        PageTable::new(cr3, cr4)
    }
}

impl<'a> Trace<'a> {
    pub(crate) fn new(record: &'a Record, layout: &KernelLayout) -> Self {
        let mut decoder = Decoder::new();
        let steps = (1..).zip(&record.steps).map(|(number, step)| {
            let executed = decoder.decode(step);
            Seen {
                number,
                step,
                flag: executed
                    .as_ref()
                    .and_then(|executed| flag_write(executed, step, layout)),
                place: layout.place(step.registers.rip),
                executed,
            }
        });
        Self(steps.collect())
    }

    pub(crate) fn steps(&self) -> &[Seen<'a>] {
        &self.0
    }

    pub(crate) fn first_instrumentable(&self) -> Option<usize> {
        self.0
            .iter()
            .find(|seen| seen.place.is_instrumentable())
            .map(|seen| seen.number)
    }

    /// Follows `shadow` from after the instruction `start`, 0 for the beginning.
    pub(super) fn cleared(
        &self,
        mut shadow: Shadow,
        start: usize,
        instrumentable: Option<usize>,
    ) -> Cleared {
        let mut cleared = Cleared::default();
        let before = match start.checked_sub(1) {
            Some(index) => self.0.get(index).map(Seen::table_after),
            None => self.0.first().map(|seen| {
                let registers = &seen.step.registers;
                PageTable::new(registers.cr3, registers.cr4)
            }),
        };
        let Some(before) = before else {
            return cleared;
        };
        cleared.note(&shadow, before, start);
        for seen in self.0.iter().skip(start) {
            shadow.apply(seen.effect(), &seen.step.registers);
            let table = seen.table_after();
            let entering = instrumentable.is_none_or(|first| seen.number < first);
            if cleared.translations.is_some()
                && table.kernel
                && shadow.translations_pending(table.pcid)
            {
                // Another PCID than that which was cleared. On the way in this takes it back.
                if entering {
                    cleared.translations = None;
                } else if seen.cr3().is_some() {
                    let words = format!("loads a kernel page table with stale PCID {}", table.pcid);
                    let findings = &mut cleared.stale_pcids;
                    push(findings, seen, seen.rip(), What::StalePcid, words);
                }
            }
            cleared.note(&shadow, table, seen.number);
        }
        cleared
    }
}

impl Cleared {
    fn note(&mut self, shadow: &Shadow, table: PageTable, number: usize) {
        if self.text.is_none() && !shadow.text_pending() {
            self.text = Some(number);
        }
        let clear = shadow.all_clear() || table.kernel && !shadow.translations_pending(table.pcid);
        if self.translations.is_none() && clear {
            self.translations = Some(number);
        }
    }
}

/// What `executed` writes to the flag, if it writes there.
fn flag_write(executed: &Executed, step: &Step, layout: &KernelLayout) -> Option<FlagWrite> {
    let flag = layout.flag_address(step.registers.gs_base)?;
    let access = executed
        .accesses
        .iter()
        .find(|access| access.write && (access.address..access.end()).contains(&flag))?;
    let byte = executed
        .stored
        .zip(u32::try_from(flag - access.address).ok())
        .and_then(|(value, place)| value.checked_shr(place.checked_mul(8)?))
        .map(|value| value & 0xff);
    Some(match byte {
        Some(0) => FlagWrite::Clear,
        Some(_) => FlagWrite::Set,
        None => FlagWrite::Unclear,
    })
}
