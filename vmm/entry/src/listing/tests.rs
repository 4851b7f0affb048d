//! Listings as a person sees them.

use ipirig_instruction::control::PCIDE;

use super::*;
use crate::audit::{PendingInput, audit};
use crate::pending::Pending;
use crate::testing::*;

fn listed(record: &Record, extent: Extent) -> String {
    let everything = PendingInput {
        text: Pending::everything("x"),
        translations: Pending::everything("x"),
        ..PendingInput::default()
    };
    let layout = layout();
    let audit = audit(record, &layout, &everything);
    Listing::new(record, &layout, &audit).text(extent)
}

#[test]
fn a_short_record_is_listed_as_a_whole() {
    let expected = "\
CPU 3 enters the kernel by SYSCALL: catch-up by instruction 5, danger zone 4 instructions
     1  entry_SYSCALL_64                         swapgs
     2  entry_SYSCALL_64+0x3                     mov %rsp, %gs:0x6014                   per-CPU cpu_tss_rw+0x14
     3  entry_SYSCALL_64+0xc                     movb $1, %gs:0x15000                   per-CPU kernel_cr3  <- flag set
     4  entry_SYSCALL_64+0x15                    mov %cr3, %rax
     5  entry_SYSCALL_64+0x18                    mov %rax, %cr3                         user -> kernel page table, clears PCID 1  <- catch-up
     6  entry_SYSCALL_64+0x1b                    mov %gs:0x16010, %rsp                  per-CPU pcpu_hot+0x10
     7  entry_SYSCALL_64+0x24                    push %rax                              task stack 0xffffc90000103ff8
     8  entry_SYSCALL_64+0x25                    call do_syscall_64                     task stack 0xffffc90000103ff0
     9  do_syscall_64                            movabs $0x8000000001001801, %rax
    10  do_syscall_64+0xa                        jmp do_work
    11  do_work                                  nop                                      <- first instrumentable code
    12  do_work+0x1                              ret                                    task stack 0xffffc90000103ff0
    13  entry_SYSCALL_64+0x2a                    mov %rax, %cr3                         kernel -> user page table, keeps translations
    14  entry_SYSCALL_64+0x2d                    movb $0, %gs:0x15000                   per-CPU kernel_cr3  <- flag cleared
    15  entry_SYSCALL_64+0x36                    swapgs
    16  entry_SYSCALL_64+0x39                    sysretq
back in user space
";
    assert_eq!(listed(&good(), Extent::Ends), expected);
    assert_eq!(listed(&good(), Extent::Whole), expected);
}

#[test]
fn findings_stand_below_their_instructions() {
    let record = entered()
        .with(|registers| registers.general[7] = 0xffff_c9ff_0000_0000)
        .step(&[0x48, 0x8b, 0x0f])
        .step(&[0x06])
        .flag(1)
        .with(|registers| registers.rip = WORK)
        .step(&[0x0f, 0xa2])
        .end(Ended::Halted);
    let expected = "\
CPU 3 enters the kernel by SYSCALL: no catch-up, danger zone 5 instructions
     1  entry_SYSCALL_64                         swapgs
     2  entry_SYSCALL_64+0x3                     mov %rsp, %gs:0x6014                   per-CPU cpu_tss_rw+0x14
     3  entry_SYSCALL_64+0xc                     mov (%rdi), %rcx                       vmalloc 0xffffc9ff00000000
        ! reads vmalloc memory at 0xffffc9ff00000000, in entry_SYSCALL_64+0xc
     4  entry_SYSCALL_64+0xf                     (unknown: [06])
        ! is not known at entry_SYSCALL_64+0xf
     5  entry_SYSCALL_64+0x10                    movb $1, %gs:0x15000                   per-CPU kernel_cr3  <- flag set
     6  do_work                                  cpuid                                  serialises  <- first instrumentable code
        ! is in instrumentable code with no catch-up before it, at do_work
        ! ends the way in, with no catch-up after the flag was set by instruction 5
halted
";
    assert_eq!(listed(&record, Extent::Ends), expected);
}

#[test]
fn the_middle_of_a_long_record_is_left_out() {
    let work = |count: usize| {
        let way = entered().flag(1).cr3(KERNEL_CR3).stack().call(WORK);
        let way = (0..count).fold(way, |way, _| way.step(&[0x90]));
        way.with(|registers| registers.rip = ENTRY + 0x80).leave()
    };
    let numbers = |text: &str| -> Vec<String> {
        text.lines()
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_owned)
            .collect()
    };
    // 7 instructions to the CALL, 4 from the write to CR3 on.
    let record = work(100).end(Ended::User);
    let text = listed(&record, Extent::Ends);
    assert!(
        text.contains("\n        ... 89 instructions ...\n"),
        "{text}"
    );
    let mut expected = vec!["CPU".to_owned()];
    expected.extend((1..=13).map(|number| number.to_string()));
    expected.push("...".into());
    expected.extend((103..=111).map(|number| number.to_string()));
    expected.push("back".into());
    assert_eq!(numbers(&text), expected);
    assert_eq!(numbers(&listed(&record, Extent::Whole)).len(), 111 + 2);
    // With little between, all is shown.
    let record = work(16).end(Ended::User);
    assert_eq!(numbers(&listed(&record, Extent::Ends)).len(), 27 + 2);
    // Without the way out, the last that was recorded.
    let text = listed(&work(100).end(Ended::Limit), Extent::Ends);
    assert!(
        text.contains("\n        ... 92 instructions ...\n"),
        "{text}"
    );
    assert!(text.ends_with("recorded no further\n"), "{text}");
}

#[test]
fn ways_in_have_the_kernels_names() {
    use Began::Vector;
    let ways = [
        (Began::Syscall, "SYSCALL"),
        (Began::CompatSyscall, "32-bit SYSCALL"),
        (Began::Sysenter, "SYSENTER"),
        (Began::Call, "a call"),
        (Began::FaultingReturn(13), "#GP of IRET"),
        (Vector(29), "#VC"),
        (Vector(31), "exception 31"),
        (Vector(32), "interrupt 0x20"),
        (Vector(0x80), "INT 0x80"),
        (Vector(0xec), "interrupt 0xec (local timer)"),
        (Vector(0xf6), "interrupt 0xf6 (irq_work)"),
        (Vector(0xfb), "interrupt 0xfb (call function, single)"),
        (Vector(0xfc), "interrupt 0xfc (call function)"),
        (Vector(0xfd), "interrupt 0xfd (reschedule)"),
    ];
    for (began, name) in ways {
        assert_eq!(way(began), name);
    }
    // The rest has numbers (SDM vol. 3, table 6-1).
    let exceptions =
        "#DE #DB NMI #BP #OF #BR #UD #NM #DF - #TS #NP #SS #GP #PF - #MF #AC #MC #XM - #CP";
    for (vector, name) in (0..).zip(exceptions.split(' ')) {
        let number = format!("exception {vector}");
        let name = if name == "-" { &number } else { name };
        assert_eq!(way(Vector(vector)), name);
    }
}

#[test]
fn an_invpcid_is_listed_with_what_its_type_takes() {
    let descriptor = [2, 0xffff_c900_0000_5123];
    let way = (0..4).fold(entered(), |way, kind| way.invpcid(kind, descriptor));
    let text = listed(&way.end(Ended::Limit), Extent::Whole);
    let said: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_once("type ")?.1.split("  ").next())
        .collect();
    let expected = ["0, PCID 2, page 0xffffc90000005000", "1, PCID 2", "2", "3"];
    assert_eq!(said, expected, "{text}");
}

#[test]
fn a_load_of_a_page_table_keeps_nothing_where_there_are_no_pcids() {
    let way = entered().with(|registers| registers.cr4 &= !PCIDE);
    let text = listed(
        &way.cr3(KERNEL_CR3 | NOFLUSH).end(Ended::Limit),
        Extent::Whole,
    );
    assert!(
        text.contains("user -> kernel page table, clears PCID 0"),
        "{text}"
    );
}

#[test]
fn a_finding_is_said_with_its_instruction() {
    let finding = Finding {
        step: 3,
        address: 0,
        what: crate::What::PatchedText,
        words: "reads".to_owned(),
    };
    assert_eq!(finding.to_string(), "instruction 3 reads");
}
