//! An instruction as it was executed: its bytes, and the CPU's state before it.

/// Longest instruction, in bytes (SDM vol. 2, 2.3.11).
pub const INSTRUCTION_MAX: usize = 15;

/// One instruction: the CPU's state just before it was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Registers.
    pub registers: StepRegisters,
    /// The bytes at RIP.
    pub code: Code,
    /// What INVPCID takes from memory, if it is one and can be read (SDM vol. 2, figure "INVPCID
    /// Descriptor"): 64 bits with the PCID, 64 with the address.
    pub descriptor: Option<[u64; 2]>,
}

/// The registers that say what an instruction does and to which address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepRegisters {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15: the order of their encoding (SDM vol. 2,
    /// table 3-1).
    pub general: [u64; 16],
    /// The instruction's address.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// Control register 3.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Base of FS.
    pub fs_base: u64,
    /// Base of GS, the one in force.
    pub gs_base: u64,
    /// Privilege level, 0 or 3.
    pub cpl: u8,
}

/// Up to [`INSTRUCTION_MAX`] bytes of code. Fewer where the next page is not mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Code {
    bytes: [u8; INSTRUCTION_MAX],
    len: u8,
}

impl Code {
    /// The first [`INSTRUCTION_MAX`] of `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let mut code = Self::default();
        for (to, from) in code.bytes.iter_mut().zip(bytes) {
            *to = *from;
            code.len += 1;
        }
        code
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_keeps_what_an_instruction_can_have_and_no_more() {
        assert_eq!(Code::new(&[0x0f, 0x05]).bytes(), [0x0f, 0x05]);
        assert_eq!(Code::new(&[0x90; 20]).bytes(), [0x90; INSTRUCTION_MAX]);
        assert_eq!(Code::new(&[]).bytes(), [0_u8; 0]);
    }
}
