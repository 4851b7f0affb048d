//! Functions that the compiler inlined, by DWARF.

use ipirig_blame::Kernel;

/// What a kernel file's debug information says of inlining; nothing, until there is some.
#[derive(Debug, Default)]
pub(super) struct Inlined {}

impl Inlined {
    /// The functions inlined at `address`, innermost first.
    pub(super) fn at(&mut self, _kernel: &Kernel, _address: u64) -> Vec<String> {
        Vec::new()
    }
}
