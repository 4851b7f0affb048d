//! One instruction in words, for messages.

use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter, Instruction};

/// The first instruction of `code`, as `objdump` writes it, were it at address 0. `None`: the bytes
/// are none.
#[must_use]
pub fn disassemble(code: &[u8]) -> Option<String> {
    let mut text = String::new();
    GasFormatter::new().format(&first(code, 0)?, &mut text);
    Some(text)
}

/// The first instruction of `code` at `address`, with the addresses that it is relative to worked out.
#[must_use]
pub fn disassemble_at(code: &[u8], address: u64) -> Option<String> {
    Some(text(&first(code, address)?))
}

/// `instruction` in the assembler's AT&T syntax.
pub(crate) fn text(instruction: &Instruction) -> String {
    let mut text = String::new();
    let mut formatter = GasFormatter::new();
    formatter.options_mut().set_uppercase_hex(false);
    formatter
        .options_mut()
        .set_space_after_operand_separator(true);
    formatter.format(instruction, &mut text);
    text
}

/// Bytes of the first instruction of `code`.
#[must_use]
pub fn length(code: &[u8]) -> Option<usize> {
    Some(first(code, 0)?.len())
}

/// The first instruction of `code` at `address`, or none if the bytes are no instruction of 64-bit mode, or cut off.
pub(crate) fn first(code: &[u8], address: u64) -> Option<Instruction> {
    let instruction = Decoder::with_ip(64, code, address, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_instruction_is_named_and_measured_and_nonsense_is_not() {
        let code = [0x0f, 0xae, 0x27, 0x90];
        assert_eq!(disassemble(&code).as_deref(), Some("xsave (%rdi)"));
        assert_eq!(length(&code), Some(3));
        assert_eq!((disassemble(&[0x06]), length(&[])), (None, None));
        let jump = disassemble_at(&[0xeb, 0x10], 0xffff_ffff_8100_0000);
        assert_eq!(jump.as_deref(), Some("jmp 0xffffffff81000012"));
        assert_eq!(disassemble_at(&[0x06], 0), None);
    }
}
