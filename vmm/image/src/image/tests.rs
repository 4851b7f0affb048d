//! What a hand-made kernel has and has not.

use super::*;
use crate::testing::{DATA, TEXT, open, vmlinux};

fn bytes(image: &Image, range: Range<u64>) -> Option<Vec<u8>> {
    image.bytes(range).unwrap()
}

#[test]
fn bytes_are_found_by_link_address() {
    let image = open(&vmlinux(b"code", b"data", &[("_stext", TEXT)])).unwrap();
    assert_eq!(image.symbols().address("_stext"), Some(TEXT));
    assert_eq!(bytes(&image, TEXT..TEXT + 4).unwrap(), b"code");
    assert_eq!(bytes(&image, TEXT + 1..TEXT + 3).unwrap(), b"od");
    assert_eq!(bytes(&image, DATA + 3..DATA + 4).unwrap(), b"a");
    assert_eq!(bytes(&image, DATA + 1..DATA + 1).unwrap(), b"");
    let from = |at, most| image.bytes_from(at, most).unwrap();
    assert_eq!(from(DATA + 1, u64::MAX).unwrap(), b"ata");
    assert_eq!(from(DATA + 1, 2).unwrap(), b"at");
    assert_eq!(from(TEXT - 1, 2), None);
}

#[test]
fn what_the_file_does_not_have_is_none() {
    let image = open(&vmlinux(b"code", b"data", &[])).unwrap();
    let reversed = Range {
        start: TEXT + 2,
        end: TEXT + 1,
    };
    let bss = DATA + 4..DATA + 8;
    for range in [TEXT - 1..TEXT + 1, TEXT..TEXT + 5, bss, 0..4, reversed] {
        assert_eq!(bytes(&image, range.clone()), None, "{range:x?}");
    }
}

#[test]
fn only_text_is_code() {
    let image = open(&vmlinux(b"code", b"data", &[])).unwrap();
    let is_code = |range| image.is_code(&range);
    assert!(is_code(TEXT..TEXT + 4));
    assert!(!is_code(TEXT..TEXT + 5));
    assert!(!is_code(DATA..DATA + 1));
}

#[test]
fn a_section_beyond_the_end_of_the_file_cannot_be_read() {
    let mut file = vmlinux(b"code", b"data", &[]);
    // The text's offset in the file, in the second of six section headers.
    let offset = file.len() - 5 * 64 + 24;
    file[offset + 4] = 1;
    let error = open(&file).unwrap().bytes(TEXT..TEXT + 4).unwrap_err();
    assert!(matches!(error, ImageError::Read { .. }), "{error:?}");
    file[offset + 7] = 0xff;
    open(&file).unwrap().bytes(TEXT..TEXT + 4).unwrap_err();
}

#[test]
fn a_huge_range_is_not_read() {
    let mut file = vmlinux(b"code", b"data", &[]);
    // The text's size.
    let size = file.len() - 5 * 64 + 32;
    file[size + 3] = 2;
    let error = open(&file).unwrap().bytes(TEXT..TEXT + 0x0200_0000);
    assert!(
        matches!(error, Err(ImageError::TooLarge { .. })),
        "{error:?}"
    );
}

#[test]
fn what_is_no_elf_file_is_no_image() {
    let error = open(b"MZ").unwrap_err();
    assert!(
        matches!(error, ImageError::Symbols(SymbolsError::NotElf { .. })),
        "{error:?}"
    );
}
