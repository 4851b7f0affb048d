//! Guests that are no Linux, or whose first process is none of ours.

use libtest_mimic::Failed;

use crate::harness::{REFERENCE_MEMORY, ended, ensure, reference_kernel, run};

/// Boots a "kernel" of a few bytes of code.
pub(crate) fn tiny_kernel(code: &[u8], what: &str) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let (kernel, initramfs) = (dir.path().join("vmlinux"), dir.path().join("initramfs"));
    // Linked where kernels are.
    std::fs::write(&kernel, elf(0x100_0000, 0xffff_ffff_8000_0000, code))?;
    std::fs::write(&initramfs, "070701")?;
    let args = [
        "--timeout",
        "2",
        "--kernel",
        kernel.to_str().ok_or("a path that is no text")?,
        "--initramfs",
        initramfs.to_str().ok_or("a path that is no text")?,
    ];
    let (result, table) = run("static-key-flip", &args, 3)?;
    let (evidence, report) = ended(&result, "error")?;
    ensure(evidence.contains(what), || table.clone())?;
    // Where it was, by address and by its bytes.
    let hex: Vec<String> = code.iter().map(|byte| format!("{byte:02x}")).collect();
    for expected in [
        "RIP 0x0000000001000078",
        &format!("code: {}", hex.join(" ")),
    ] {
        ensure(report.contains(expected), || report.to_owned())?;
    }
    Ok(())
}

/// An x86-64 ELF executable: one segment, the whole file, at `address` and linked at `link` beyond.
fn elf(address: u64, link: u64, code: &[u8]) -> Vec<u8> {
    let len = HEADERS + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]); // ET_EXEC, EM_X86_64, version
    file.extend([address + HEADERS, 64, 0].map(u64::to_le_bytes).concat()); // entry, program headers
    file.extend([0; 4]);
    file.extend([64_u16, 56, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    file.extend([1, 5].map(u32::to_le_bytes).concat()); // PT_LOAD, read and execute
    let segment = [0, link + address, address, len, len, 0x1000];
    file.extend(segment.map(u64::to_le_bytes).concat());
    file.extend(code);
    file
}

/// Bytes of the ELF header and of one program header.
const HEADERS: u64 = 64 + 56;

/// An agent that ends at once, and the kernel with it.
pub(crate) fn agent_dies() -> Result<(), Failed> {
    // mov eax, 60 (exit); mov edi, 7; syscall
    let code = [0xb8, 60, 0, 0, 0, 0xbf, 7, 0, 0, 0, 0x0f, 0x05];
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("initramfs");
    let mut archive = cpio_entry("init", &elf(0x40_0000, 0, &code));
    archive.extend(cpio_entry("TRAILER!!!", b""));
    std::fs::write(&path, archive)?;
    let kernel = reference_kernel();
    let initramfs = path.to_str().ok_or("a path that is no text")?;
    let files = ["--kernel", &kernel, "--initramfs", initramfs];
    let args = [&files[..], &["--memory", REFERENCE_MEMORY]].concat();
    let (result, table) = run("static-key-flip", &args, 3)?;
    let (evidence, report) = ended(&result, "error")?;
    ensure(
        evidence.contains("Attempted to kill init! exitcode=0x00000700"),
        || table.clone(),
    )?;
    ensure(report.contains("do_exit"), || report.to_owned())
}

/// One file of a cpio archive, in the "newc" form (Linux's buffer-format.rst).
fn cpio_entry(name: &str, data: &[u8]) -> Vec<u8> {
    let fields = [
        1,
        0o100_755,
        0,
        0,
        1,
        0,
        data.len(),
        0,
        0,
        0,
        0,
        name.len() + 1,
        0,
    ];
    let hex: String = fields.map(|field| format!("{field:08X}")).concat();
    let mut entry = format!("070701{hex}{name}\0").into_bytes();
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry.extend(data);
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry
}
