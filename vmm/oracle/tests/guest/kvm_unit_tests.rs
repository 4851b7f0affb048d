//! The images of kvm-unit-tests on the rig's APIC. They are no part of this project: whoever has built them says
//! where they are, `IPIRIG_KVM_UNIT_TESTS=DIR`. That the loader, the way to the end and the reader of results
//! work is shown by a small image of the same kind, below.
#![expect(unsafe_code, reason = "the guests' assembler text")]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipirig_machine::{ApicMode, Host, StopReason, Wakeup};
use ipirig_oracle::{Multiboot, UnitOutcome, UnitReport, UnitTest};

use crate::Suite;
use crate::harness::Guest;
use crate::image::{self, guest};

const VARIABLE: &str = "IPIRIG_KVM_UNIT_TESTS";
/// Guests have this much memory, in MiB.
const MEMORY: u32 = 64;
/// Where an image finds what it is told: after the code that starts it, before where images begin.
const INFORMATION: u32 = 0x18_0000;
/// The longest of them takes some seconds on hardware, and a hundred times that where CPL 0 is emulated.
const PATIENCE: Duration = Duration::from_secs(500);
const CONSOLE_LINES: usize = 512;

/// Which images, by the file's name without its end, with how many CPUs and which face, as their unittests.cfg has
/// them, and which of their tests may fail, with the reason in a comment.
const IMAGES: [(&str, usize, ApicMode, &[&str]); 6] = [
    ("apic", 2, ApicMode::Xapic, NMIS),
    ("apic", 2, ApicMode::X2apic, NMIS),
    ("smptest", 2, ApicMode::Auto, &[]),
    ("smptest", 3, ApicMode::Auto, &[]),
    ("tscdeadline_latency", 1, ApicMode::Auto, &[]),
    ("init", 2, ApicMode::Auto, &[]),
];

/// Two CPUs send an NMI each to one that handles none, and it wants both. KVM keeps two, as its CPUs take them late
/// (`process_nmi` of arch/x86/kvm/x86.c); ours keeps one, as a CPU does.
const NMIS: &[&str] = &["multiple nmi"];

// Out of 64-bit mode, and into the image as the Multiboot Specification (0.6.96, 3.2) has it: 32 bits, no paging,
// EAX and EBX. INFORMATION begins with the entry and the address of the information.
guest!(
    MULTIBOOT_START,
    "
    cli
    lea rax, [rip + 31f]
    mov qword ptr [rip + 32f + 2], rax
    lgdt [rip + 32f]
    lea rax, [rip + 33f]
    push 0x08
    push rax
    .byte 0x48, 0xcb                    # a far return of 64 bits
.balign 8
31: .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
32: .word 23
    .quad 0
.code32
33: mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov ecx, 0xc0000080
    rdmsr
    and eax, 0xfffffeff
    wrmsr
    mov eax, cr4
    and eax, 0xffffffdf
    mov cr4, eax
    mov edx, dword ptr [0x180000]
    mov ebx, dword ptr [0x180004]
    mov eax, 0x2badb002
    jmp edx
.code64
    "
);

// An image of the same kind: it says what is at its module, says PASS or FAIL as its command line has it, and
// ends by port 0xf4.
core::arch::global_asm!(
    ".pushsection guest_image, \"a\", @progbits",
    ".globl small_image, small_image_end",
    "small_image:",
    ".code32",
    "20: .long 0x1badb002, 0x10000, 0 - 0x1badb002 - 0x10000",
    ".long 0x400000, 0x400000, 0, 0, 0x400020",
    "cmp eax, 0x2badb002",
    "jne 29f",
    "mov esi, 0x400100",
    "call 23f",
    "mov eax, dword ptr [ebx + 24]", // the module's first byte
    "mov esi, dword ptr [eax]",
    "call 23f",
    "mov esi, dword ptr [ebx + 16]", // the command line
    "mov edi, esi",
    "call 23f",
    "mov esi, 0x400120",
    "call 23f",
    "xor eax, eax",
    "cmp byte ptr [edi], 0x50", // 'P'
    "je 22f",
    "inc eax",
    "22: mov edx, 0xf4",
    "out dx, eax",
    "29: hlt",
    "jmp 29b",
    "23: mov edx, 0x3f8",
    "24: mov al, byte ptr [esi]",
    "inc esi",
    "test al, al",
    "jz 25f",
    "out dx, al",
    "jmp 24b",
    "25: ret",
    ".space 0x100 - (. - 20b)",
    ".asciz \"PASS: loaded: \"",
    ".space 0x120 - (. - 20b)",
    ".asciz \": by name\\nSUMMARY: 2 tests\\n\"",
    ".code64",
    "small_image_end:",
    ".popsection",
);

// SAFETY: symbols around the text above, of which only the bytes between them are used.
unsafe extern "C" {
    safe static small_image: u8;
    safe static small_image_end: u8;
}

pub(crate) fn list(suite: &mut Suite) {
    for (text, name) in [("PASS", "passes"), ("FAIL", "fails")] {
        suite.add(
            &format!("an_image_of_the_same_kind_{name}_by_name_and_code"),
            suite.no_kvm.clone(),
            move || small(text),
        );
    }
    let dir = std::env::var_os(VARIABLE).map(PathBuf::from);
    for (file, cpus, apic, known) in IMAGES {
        let missing = match &dir {
            None => Some(format!("{VARIABLE} does not say where they are")),
            Some(dir) => {
                let path = dir.join(format!("{file}.flat"));
                let missing = !path.is_file();
                missing.then(|| format!("no {}", path.display()))
            }
        };
        let x2apic = (apic == ApicMode::X2apic).then(|| suite.no_x2apic.clone());
        let reason = suite.no_kvm.clone().or(x2apic.flatten()).or(missing);
        let dir = dir.clone().unwrap_or_default();
        suite.add(
            &format!("kvm_unit_tests::{file}_{cpus}_{apic:?}"),
            reason,
            move || {
                let image = fs::read(dir.join(format!("{file}.flat"))).unwrap();
                let report = run(&image, cpus, apic, file);
                println!("{report}");
                assert_eq!(report.faults(known), [""; 0], "{report}");
            },
        );
    }
}

fn run(image: &[u8], cpus: usize, apic: ApicMode, cmdline: &str) -> UnitReport {
    let image = Multiboot::parse(image).unwrap_or_else(|error| panic!("{error}"));
    let environment = format!("NR_CPUS={cpus}\nMEMSIZE={MEMORY}\nTEST_DEVICE=1\nBOOTLOADER=0\n");
    let information = image.information(INFORMATION, MEMORY, cmdline, &environment);
    let mut others: Vec<(u64, &[u8])> = vec![(INFORMATION.into(), &information)];
    for segment in &image.segments {
        others.push((segment.address.into(), &segment.bytes));
    }
    let vmlinux = image::vmlinux_with(&MULTIBOOT_START, &others);
    let host = Arc::new(Host::probe().unwrap());
    let guest = Guest::new(&MULTIBOOT_START).cpus(cpus).apic(apic);
    let mut guest = guest.start_image(&host, &vmlinux, Arc::new(())).unwrap();
    let deadline = Instant::now() + PATIENCE;
    // Its firmware's configuration is at the doorbell's port: it may ring.
    let end = loop {
        match guest.machine.wait(deadline).unwrap() {
            Wakeup::Doorbell => {}
            other => break other,
        }
    };
    let code = match end {
        Wakeup::Stopped(StopReason::DebugExit { code }) => Some(code),
        other => {
            println!("{other:?}");
            None
        }
    };
    guest.machine.stop();
    let lines = guest.machine.console_tail(CONSOLE_LINES);
    UnitReport::read(lines.iter().map(String::as_str), code)
}

fn small(text: &str) {
    let start = &raw const small_image;
    let len = (&raw const small_image_end).addr() - start.addr();
    // SAFETY: both symbols are in one mapped section, in this order, and nobody writes to it.
    let image = unsafe { std::slice::from_raw_parts(start, len) };
    let report = run(image, 1, ApicMode::Auto, &format!("{text}: told"));
    let passed = text == "PASS";
    let test = |name: &str, outcome| UnitTest {
        name: name.to_owned(),
        outcome,
    };
    let outcome = if passed {
        UnitOutcome::Pass
    } else {
        UnitOutcome::Fail
    };
    assert_eq!(
        report.tests,
        [
            test("loaded: NR_CPUS=1", UnitOutcome::Pass),
            test("told: by name", outcome),
        ]
    );
    let faults = report.faults(&[]);
    let expected: &[&str] = if passed {
        &[]
    } else {
        &["FAIL: told: by name", "it ended with code 1"]
    };
    assert_eq!(faults, expected);
}
