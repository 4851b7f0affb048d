//! A record with each step decoded, and walks along it.

use ipirig_instruction::Step;
use ipirig_instruction::control::{NOFLUSH, PCIDE, pcid};
use ipirig_instruction::decode::{Decoder, Effect, Executed};

use crate::audit::{FINDINGS_MAX, Finding, Switch, What, push};
use crate::layout::{CodeRegion, KernelLayout};
use crate::paging::USER_TABLE;
use crate::record::Record;
use crate::shadow::{Shadow, control_after};

/// In CR3: the physical address of the page table.
const TABLE: u64 = 0x000f_ffff_ffff_f000;

/// One instruction of a record.
#[derive(Debug)]
pub(crate) struct TracedStep<'a> {
    /// From 1.
    pub(crate) number: usize,
    pub(crate) step: &'a Step,
    /// None if its bytes are no instruction.
    pub(crate) executed: Option<Executed>,
    pub(crate) place: CodeRegion,
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
    /// Only if page tables are `isolated` does a bit of their addresses tell the two of a pair apart.
    fn new(cr3: u64, cr4: u64, isolated: bool) -> Self {
        Self {
            pcid: pcid(cr3, cr4),
            kernel: !isolated || cr3 & USER_TABLE == 0,
        }
    }
}

/// The pair of page tables, or the one, that CR3 is of.
fn pair(cr3: u64, isolated: bool) -> u64 {
    let table = cr3 & TABLE;
    if isolated { table & !USER_TABLE } else { table }
}

/// A record with each step decoded.
#[derive(Debug)]
pub(crate) struct Trace<'a>(Vec<TracedStep<'a>>);

impl TracedStep<'_> {
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
    fn table_after(&self, isolated: bool) -> PageTable {
        let (cr3, cr4) = control_after(self.effect(), &self.step.registers);
        PageTable::new(cr3, cr4, isolated)
    }

    /// The data that it touches first.
    fn touches(&self) -> Option<u64> {
        let accesses = &self.executed.as_ref()?.accesses;
        accesses.first().map(|access| access.address)
    }
}

impl<'a> Trace<'a> {
    pub(crate) fn new(record: &'a Record, layout: &KernelLayout) -> Self {
        let mut decoder = Decoder::new();
        let steps = (1..).zip(&record.steps).map(|(number, step)| {
            let executed = decoder.decode(step);
            TracedStep {
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

    pub(crate) fn steps(&self) -> &[TracedStep<'a>] {
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
        isolated: bool,
    ) -> Cleared {
        let mut cleared = Cleared::default();
        let before = match start.checked_sub(1) {
            Some(index) => self.0.get(index).map(|seen| seen.table_after(isolated)),
            None => self.0.first().map(|seen| {
                let registers = &seen.step.registers;
                PageTable::new(registers.cr3, registers.cr4, isolated)
            }),
        };
        let Some(before) = before else {
            return cleared;
        };
        cleared.note(&shadow, before, start);
        // The load of a stale PCID, until the first touch of memory under it.
        let mut stale = None;
        for seen in self.0.iter().skip(start) {
            shadow.apply(seen.effect(), &seen.step.registers);
            let table = seen.table_after(isolated);
            let entering = instrumentable.is_none_or(|first| seen.number < first);
            if cleared.translations.is_some()
                && table.kernel
                && shadow.translations_pending(table.pcid)
            {
                // Another PCID than that which was cleared. On the way in this takes it back.
                if entering {
                    cleared.translations = None;
                } else if seen.cr3().is_some() {
                    stale = Some(seen.number);
                } else if let Some((load, address)) = stale.zip(seen.touches()) {
                    let words = format!(
                        "touches memory at {address:#x} under PCID {}, loaded by instruction {load} \
                         and not flushed since the window",
                        table.pcid
                    );
                    let findings = &mut cleared.stale_pcids;
                    push(findings, seen, address, What::StalePcid, words);
                    stale = None;
                }
            } else {
                stale = None;
            }
            cleared.note(&shadow, table, seen.number);
        }
        cleared
    }
}

impl Trace<'_> {
    /// The changes of address space.
    pub(super) fn switches(&self, isolated: bool) -> Vec<Switch> {
        let mut switches = Vec::new();
        let first = self.0.first();
        let mut current = first.map(|seen| pair(seen.step.registers.cr3, isolated));
        for seen in &self.0 {
            let Some(value) = seen.cr3() else {
                continue;
            };
            let table = Some(pair(value, isolated));
            let cr4 = seen.step.registers.cr4;
            let kernel = PageTable::new(value, cr4, isolated).kernel;
            if kernel && table != current && switches.len() < FINDINGS_MAX {
                switches.push(Switch {
                    step: seen.number,
                    page_table: pair(value, isolated),
                    pcid: pcid(value, cr4),
                    flushed: cr4 & PCIDE == 0 || value & NOFLUSH == 0,
                });
            }
            current = table;
        }
        switches
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
