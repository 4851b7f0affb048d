//! Small kernels made by hand.

use std::fs;

use tempfile::TempDir;

use crate::{Image, ImageError};

/// Where the text of a hand-made kernel is.
pub(crate) const TEXT: u64 = 0xffff_ffff_8100_0000;
/// Where its data is.
pub(crate) const DATA: u64 = 0xffff_ffff_8180_0000;

/// Type, flags, address, bytes in the file, size, link.
type Header<'a> = (u32, u64, u64, &'a [u8], u64, u32);

/// A kernel with `text` at [`TEXT`], `data` at [`DATA`], 0x1000 bytes of `.bss` after it, and
/// `symbols` that are in none of them.
pub(crate) fn vmlinux(text: &[u8], data: &[u8], symbols: &[(&str, u64)]) -> Vec<u8> {
    let (mut names, mut symtab) = (vec![0], vec![0; 24]);
    for &(name, address) in symbols {
        symtab.extend((names.len() as u32).to_le_bytes());
        // A global label, absolute.
        symtab.extend([0x10, 0, 0xf1, 0xff]);
        symtab.extend(address.to_le_bytes());
        symtab.extend([0; 8]);
        names.extend(name.bytes());
        names.push(0);
    }
    let bss = DATA + data.len() as u64;
    let sections: [Header<'_>; 6] = [
        (0, 0, 0, &[], 0, 0),
        (1, 6, TEXT, text, text.len() as u64, 0),
        (1, 3, DATA, data, data.len() as u64, 0),
        (8, 3, bss, &[], 0x1000, 0),
        (2, 0, 0, &symtab, symtab.len() as u64, 5),
        (3, 0, 0, &names, names.len() as u64, 0),
    ];
    let (mut contents, mut headers) = (Vec::<u8>::new(), Vec::<u8>::new());
    for (kind, flags, address, bytes, size, link) in sections {
        headers.extend([0; 4]);
        headers.extend(kind.to_le_bytes());
        for field in [flags, address, 64 + contents.len() as u64, size] {
            headers.extend(field.to_le_bytes());
        }
        headers.extend(link.to_le_bytes());
        headers.extend([0; 12]);
        headers.extend((if kind == 2 { 24_u64 } else { 0 }).to_le_bytes());
        contents.extend(bytes);
    }
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend([0; 16]); // entry, program headers
    file.extend((64 + contents.len() as u64).to_le_bytes());
    file.extend([0; 4]);
    file.extend([64, 0, 0, 0, 0, 0, 64, 0, 6, 0, 5, 0]);
    file.extend(contents);
    file.extend(headers);
    file
}

/// Opens `file` as an image.
pub(crate) fn open(file: &[u8]) -> Result<Image, ImageError> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("vmlinux");
    fs::write(&path, file).unwrap();
    Image::open(&path)
}
