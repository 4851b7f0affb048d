//! Bits of CR3 and CR4 that say which translations are used.

/// CR4.PGE: translations may be global (SDM vol. 3, 2.5).
pub const PGE: u64 = 1 << 7;
/// CR4.PCIDE: translations are cached by PCID (SDM vol. 3, 2.5).
pub const PCIDE: u64 = 1 << 17;
/// In a value for CR3: keep what is cached for the PCID (SDM vol. 3, 4.10.4.1).
pub const NOFLUSH: u64 = 1 << 63;
/// In CR3: the PCID, if CR4.PCIDE is set.
pub const PCID: u64 = 0xfff;

/// The PCID in force.
#[must_use]
pub fn pcid(cr3: u64, cr4: u64) -> u16 {
    if cr4 & PCIDE == 0 {
        0
    } else {
        (cr3 & PCID) as u16
    }
}
