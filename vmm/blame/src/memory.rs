//! A guest's memory, as what follows stacks needs it.

/// Memory as the sender of an IPI sees it.
pub trait Memory {
    /// Fills `buffer` from a virtual address; `false`, and anything in `buffer`, if not all of it can
    /// be read.
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool;
}
