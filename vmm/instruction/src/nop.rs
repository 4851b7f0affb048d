//! Places in entry code that text patching may touch without a change.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};

/// The NOPs of two and five bytes that the kernel puts where a jump may come
/// (arch/x86/include/asm/nops.h). Others cannot be poked: `text_poke_loc_init`.
const NOPS: [&[u8]; 2] = [&[0x66, 0x90], &[0x0f, 0x1f, 0x44, 0x00, 0x00]];

/// The address of the first NOP that can be poked in straight-line `code` at `address`. The search
/// ends at the first branch and at the first byte that is no instruction.
#[must_use]
pub fn first_nop(address: u64, code: &[u8]) -> Option<u64> {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        let start = decoder.position();
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() || instruction.flow_control() != FlowControl::Next {
            return None;
        }
        let bytes = code.get(start..decoder.position())?;
        if NOPS.contains(&bytes) {
            return Some(instruction.ip());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SWAPGS: [u8; 3] = [0x0f, 0x01, 0xf8];

    #[test]
    fn the_first_nop_of_two_or_five_bytes_is_found_at_an_instruction() {
        // Three bytes, then a move whose operand looks like a NOP, then the NOP.
        let code = [&SWAPGS[..], &[0xb8, 0x66, 0x90, 0x66, 0x90], &[0x66, 0x90]].concat();
        assert_eq!(first_nop(0x1000, &code), Some(0x1008));
        let code = [&SWAPGS[..], &[0x90], &[0x0f, 0x1f, 0x44, 0x00, 0x00]].concat();
        assert_eq!(first_nop(0x1000, &code), Some(0x1004));
    }

    #[test]
    fn nothing_is_found_behind_a_branch_or_what_is_no_instruction() {
        for first in [&[0xeb, 0x00][..], &[0xc3], &[0x06]] {
            let code = [first, &[0x66, 0x90]].concat();
            assert_eq!(first_nop(0x1000, &code), None, "{first:x?}");
        }
        assert_eq!(first_nop(0x1000, &[0x66]), None);
        assert_eq!(first_nop(u64::MAX, &[0x90, 0x66, 0x90]), Some(0));
    }
}
