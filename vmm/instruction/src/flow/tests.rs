//! Instructions by hand, with what they leave (SDM vol. 2, the page of each).

use super::Next::{Anywhere, At, Either, Halt, Handler, Return, User};
use super::*;
use crate::step::Code;

const RIP: u64 = 0x100;

/// A step of `code`: RAX is 0x1000, RCX 0x2000 and so on, R15 0x10000.
fn step(code: &[u8]) -> Step {
    let registers = StepRegisters {
        general: std::array::from_fn(|place| 0x1000 * (place as u64 + 1)),
        rip: RIP,
        ..StepRegisters::default()
    };
    Step {
        registers,
        code: Code::new(code),
        descriptor: None,
    }
}

/// Code, what comes next, what is added to RSP, other registers written, bytes to the address pushed.
type Row<'a> = (&'a [u8], Next, Option<i64>, &'a [usize], Option<u64>);

#[test]
fn each_instruction_leaves_what_the_manual_says() {
    let rows: &[Row<'_>] = &[
        (&[0x50], At(RIP + 1), Some(-8), &[], None), // push %rax
        (&[0x66, 0x50], At(RIP + 2), Some(-2), &[], None), // push %ax
        (&[0xff, 0x37], At(RIP + 2), Some(-8), &[], None), // push (%rdi)
        (&[0x9c], At(RIP + 1), Some(-8), &[], None), // pushfq
        (&[0x5b], At(RIP + 1), Some(8), &[3], None), // pop %rbx
        (&[0x41, 0x5f], At(RIP + 2), Some(8), &[15], None), // pop %r15
        (&[0x8f, 0x04, 0x24], At(RIP + 3), Some(8), &[], None), // pop (%rsp)
        (&[0x5c], At(RIP + 1), None, &[], None),     // pop %rsp
        (&[0x9d], At(RIP + 1), Some(8), &[], None),  // popfq
        (&[0xc9], At(RIP + 1), None, &[5], None),    // leave
        (&[0x48, 0x89, 0xc4], At(RIP + 3), None, &[], None), // mov %rax, %rsp
        (&[0x48, 0x39, 0xe0], At(RIP + 3), Some(0), &[], None), // cmp %rsp, %rax
        (&[0x88, 0xdf], At(RIP + 2), Some(0), &[3], None), // mov %bl, %bh
        (&[0x0f, 0x45, 0xd0], At(RIP + 3), Some(0), &[2], None), // cmovne %eax, %edx
        (&[0x0f, 0xb1, 0x1f], At(RIP + 3), Some(0), &[0], None), // cmpxchg %ebx, (%rdi)
        (&[0x0f, 0xc1, 0xd0], At(RIP + 3), Some(0), &[0, 2], None), // xadd %edx, %eax
        (&[0x0f, 0xa2], At(RIP + 2), Some(0), &[0, 1, 2, 3], None), // cpuid
        (&[0xf3, 0x48, 0xa5], At(RIP + 3), Some(0), &[1, 6, 7], None), // rep movsq
        (&[0xf2, 0xae], At(RIP + 2), Some(0), &[1, 7], None), // repne scasb
        (&[0xf3, 0x0f, 0xb8, 0xc2], At(RIP + 4), Some(0), &[0], None), // popcnt %edx, %eax
        (
            &[0xf2, 0x0f, 0x38, 0xf0, 0xc2],
            At(RIP + 5),
            Some(0),
            &[0],
            None,
        ), // crc32b %dl, %eax
        (&[0xf3, 0x90], At(RIP + 2), Some(0), &[], None), // pause
        (
            &[0xf2, 0xe8, 1, 0, 0, 0],
            At(RIP + 7),
            Some(-8),
            &[],
            Some(6),
        ), // bnd call
        (&[0xf3, 0xc3], Return, Some(8), &[], None), // rep ret
        (&[0x0f, 0x01, 0xc1], At(RIP + 3), Some(0), &[0], None), // vmcall
        (&[0x0f, 0x01, 0xd9], At(RIP + 3), Some(0), &[0], None), // vmmcall
        (&[0xeb, 0x10], At(RIP + 0x12), Some(0), &[], None), // jmp
        (&[0x41, 0xff, 0xe7], At(0x10000), Some(0), &[], None), // jmp *%r15
        (&[0xff, 0x20], Anywhere, Some(0), &[], None), // jmp *(%rax)
        (&[0xff, 0x28], Anywhere, Some(0), &[], None), // ljmp *(%rax)
        (&[0xe8, 1, 0, 0, 0], At(RIP + 6), Some(-8), &[], Some(5)), // call
        (&[0xff, 0xd0], At(0x1000), Some(-8), &[], Some(2)), // call *%rax
        (&[0xff, 0x10], Anywhere, Some(-8), &[], Some(2)), // call *(%rax)
        (&[0x48, 0xff, 0x18], Anywhere, Some(-16), &[], None), // rex.W lcall *(%rax)
        (&[0xff, 0x18], Anywhere, Some(-8), &[], None), // lcall *(%rax)
        (&[0xc3], Return, Some(8), &[], None),       // ret
        (&[0xc2, 0x10, 0], Return, Some(0x18), &[], None), // ret $0x10
        (&[0x48, 0xcb], Anywhere, None, &[], None),  // lretq
        (&[0x48, 0xcf], Anywhere, None, &[], None),  // iretq
        (&[0x0f, 0x05], Anywhere, Some(0), &[1, 11], None), // syscall
        (&[0x0f, 0x34], Anywhere, None, &[], None),  // sysenter
        (&[0x0f, 0xaa], Anywhere, Some(0), &[], None), // rsm
        (&[0xc7, 0xf8, 0, 0, 0, 0], Anywhere, Some(0), &[0], None), // xbegin
        (&[0x48, 0x0f, 0x07], User, Some(0), &[], None), // sysretq
        (&[0x48, 0x0f, 0x35], User, None, &[], None), // sysexitq
        (&[0xcc], Handler, Some(0), &[], None),      // int3
        (&[0x0f, 0x0b], Handler, Some(0), &[], None), // ud2
        (&[0xf4], Halt, Some(0), &[], None),         // hlt
    ];
    for &(code, next, rsp, written, pushes) in rows {
        let step = step(code);
        let found = Flows::default().of(&step).unwrap();
        let expected = Flow {
            next,
            rsp: rsp.map(|by| 0x5000_u64.wrapping_add_signed(by)),
            written: found.written,
            repeats: matches!(code, [0xf3, 0x48, 0xa5] | [0xf2, 0xae]),
            pushes: pushes.map(|length| RIP + length),
        };
        assert_eq!(found, expected, "{code:x?}");
        let (rsp, others): (Vec<_>, Vec<_>) = (0..16)
            .filter(|&place| !found.keeps(place))
            .partition(|&place| place == RSP);
        assert_eq!((&rsp[..], &others[..]), (&[RSP][..], written), "{code:x?}");
        let known = if let At(rip) = next { Some(rip) } else { None };
        assert_eq!(successor(&step), known, "{code:x?}");
    }
    let none = step(&[0x06]);
    assert_eq!((Flows::default().of(&none), successor(&none)), (None, None));
}

#[test]
fn a_conditional_branch_goes_where_the_flags_say() {
    let next = |code: &[u8], rflags: u64, rcx: u64| {
        let mut step = step(code);
        step.registers.rflags = rflags;
        step.registers.general[RCX] = rcx;
        Flows::default().of(&step).unwrap().next
    };
    for flags in 0..1 << 5 {
        let set = [0, 1, 2, 3, 4].map(|bit| flags >> bit & 1 == 1);
        let bits = set.iter().zip([0, 2, 6, 7, 11]);
        let rflags = bits.map(|(&set, bit)| u64::from(set) << bit).sum();
        let [c, p, z, s, o] = set;
        // In the order of their codes, each followed by its opposite (SDM vol. 1, appendix B).
        let holds = [o, c, z, c || z, s, p, s != o, z || s != o];
        for (code, taken) in (0x70..).zip(holds.into_iter().flat_map(|holds| [holds, !holds])) {
            let expected = At(RIP + if taken { 0x12 } else { 2 });
            let found = next(&[code, 0x10], rflags, 0);
            assert_eq!(found, expected, "{code:x} {rflags:x}");
        }
    }
    let high = 1 << 32;
    assert_eq!(next(&[0xe3, 0x10], 0, 0), At(RIP + 0x12)); // jrcxz
    assert_eq!(next(&[0xe3, 0x10], 0, high), At(RIP + 2));
    assert_eq!(next(&[0x67, 0xe3, 0x10], 0, high), At(RIP + 0x13)); // jecxz
    assert_eq!(next(&[0x67, 0xe3, 0x10], 0, high | 1), At(RIP + 3));
    for code in [0xe0, 0xe1, 0xe2] {
        assert_eq!(next(&[code, 0x10], 0, 1), Either(RIP + 0x12, RIP + 2)); // loop
    }
    assert_eq!(next(&[0x75, 0xfe], 0, 0), Either(RIP, RIP + 2)); // jne to itself
}
