//! How the kernel that runs maps itself, as far as it decides what makes a translation stale.

use std::fmt;
use std::ops::Range;

use schemars::JsonSchema;
use serde::Serialize;

use ipirig_instruction::control::{PCIDE, PGE};

/// CR4.LA57: page tables of five levels (SDM vol. 3, 2.5).
const LA57: u64 = 1 << 12;
/// In an entry: present, a leaf above the last level, global (SDM vol. 3, tables 4-15 to 4-20).
const PRESENT: u64 = 1;
const LEAF: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
/// In an entry and in CR3: the physical address of a page.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The bit of CR3 that says which of a pair of page tables is loaded: set, the user's
/// (PTI_USER_PGTABLE_BIT, arch/x86/entry/calling.h).
pub const USER_TABLE_BIT: u32 = 12;
pub(crate) const USER_TABLE: u64 = 1 << USER_TABLE_BIT;
/// Entries of a table.
const TOP_ENTRIES: usize = 512;
/// Tables that are looked into for a leaf.
const TABLES_MAX: usize = 64;

/// How a kernel's page tables are set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Paging {
    /// PCIDs are in use: CR4.PCIDE is set.
    pub pcids: bool,
    /// Page table isolation: in user space another page table is loaded, which lacks the kernel.
    pub isolated: bool,
    /// Translations of vmalloc memory are global: the leaf entries say so, and CR4.PGE is set. Then
    /// no write to CR3 flushes them.
    pub global: bool,
}

impl Default for Paging {
    /// As deferral at entry needs it: page table isolation, nothing of vmalloc memory global.
    fn default() -> Self {
        Self {
            pcids: false,
            isolated: true,
            global: false,
        }
    }
}

impl fmt::Display for Paging {
    /// What decides which flushes an entry needs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.isolated {
            f.write_str("no page table isolation, ")?;
        }
        f.write_str(if self.pcids {
            "PCIDs in use"
        } else {
            "no PCIDs"
        })
    }
}

impl Paging {
    /// What the page tables say of a CPU that is in user space with `cr3` and `cr4`, its kernel's
    /// vmalloc memory being in `vmalloc`, as far as that is known: where it is not there, no leaf of it is global. `read`
    /// gives the page at a physical address. `None` if it does not give that of `cr3`.
    pub fn look(
        cr3: u64,
        cr4: u64,
        vmalloc: &Range<u64>,
        read: impl Fn(u64) -> Option<Vec<u8>>,
    ) -> Option<Self> {
        let tables = Tables {
            read: &|at| Some(entries(&read(at)?)),
            vmalloc: vmalloc.clone(),
            levels: if cr4 & LA57 == 0 { 4 } else { 5 },
        };
        let loaded = (tables.read)(cr3 & ADDRESS)?;
        // The kernel's of a pair is the loaded one itself then, which is no pair.
        let other = cr3 & ADDRESS & !USER_TABLE;
        let isolated = (tables.read)(other).is_some_and(|it| is_pair(&loaded, &it));
        let kernel = if isolated { other } else { cr3 & ADDRESS };
        let mut budget = TABLES_MAX;
        let leaf = tables.global_leaf(kernel, tables.levels, 0, &mut budget);
        Some(Self {
            pcids: cr4 & PCIDE != 0,
            isolated,
            global: cr4 & PGE != 0 && leaf == Some(true),
        })
    }
}

/// The physical address of a kernel's virtual one, by the kernel's page table of a pair, whichever of the two
/// `cr3` has. `word` gives the 8 bytes at a physical address. `None`: nothing is mapped there.
pub fn kernel_translation(
    cr3: u64,
    cr4: u64,
    address: u64,
    word: impl Fn(u64) -> Option<u64>,
) -> Option<u64> {
    let levels = if cr4 & LA57 == 0 { 4 } else { 5 };
    let mut table = cr3 & ADDRESS & !USER_TABLE;
    for level in (1..=levels).rev() {
        let shift = 12 + 9 * (level - 1);
        let entry = word(table + 8 * (address >> shift & 0x1ff))?;
        if entry & PRESENT == 0 {
            return None;
        }
        if level == 1 || level < 4 && entry & LEAF != 0 {
            // Below the size of a large page is its PAT bit (SDM vol. 3, table 4-17).
            let within = (1 << shift) - 1;
            return Some(entry & ADDRESS & !within | address & within);
        }
        table = entry & ADDRESS;
    }
    None
}

/// Whether the top tables `user` and `kernel` are those of page table isolation: what user space has is in both
/// (`__pti_set_user_pgtbl` of arch/x86/mm/pti.c); of the kernel, which has the upper half, the first has some and not all
/// (`pti_clone_user_shared`).
fn is_pair(user: &[u64], kernel: &[u64]) -> bool {
    let present = |entry: &u64| entry & PRESENT != 0;
    let mut halves = [(0, 0); 2];
    for (index, (user, kernel)) in user.iter().zip(kernel).enumerate() {
        let upper = usize::from(index >= TOP_ENTRIES / 2);
        let (shared, lacking) = &mut halves[upper];
        match (present(user), present(kernel)) {
            (true, true) if upper == 1 || (user ^ kernel) & ADDRESS == 0 => *shared += 1,
            (false, true) => *lacking += 1,
            (false, false) => {}
            (true, _) => return false,
        }
    }
    matches!(halves, [(1.., _), (1.., 1..)])
}

fn entries(page: &[u8]) -> Vec<u64> {
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    page.chunks_exact(8).map(word).collect()
}

/// Page tables, and the addresses in them that are looked at.
struct Tables<'a> {
    read: &'a dyn Fn(u64) -> Option<Vec<u64>>,
    vmalloc: Range<u64>,
    /// Level of the topmost.
    levels: u32,
}

impl Tables<'_> {
    /// The entries of the table at `at`, of a level from 1 on, that are present and map some of the
    /// addresses that are looked at, each with its first address. The table's first address is `from`.
    fn wanted(&self, at: u64, level: u32, from: u64) -> Option<Vec<(u64, u64)>> {
        let shift = 12 + 9 * (level - 1);
        let mut wanted = Vec::new();
        for (index, entry) in (0_u64..).zip((self.read)(at)?) {
            let mut start = from | index << shift;
            if level == self.levels && index & 0x100 != 0 {
                // The other bits repeat the highest (SDM vol. 1, 3.3.7.1).
                start |= u64::MAX << (shift + 9);
            }
            let last = start | ((1 << shift) - 1);
            let within = start < self.vmalloc.end && last >= self.vmalloc.start;
            if within && entry & PRESENT != 0 {
                wanted.push((start, entry));
            }
        }
        Some(wanted)
    }

    /// Whether a leaf of the first table that has any is global. `None`: there is none within the
    /// first `budget` tables.
    fn global_leaf(&self, at: u64, level: u32, from: u64, budget: &mut usize) -> Option<bool> {
        *budget = budget.checked_sub(1)?;
        let mut found = None;
        for (start, entry) in self.wanted(at, level, from)? {
            if level == 1 || level < 4 && entry & LEAF != 0 {
                found = Some(found.unwrap_or(false) || entry & GLOBAL != 0);
            } else if found.is_none() {
                let below = self.global_leaf(entry & ADDRESS, level - 1, start, budget);
                if below.is_some() {
                    return below;
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Where vmalloc memory is: entry 402 of the top table.
    const VMALLOC: Range<u64> = 0xffff_c900_0000_0000..0xffff_e900_0000_0000;
    const KERNEL: u64 = 0x10_0000;
    const USER: u64 = KERNEL | USER_TABLE;

    /// A pair of page tables whose kernel half maps one page of vmalloc memory with `leaf`, by a path
    /// that begins with an empty table; the user half has the entry stacks.
    fn tables(leaf: u64) -> BTreeMap<u64, Vec<(usize, u64)>> {
        BTreeMap::from([
            (
                KERNEL,
                vec![
                    // The kernel may not execute what user space may.
                    (0, 1 << 63 | 0x60_0007),
                    (273, 0x20_0003),
                    (402, 0x30_0003),
                    (508, 0x50_0003),
                ],
            ),
            (
                USER,
                vec![(0, 0x60_0007), (273, 0x21_0003), (508, 0x51_0003)],
            ),
            // A direct map whose leaves are global does not count.
            (0x20_0000, vec![(0, 0x183)]),
            (0x30_0000, vec![(0, 0x31_0003)]),
            (0x31_0000, vec![(3, 0x32_0003), (4, 0x33_0003)]),
            (0x32_0000, vec![]),
            (0x33_0000, vec![(7, leaf)]),
            (0x50_0000, vec![(0, 0x183)]),
        ])
    }

    fn look(cr3: u64, cr4: u64, leaf: u64) -> Option<Paging> {
        look_in(&VMALLOC, cr3, cr4, leaf)
    }

    fn look_in(vmalloc: &Range<u64>, cr3: u64, cr4: u64, leaf: u64) -> Option<Paging> {
        let tables = tables(leaf);
        Paging::look(cr3, cr4, vmalloc, |at| {
            let mut page = vec![0; 4096];
            for &(index, entry) in tables.get(&at)? {
                page[index * 8..index * 8 + 8].copy_from_slice(&u64::to_le_bytes(entry));
            }
            Some(page)
        })
    }

    #[test]
    fn a_user_page_table_without_the_kernel_is_isolation_and_the_leaf_says_global() {
        let paging = |pcids, isolated, global| {
            Some(Paging {
                pcids,
                isolated,
                global,
            })
        };
        let (plain, global) = (0x1003, 0x1103);
        assert_eq!(
            look(USER | 0x801, PCIDE | PGE, plain),
            paging(true, true, false)
        );
        assert_eq!(look(USER, PGE, plain), paging(false, true, false));
        assert_eq!(look(KERNEL, PGE, plain), paging(false, false, false));
        assert_eq!(look(KERNEL, PGE, global), paging(false, false, true));
        assert_eq!(look(KERNEL, PCIDE, global), paging(true, false, false));
        assert_eq!(look(USER, PGE, global), paging(false, true, true));
        assert_eq!(look(0x7000, PGE, plain), None);
        // Where vmalloc memory is elsewhere, or it is not known where.
        for unknown in [0xffff_a000_0000_0000..0xffff_b000_0000_0000, 0..0] {
            let looked = [USER, KERNEL].map(|cr3| look_in(&unknown, cr3, PGE, global));
            assert_eq!(looked, [true, false].map(|it| paging(false, it, false)));
        }
    }

    /// Tables of so many levels from [`KERNEL`] on, which map `address` by a global leaf of `level`. Above level 3 the bit of
    /// a leaf means nothing.
    fn path(address: u64, levels: u32, level: u32) -> BTreeMap<u64, u64> {
        let mut path = BTreeMap::new();
        let mut table = KERNEL;
        for at in (level..=levels).rev() {
            let below = table + 0x1000;
            let entry = match at {
                _ if at == level => LEAF | GLOBAL | PRESENT,
                4.. => below | LEAF | PRESENT,
                _ => below | PRESENT,
            };
            path.insert(table + 8 * (address >> (12 + 9 * (at - 1)) & 0x1ff), entry);
            table = below;
        }
        path
    }

    #[test]
    fn a_leaf_is_looked_at_if_it_maps_any_of_the_addresses_and_no_other_is() {
        // Indices above and below the middle of a table, at each level.
        let addresses = [(4, 0xffff_c92b_4c91_2000), (4, 0xffff_e8ff_ffff_f000)];
        let deep = [
            (5, 0xffa0_0000_0000_0000),
            (5, 0xffd1_2345_6789_a000),
            (5, 0x11_2345_6000),
        ];
        for (levels, address) in addresses.into_iter().chain(deep) {
            for level in 1..=3 {
                let words = path(address, levels, level);
                let read = |at: u64| {
                    let word = |index: u64| words.get(&(at + 8 * index)).copied().unwrap_or(0);
                    Some(
                        (0..512)
                            .flat_map(|index| word(index).to_le_bytes())
                            .collect(),
                    )
                };
                let size = 0x1000_u64 << (9 * (level - 1));
                let start = address & !(size - 1);
                let end = start.wrapping_add(size);
                let cr4 = PGE | if levels == 5 { LA57 } else { 0 };
                for (vmalloc, found) in [
                    (start..start + 1, true),
                    (end - 1..end, true),
                    (start - 0x1000..end + 0x1000, true),
                    (start - 0x1000..start, false),
                    (end..end + 0x1000, false),
                ] {
                    let paging = Paging::look(KERNEL, cr4, &vmalloc, read).unwrap();
                    assert_eq!(paging.global, found, "{level}: {address:x} {vmalloc:x?}");
                }
                let word = |at: u64| Some(words.get(&at).copied().unwrap_or(0));
                let translated = kernel_translation(KERNEL, cr4, address, word);
                assert_eq!(
                    translated,
                    Some(address & (size - 1)),
                    "{level}: {address:x}"
                );
            }
        }
    }

    #[test]
    fn a_user_page_table_beside_another_s_is_no_isolation() {
        // Beside it is one that is not of a pair: it has nothing of the user's.
        let paging = Paging::look(USER, PGE, &VMALLOC, |at| {
            let mut page = vec![0; 4096];
            page[8 * 508] = PRESENT as u8;
            page[0] = u8::from(at == USER);
            Some(page)
        });
        assert!(!paging.unwrap().isolated);
    }

    #[test]
    fn tables_side_by_side_are_a_pair_only_if_one_lacks_the_kernel_and_both_have_the_user() {
        let table = |present: &[(usize, u64)]| {
            let mut table = vec![0; TOP_ENTRIES];
            for &(index, entry) in present {
                table[index] = entry;
            }
            table
        };
        let user = table(&[(0, 0x60_0007), (508, 0x51_0003)]);
        let whole = [(0, 0x60_0007), (402, 0x30_0003), (508, 0x50_0003)];
        assert!(is_pair(&user, &table(&whole)));
        for other in [
            // Another process, nothing of the user's, nothing of the kernel's, no more of it.
            [(0, 0x61_0007), whole[1], whole[2]],
            [whole[1], whole[1], whole[2]],
            [whole[0], whole[1], whole[1]],
            [whole[0], whole[2], whole[2]],
        ] {
            assert!(!is_pair(&user, &table(&other)), "{other:?}");
        }
        assert!(!is_pair(&table(&whole[1..]), &table(&whole)));
    }

    #[test]
    fn what_flushes_depend_on_reads_in_a_few_words() {
        let words = [(true, true), (true, false), (false, true), (false, false)].map(
            |(isolated, pcids)| {
                let global = false;
                Paging {
                    pcids,
                    isolated,
                    global,
                }
                .to_string()
            },
        );
        let expected = [
            "PCIDs in use",
            "no PCIDs",
            "no page table isolation, PCIDs in use",
            "no page table isolation, no PCIDs",
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn tables_that_point_at_each_other_end_the_search() {
        // Each entry of the one table points at it.
        let page: Vec<u8> = (0..512).flat_map(|_| 0x1003_u64.to_le_bytes()).collect();
        let calls = std::cell::Cell::new(0);
        let paging = Paging::look(0x1000, PGE, &VMALLOC, |_| {
            calls.set(calls.get() + 1);
            Some(page.clone())
        });
        assert!(!paging.unwrap().global);
        assert!(calls.get() <= TABLES_MAX + 1);
    }

    #[test]
    fn what_the_user_page_table_lacks_is_found_by_the_kernel_s() {
        // Entry 402, then a page of 4 KiB, one of 2 MiB with its PAT bit set, and nothing.
        let words = BTreeMap::from([
            (KERNEL + 8 * 402, 0x30_0003),
            (0x30_0000, 0x31_0003),
            (0x31_0000 + 8 * 3, 0x32_0003),
            (0x31_0000 + 8 * 4, 0x4020_1083),
            (0x32_0000 + 8 * 7, 0x8000_0000_0123_4003),
        ]);
        let translate = |cr3, offset| {
            let word = |at| Some(words.get(&at).copied().unwrap_or(0));
            kernel_translation(cr3, 0, VMALLOC.start + offset, word)
        };
        let (small, large) = ((3 << 21) + (7 << 12) + 5, (4 << 21) + 0x12_3456);
        for cr3 in [KERNEL, USER, USER | 0x801] {
            let found = [small, large, 0].map(|offset| translate(cr3, offset));
            assert_eq!(found, [Some(0x123_4005), Some(0x4032_3456), None]);
        }
        assert_eq!(kernel_translation(USER, 0, VMALLOC.start, |_| None), None);
    }
}
