//! What is still pending on one CPU while it executes.
//!
//! Translations are those of mappings that the kernel unmaps without telling a CPU in user space:
//! pages of 4 KiB. With page table isolation, which deferral needs, no vmalloc mapping is global
//! (arch/x86/mm/init.c leaves `_PAGE_GLOBAL` out of the default), so what spares global translations
//! clears all of these. Without it they are, and only what flushes global translations clears them.

use std::collections::BTreeSet;
use std::ops::Range;

use ipirig_instruction::StepRegisters;
use ipirig_instruction::control::{NOFLUSH, PCID, PCIDE, PGE, pcid};
use ipirig_instruction::decode::Effect;

use crate::pending::{Pending, RANGES_MAX};

const PAGE: u64 = 0x1000;

/// CR3 and CR4 after an instruction with `effect`.
#[must_use]
pub fn control_after(effect: Effect, registers: &StepRegisters) -> (u64, u64) {
    match effect {
        Effect::WriteCr3 { value } => (value & !NOFLUSH, registers.cr4),
        Effect::WriteCr4 { new, .. } => (registers.cr3, new),
        _ => (registers.cr3, registers.cr4),
    }
}

/// What is pending on a CPU, instruction for instruction.
#[derive(Clone, Debug)]
pub struct Shadow {
    text: Pending,
    /// Whole pages; in all PCIDs but for those below.
    translations: Pending,
    clean_pcids: BTreeSet<u16>,
    /// PCID and address of a page. Bounded: one that is not noted stays pending.
    clean_pages: BTreeSet<(u16, u64)>,
    /// The translations are global: they belong to no PCID, and are noted under 0.
    global: bool,
}

impl Shadow {
    /// A CPU that knows nothing of patches in `text` and may have cached all translations of
    /// `ranges`, in each PCID, or as `global` ones.
    #[must_use]
    pub fn new(text: Pending, ranges: &Pending, global: bool) -> Self {
        Self {
            text,
            translations: whole_pages(ranges),
            clean_pcids: BTreeSet::new(),
            clean_pages: BTreeSet::new(),
            global,
        }
    }

    /// What `effect` clears, executed with `registers` (SDM vol. 3, 4.10.4.1 for translations).
    pub fn apply(&mut self, effect: Effect, registers: &StepRegisters) {
        if effect.serialises() {
            self.text = Pending::default();
        }
        match effect {
            Effect::None | Effect::Serialising => {}
            // Spares what is global.
            Effect::WriteCr3 { .. } if self.global => {}
            Effect::Invpcid {
                kind: 0 | 1 | 3, ..
            } if self.global => {}
            // Without PCIDs only those of PCID 0 are there: turning PCIDs off has cleared the rest.
            Effect::WriteCr3 { .. } if registers.cr4 & PCIDE == 0 => self.clear_translations(),
            Effect::WriteCr3 { value } if value & NOFLUSH == 0 => {
                self.clean_pcids.insert((value & PCID) as u16);
            }
            Effect::WriteCr3 { .. } => {}
            Effect::WriteCr4 { old, new } => {
                if (old ^ new) & PGE != 0 || old & !new & PCIDE != 0 {
                    self.clear_translations();
                }
            }
            Effect::Invlpg { address } => {
                // A global translation goes whatever PCID is in force.
                let pcid = self.under(pcid(registers.cr3, registers.cr4));
                self.clear_page(pcid, address);
            }
            Effect::Invpcid { kind, descriptor } => match (kind, descriptor) {
                (0, Some((pcid, address))) => self.clear_page(pcid, address),
                (1, Some((pcid, _))) => {
                    self.clean_pcids.insert(pcid);
                }
                (2 | 3, _) => self.clear_translations(),
                _ => {}
            },
        }
    }

    /// Whether the CPU may still execute text as it was before a patch.
    #[must_use]
    pub fn text_pending(&self) -> bool {
        !self.text.is_empty()
    }

    /// Whether no translation is pending in any PCID. Clearing them one by one does not show here.
    #[must_use]
    pub fn all_clear(&self) -> bool {
        self.translations.is_empty()
    }

    /// Whether the CPU may still use a translation that is gone, with `pcid` in force.
    #[must_use]
    pub fn translations_pending(&self, pcid: u16) -> bool {
        let pcid = self.under(pcid);
        if self.clean_pcids.contains(&pcid) {
            return false;
        }
        match &self.translations {
            Pending::Everything { .. } => true,
            Pending::Known(ranges) => ranges.iter().any(|range| self.has_unclean(&range, pcid)),
        }
    }

    /// Whether the CPU may still use a translation that is gone for an address of `range`, with
    /// `pcid` in force.
    #[must_use]
    pub fn is_stale(&self, range: &Range<u64>, pcid: u16) -> bool {
        let pcid = self.under(pcid);
        if range.is_empty() || self.clean_pcids.contains(&pcid) {
            return false;
        }
        match &self.translations {
            Pending::Everything { .. } => self.has_unclean(range, pcid),
            Pending::Known(ranges) => ranges
                .overlap(range)
                .any(|part| self.has_unclean(&part, pcid)),
        }
    }

    /// Whether a page of `range` was not cleared by itself. Looks at one page more than are noted.
    fn has_unclean(&self, range: &Range<u64>, pcid: u16) -> bool {
        let mut page = range.start & !(PAGE - 1);
        while page < range.end {
            if !self.clean_pages.contains(&(pcid, page)) {
                return true;
            }
            let Some(next) = page.checked_add(PAGE) else {
                return false;
            };
            page = next;
        }
        false
    }

    /// The PCID under which something is noted.
    fn under(&self, pcid: u16) -> u16 {
        if self.global { 0 } else { pcid }
    }

    fn clear_page(&mut self, pcid: u16, address: u64) {
        if self.clean_pages.len() < RANGES_MAX {
            self.clean_pages.insert((pcid, address & !(PAGE - 1)));
        }
    }

    fn clear_translations(&mut self) {
        self.translations = Pending::default();
    }
}

/// The pages that hold `ranges`.
fn whole_pages(ranges: &Pending) -> Pending {
    match ranges {
        Pending::Everything { why } => Pending::everything(why),
        Pending::Known(ranges) => ranges
            .iter()
            .map(|range| {
                let end = range.end.checked_add(PAGE - 1);
                range.start & !(PAGE - 1)..end.map_or(u64::MAX, |end| end & !(PAGE - 1))
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests;
