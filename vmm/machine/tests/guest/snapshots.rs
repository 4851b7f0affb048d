//! Guests that are restored from a snapshot, as if nothing had been between.
#![expect(unsafe_code, reason = "the guests' assembler text")]

use std::fs::File;
use std::io::{Read, Write};

use ipirig_machine::{ApicMode, Snapshot, SnapshotError};

use crate::Suite;
use crate::harness::{Guest, KEY, ipi, timer};
use crate::image::guest;

pub(crate) fn list(suite: &mut Suite) {
    suite.both(
        "a_restored_guest_has_its_registers_and_wakes_the_other_cpu",
        a_restored_guest_has_its_registers_and_wakes_the_other_cpu,
    );
    suite.both(
        "a_timer_that_was_due_and_one_that_is_periodic_go_on",
        a_timer_that_was_due_and_one_that_is_periodic_go_on,
    );
    suite.once(
        "a_restored_guest_has_its_mtrrs_and_its_vector_registers",
        a_restored_guest_has_its_mtrrs_and_its_vector_registers,
    );
    suite.once(
        "a_snapshot_of_another_format_is_refused_by_its_version",
        a_snapshot_of_another_format_is_refused_by_its_version,
    );
    suite.once("a_restored_cpl_3_goes_on", a_restored_cpl_3_goes_on);
    suite.once(
        "a_restored_guest_is_saved_as_it_was",
        a_restored_guest_is_saved_as_it_was,
    );
    suite.once("no_damage_goes_unnoticed", no_damage_goes_unnoticed);
    suite.once(
        "what_becomes_of_a_snapshot_s_file_changes_no_guest",
        what_becomes_of_a_snapshot_s_file_changes_no_guest,
    );
    suite.once(
        "restored_vcpus_can_be_pinned_at_once",
        restored_vcpus_can_be_pinned_at_once,
    );
    suite.long(
        "a_thousand_restores_in_a_row_are_without_error",
        a_thousand_restores_in_a_row_are_without_error,
    );
}

// CPU 1 waits in HLT. CPU 0 has something in every kind of register, rings, and at order 1 tells what
// is left of it and sends CPU 1 an IPI.
guest!(
    FULL_OF_STATE,
    "
    call rt_setup
    call rt_apic_on
    mov edi, 0x60
    lea rax, [rip + rt_handler]
    call rt_gate
    mov r8d, 1
    lea rax, [rip + 4f]
    call rt_start_ap
21: cmp qword ptr [r15 + 128], 0
    je 21b
    movabs rbx, 0x1122334455667788
    mov rbp, 0x77
    mov eax, 0x1234
    mov dr0, rax
    mov ecx, 0xc0000102                 # IA32_KERNEL_GS_BASE
    mov eax, 0x89abcdef
    mov edx, 0x7ff
    wrmsr
    mov eax, 0x30                       # vectors up to 0x3f wait: the TPR
    mov ecx, 0x08
    call rt_write
    mov rax, 0x20
    push rax
    call rt_ring
2:  cmp dword ptr [r15 - 60 + 128], 0   # order 1
    je 2b
    mov qword ptr [r15 + 2 * 128], rbx
    mov qword ptr [r15 + 3 * 128], rbp
    mov rax, dr0
    mov qword ptr [r15 + 4 * 128], rax
    mov ecx, 0xc0000102
    rdmsr
    shl rdx, 32
    or rax, rdx
    mov qword ptr [r15 + 5 * 128], rax
    pop rax
    mov qword ptr [r15 + 6 * 128], rax
    mov ecx, 0x08
    call rt_read
    mov qword ptr [r15 + 7 * 128], rax
    mov edx, 1
    mov eax, 0x4060
    call rt_ipi
3:  cmp qword ptr [r15], 1              # CPU 1's handler counts
    jne 3b
    call rt_ring
    jmp rt_rest
4:  inc qword ptr [r15 + 128]
    sti
5:  hlt
    jmp 5b
    "
);

fn a_restored_guest_has_its_registers_and_wakes_the_other_cpu(apic: ApicMode) {
    let mut guest = Guest::new(&FULL_OF_STATE).cpus(2).apic(apic).start();
    guest.rings();
    guest.until("did not come to rest", |machine| {
        machine.sample(1).is_some_and(|sample| sample.parked)
    });
    let snapshot = guest.save();
    let mut restored = guest.restored(&snapshot);
    for guest in [&mut guest, &mut restored] {
        guest.order(1, 1);
        guest.rings();
    }
    let expected = [
        1,
        1,
        0x1122_3344_5566_7788,
        0x77,
        0x1234,
        0x7ff_89ab_cdef,
        0x20,
        0x30,
    ];
    for guest in [guest, restored] {
        let seen = guest.stop();
        assert_eq!(seen.words[..8], expected);
        assert_eq!(seen.taken(1).last(), Some(&ipi(0x60)));
    }
}

// A periodic timer of 1 ms, which is soon due, with interrupts off until order 1.
guest!(
    SOON_DUE,
    "
    call rt_setup
    call rt_apic_on
    mov edi, 0x60
    lea rax, [rip + rt_handler]
    call rt_gate
    mov ecx, 0x3e                       # divide by 1: a tick is a nanosecond
    mov eax, 0x0b
    call rt_write
    mov ecx, 0x32                       # periodic, vector 0x60
    mov eax, 0x20060
    call rt_write
    mov ecx, 0x38
    mov eax, 1000000
    call rt_write
21: mov ecx, 0x23                       # the IRR, from vector 0x60 on
    call rt_read
    test eax, 1
    jz 21b
    call rt_ring
2:  cmp dword ptr [r15 - 60 + 128], 0   # order 1
    je 2b
    sti
3:  cmp qword ptr [r15], 3
    jb 3b
    cli
    call rt_ring
    jmp rt_rest
    "
);

fn a_timer_that_was_due_and_one_that_is_periodic_go_on(apic: ApicMode) {
    let mut guest = Guest::new(&SOON_DUE).apic(apic).start();
    guest.rings();
    let mut restored = guest.restored(&guest.save());
    for guest in [&mut guest, &mut restored] {
        guest.order(1, 1);
        guest.rings();
    }
    for guest in [guest, restored] {
        let seen = guest.stop();
        assert!(seen.words[0] >= 3, "{}", seen.words[0]);
        assert_eq!(seen.taken(0)[..3], [timer(0x60); 3]);
    }
}

// Something in MTRRs (a variable pair, a fixed one, the default type), in IA32_PAT and in XMM1. It rings,
// and at order 1 tells what is left of it.
guest!(
    MEMORY_TYPES,
    "
    call rt_setup
    mov rax, cr4
    or eax, 1 << 9                      # OSFXSR
    mov cr4, rax
    xor edx, edx
    mov ecx, 0x200                      # IA32_MTRR_PHYSBASE0: uncached at 2 GiB
    mov eax, 0x80000000
    wrmsr
    mov ecx, 0x201                      # IA32_MTRR_PHYSMASK0: 2 GiB, valid
    mov eax, 0x80000800
    mov edx, 0xf
    wrmsr
    mov ecx, 0x258                      # IA32_MTRR_FIX16K_80000: write-back, write-through
    mov eax, 0x06060606
    mov edx, 0x04040404
    wrmsr
    mov ecx, 0x2ff                      # IA32_MTRR_DEF_TYPE: on, with fixed ones, write-back
    mov eax, 0xc06
    xor edx, edx
    wrmsr
    mov ecx, 0x277                      # IA32_PAT
    mov eax, 0x00010406
    mov edx, 0x00070406
    wrmsr
    movabs rax, 0x0123456789abcdef
    mov [r15], rax
    movups xmm1, [r15]
    call rt_ring
2:  cmp dword ptr [r15 - 60 + 128], 0   # order 1
    je 2b
    lea rbx, [r15]
    mov ecx, 0x200
    call 3f
    mov ecx, 0x201
    call 3f
    mov ecx, 0x258
    call 3f
    mov ecx, 0x2ff
    call 3f
    mov ecx, 0x277
    call 3f
    movups [rbx], xmm1
    call rt_ring
    jmp rt_rest
3:  rdmsr                               # into the next word
    shl rdx, 32
    or rax, rdx
    mov [rbx], rax
    add rbx, 128
    ret
    "
);

fn a_restored_guest_has_its_mtrrs_and_its_vector_registers() {
    let mut guest = Guest::new(&MEMORY_TYPES).start();
    guest.rings();
    let mut restored = guest.restored(&guest.save());
    for guest in [&mut guest, &mut restored] {
        guest.order(1, 1);
        guest.rings();
    }
    let expected = [
        0x8000_0000,
        0xf_8000_0800,
        0x0404_0404_0606_0606,
        0xc06,
        0x0007_0406_0001_0406,
        0x0123_4567_89ab_cdef,
    ];
    for guest in [guest, restored] {
        assert_eq!(guest.stop().words[..6], expected);
    }
}

guest!(
    COUNTS_IN_CPL_3,
    "
    call rt_setup
    lea rax, [rip + 21f]
    jmp rt_user
21: inc qword ptr [r15]
    jmp 21b
    "
);

fn a_restored_cpl_3_goes_on() {
    let mut guest = Guest::new(&COUNTS_IN_CPL_3).start();
    let begun =
        |machine: &ipirig_machine::Machine| machine.sample(0).is_some_and(|sample| sample.cpl == 3);
    guest.until("did not get to CPL 3", begun);
    let snapshot = guest.save();
    let at_least = guest.word(0);
    guest.stop();
    let guest = Guest::new(&COUNTS_IN_CPL_3).start();
    let mut restored = guest.restored(&snapshot);
    // It was still when it was saved, and went on before the word was read.
    assert!(restored.word(0) > 0);
    restored.until("did not go on in CPL 3", |machine| {
        begun(machine)
            && machine.mailbox().cpus[0]
                .task
                .heartbeat
                .load(std::sync::atomic::Ordering::SeqCst)
                > at_least
    });
}

/// Restores a snapshot so often; each guest is settled as soon as it is started, as a run's is.
fn restores(times: usize) {
    let mut guest = Guest::new(&FULL_OF_STATE).cpus(2).start();
    guest.rings();
    guest.until("did not come to rest", |machine| {
        machine.sample(1).is_some_and(|sample| sample.parked)
    });
    let snapshot = guest.save();
    for nth in 0..times {
        let mut restored = guest.restored(&snapshot);
        if let Err(error) = restored.machine.settle() {
            panic!("restore {nth} of {times}: {error:?}");
        }
        restored.order(1, 1);
        restored.rings();
        assert_eq!(restored.stop().words[..2], [1, 1], "restore {nth}");
    }
}

fn restored_vcpus_can_be_pinned_at_once() {
    restores(20);
}

fn a_thousand_restores_in_a_row_are_without_error() {
    restores(1000);
}

fn content(mut file: File) -> Vec<u8> {
    use std::io::Seek;
    file.rewind().unwrap();
    let mut bytes = vec![];
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

// Its memory, that is: registers tell the time.
fn a_restored_guest_is_saved_as_it_was() {
    let mut guest = Guest::new(&FULL_OF_STATE).cpus(2).start();
    guest.rings();
    guest.until("did not come to rest", |machine| {
        machine.sample(1).is_some_and(|sample| sample.parked)
    });
    let first = guest.save();
    let restored = guest.restored(&first);
    let second = content(restored.save());
    let first = content(first);
    // Memory and mailbox are the pages from the mailbox to the index, and nobody has written there.
    let index = |bytes: &[u8]| -> serde_json::Value {
        let at = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
        serde_json::from_slice(&bytes[at as usize..]).unwrap()
    };
    let (first, second) = (index(&first), index(&second));
    assert_eq!(first["memory"], second["memory"]);
    assert_eq!(first["memory_hash"], second["memory_hash"]);
    assert_eq!(first["mailbox"]["hash"], second["mailbox"]["hash"]);
}

fn a_snapshot_of_another_format_is_refused_by_its_version() {
    let mut guest = Guest::new(&FULL_OF_STATE).cpus(2).start();
    guest.rings();
    let mut bytes = content(guest.save());
    bytes[VERSION] = 1;
    let error = Snapshot::open(&file(&bytes), KEY).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the snapshot is of format 1, and this ipirig reads format 2"
    );
}

/// Where the format's version is.
const VERSION: usize = 15;

fn what_becomes_of_a_snapshot_s_file_changes_no_guest() {
    let mut guest = Guest::new(&FULL_OF_STATE).cpus(2).start();
    guest.rings();
    guest.until("did not come to rest", |machine| {
        machine.sample(1).is_some_and(|sample| sample.parked)
    });
    // With a name: 9P cuts no other file short.
    let named = tempfile::NamedTempFile::new().unwrap();
    let mut file = named.as_file();
    file.write_all(&content(guest.save())).unwrap();
    let snapshot = Snapshot::open(file, KEY).unwrap();
    // Where its memory was there is nothing: an access would be a SIGBUS.
    file.set_len(0).unwrap();
    let mut restored = guest.restored_from(&snapshot);
    restored.order(1, 1);
    restored.rings();
    assert_eq!(restored.stop().words[..2], [1, 1]);
}

fn no_damage_goes_unnoticed() {
    let mut guest = Guest::new(&FULL_OF_STATE).cpus(2).start();
    guest.rings();
    let whole = content(guest.save());
    assert!(Snapshot::open(&file(&whole), KEY).is_ok());
    let refused = |bytes: &[u8]| match Snapshot::open(&file(bytes), KEY) {
        Err(SnapshotError::Damaged(_)) => true,
        Err(SnapshotError::Version { .. }) => bytes[VERSION] != whole[VERSION],
        Err(other) => panic!("{other:?}"),
        Ok(_) => false,
    };
    // Each byte of the header, some of each other page, and of the index at the end.
    let places = (0..64).chain((64..whole.len()).step_by(997));
    for place in places.chain(whole.len() - 100..whole.len()) {
        let mut damaged = whole.clone();
        damaged[place] ^= 1 << (place % 8);
        assert!(refused(&damaged), "byte {place:#x} of {:#x}", whole.len());
    }
    for length in [0, 1, 63, 4095, 4096, 8192, whole.len() / 2, whole.len() - 1] {
        assert!(refused(&whole[..length]), "cut to {length}");
    }
    assert!(refused(&[whole.as_slice(), b" "].concat()), "longer");
    let other = Snapshot::open(&file(&whole), "another").map(|_| ());
    assert!(matches!(other, Err(SnapshotError::Misfit(_))), "{other:?}");
}
