//! CPUID features.

/// One feature bit of a CPUID leaf (SDM vol. 2, CPUID).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Feature {
    /// EAX on input.
    pub(crate) leaf: u32,
    /// ECX on input; 0 for a leaf that has no subleaves.
    pub(crate) subleaf: u32,
    /// The output register.
    pub(crate) register: Register,
    /// Bit number, 0 to 31.
    pub(crate) bit: u8,
}

impl Feature {
    /// A feature of a leaf without subleaves, or of its subleaf 0.
    pub(crate) const fn new(leaf: u32, register: Register, bit: u8) -> Self {
        Self::of_subleaf(leaf, 0, register, bit)
    }

    /// A feature of a subleaf.
    pub(crate) const fn of_subleaf(leaf: u32, subleaf: u32, register: Register, bit: u8) -> Self {
        Self {
            leaf,
            subleaf,
            register,
            bit,
        }
    }

    /// Whether it is set in what CPUID returned for its leaf and subleaf.
    pub(crate) fn is_set(self, returned: CpuidRegisters) -> bool {
        let register = match self.register {
            Register::Eax => returned.eax,
            Register::Ebx => returned.ebx,
            Register::Ecx => returned.ecx,
            Register::Edx => returned.edx,
        };
        register >> self.bit & 1 == 1
    }
}

/// What one CPUID instruction returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuidRegisters {
    pub(crate) eax: u32,
    pub(crate) ebx: u32,
    pub(crate) ecx: u32,
    pub(crate) edx: u32,
}

/// An output register of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}
