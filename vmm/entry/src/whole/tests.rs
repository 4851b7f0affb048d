use ipirig_instruction::StepRegisters;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::testing::{NOINSTR, Way, entered, good, step};

/// Handlers of a #UD and of an interrupt.
const HANDLERS: [u64; 2] = [0xffff_ffff_8300_0000, 0xffff_ffff_8300_0100];

fn check(record: &Record) -> Result<(), NotWhole> {
    record.check(Began::Syscall)
}

fn recorded(steps: Vec<Step>) -> Record {
    Record {
        cpu: 0,
        began: Began::Syscall,
        handlers: HANDLERS.into_iter().collect(),
        steps,
        ended: Ended::Limit,
    }
}

/// Whether `code`, from `before` on, may be followed by `after`.
fn follows(
    code: &[u8],
    before: impl FnOnce(&mut StepRegisters),
    after: impl FnOnce(&mut StepRegisters),
) -> bool {
    let mut registers = StepRegisters {
        rip: NOINSTR,
        ..StepRegisters::default()
    };
    registers.general[RSP] = 0x8000;
    before(&mut registers);
    let first = step(registers, code);
    after(&mut registers);
    match check(&recorded(vec![first, step(registers, &[0x90])])) {
        Ok(()) => true,
        Err(NotWhole::Hole { step: 1, .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

fn to(rip: u64) -> impl FnOnce(&mut StepRegisters) {
    move |registers| registers.rip = rip
}

fn nothing(_: &mut StepRegisters) {}

#[test]
fn only_what_an_instruction_writes_may_be_another_after_it() {
    let changes = |code: &[u8], register: usize| {
        follows(code, nothing, move |registers| {
            registers.rip += 3;
            registers.general[register] ^= 8;
        })
    };
    const RAX: usize = 0;
    const RBX: usize = 3;
    let copies = [0x48, 0x89, 0xd8]; // mov rax, rbx
    let reads_rsp = [0x48, 0x89, 0xe0]; // mov rax, rsp
    let writes_rsp = [0x48, 0x89, 0xc4]; // mov rsp, rax
    let found = [
        (&copies, RAX),
        (&copies, RBX),
        (&copies, RSP),
        (&reads_rsp, RSP),
        (&writes_rsp, RSP),
    ]
    .map(|(code, register)| changes(code, register));
    assert_eq!(found, [true, false, false, false, true]);
}

#[test]
fn a_way_in_and_out_is_whole_and_one_of_its_steps_less_is_a_hole() {
    let whole = good();
    assert_eq!(check(&whole), Ok(()));
    for missing in 1..whole.steps.len() - 1 {
        let mut record = whole.clone();
        record.steps.remove(missing);
        let hole = NotWhole::Hole {
            step: missing,
            rip: whole.steps[missing - 1].registers.rip,
            next: whole.steps[missing + 1].registers.rip,
        };
        assert_eq!(check(&record), Err(hole));
    }
}

#[test]
fn a_record_that_does_not_end_as_it_says_is_not_whole() {
    let cut = |ended| {
        let mut record = good();
        record.steps.pop();
        record.ended = ended;
        check(&record)
    };
    assert!(matches!(cut(Ended::User), Err(NotWhole::End { .. })));
    assert!(matches!(cut(Ended::Halted), Err(NotWhole::End { .. })));
    assert_eq!(cut(Ended::Limit), Ok(()));
    let halted = entered().step(&[0xf4]).end(Ended::Halted);
    assert_eq!(check(&halted), Ok(()));
    let returned = entered().step(&[0x48, 0xcf]).end(Ended::User);
    assert_eq!(check(&returned), Ok(()));
}

#[test]
fn another_entry_than_was_ordered_is_named() {
    let other = good().check(Began::Vector(1)).unwrap_err();
    assert_eq!(
        other.to_string(),
        "the CPU came into the kernel by SYSCALL before #DB did"
    );
    let none = Record {
        began: Began::Vector(0xec),
        steps: vec![],
        ended: Ended::NoBreakpoint,
        ..good()
    };
    assert_eq!(
        none.check(Began::Vector(0xec)).unwrap_err().to_string(),
        "no debug register was left for the handler of interrupt 0xec (local timer)"
    );
    let empty = Way::syscall().end(Ended::Limit);
    assert_eq!(check(&empty), Err(NotWhole::Empty));
    let undecodable = entered().step(&[0x06]).end(Ended::Limit);
    assert!(matches!(
        check(&undecodable),
        Err(NotWhole::Undecodable { step: 3, .. })
    ));
}

#[test]
fn a_loop_on_the_spot_is_one_step() {
    for (rip, right) in [(NOINSTR, true), (NOINSTR + 2, true), (NOINSTR + 1, false)] {
        assert_eq!(follows(&[0xe2, 0xfe], nothing, to(rip)), right);
    }
}

#[test]
fn an_indirect_branch_goes_where_its_register_says_and_by_memory_anywhere() {
    let rax = |registers: &mut StepRegisters| registers.general[0] = 0x1234;
    assert!(follows(&[0xff, 0xe0], rax, to(0x1234)));
    assert!(!follows(&[0xff, 0xe0], rax, to(0x1235)));
    assert!(follows(&[0xff, 0x20], rax, to(0x4321)));
    let moved = |registers: &mut StepRegisters| {
        registers.rip = 0x4321;
        registers.general[3] = 1;
    };
    assert!(!follows(&[0xff, 0x20], rax, moved), "RBX has changed");
}

#[test]
fn an_exception_goes_to_a_handler_with_registers_as_they_were() {
    let raised = |rip, rsp, rbx| {
        move |registers: &mut StepRegisters| {
            registers.rip = rip;
            registers.general[RSP] = rsp;
            registers.general[3] = rbx;
        }
    };
    for code in [&[0x0f, 0x0b][..], &[0xcc], &[0x48, 0x8b, 0x00]] {
        let handler = HANDLERS[0];
        assert!(follows(code, nothing, raised(handler, 0x8000 - 40, 0)));
        assert!(!follows(code, nothing, raised(handler, 0x8000 - 41, 0)));
        assert!(!follows(code, nothing, raised(handler, 0x8000 - 40, 1)));
        assert!(!follows(code, nothing, raised(handler + 1, 0x8000 - 40, 0)));
    }
}

#[test]
fn only_its_own_instruction_changes_the_page_table() {
    let loads = |registers: &mut StepRegisters| registers.general[0] = 0x5000 | 1 << 63;
    let loaded = |registers: &mut StepRegisters| {
        registers.rip += 3;
        registers.cr3 = 0x5000;
    };
    assert!(follows(&[0x0f, 0x22, 0xd8], loads, loaded));
    assert!(!follows(&[0x48, 0x89, 0xd8], |r| r.general[0] = 0, loaded));
}

/// What a small CPU executes.
#[derive(Clone, Copy, Debug)]
enum Op {
    Nop,
    Push,
    Pop(u64),
    /// MOV of an immediate to a register: RCX, RDX, RBX.
    Set(u8, u32),
    Jump(u32),
    Branch(bool, u32),
    /// MOV of an address to RSI.
    Load(u64),
    /// To RSI.
    JumpRegister,
    JumpMemory(u64),
    Call(u32),
    /// RET, where a return address is at the top of the stack.
    Ret,
    Ud2(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let distance = 0x10..0x1000_u32;
    let anywhere = 0x1000..0x7fff_ffff_f000_u64;
    prop_oneof![
        Just(Op::Nop),
        Just(Op::Push),
        any::<u64>().prop_map(Op::Pop),
        (1..4_u8, 0..0x7fff_ffff_u32).prop_map(|(register, value)| Op::Set(register, value)),
        distance.clone().prop_map(Op::Jump),
        (any::<bool>(), distance.clone()).prop_map(|(taken, by)| Op::Branch(taken, by)),
        anywhere.clone().prop_map(Op::Load),
        Just(Op::JumpRegister),
        anywhere.prop_map(Op::JumpMemory),
        distance.prop_map(Op::Call),
        Just(Op::Ret),
        (0..HANDLERS.len()).prop_map(Op::Ud2),
    ]
}

/// A record of a CPU that executes `ops`, and which step is which.
fn executed(ops: &[Op]) -> (Record, Vec<Op>) {
    let mut registers = StepRegisters {
        rip: NOINSTR,
        ..StepRegisters::default()
    };
    registers.general[RSP] = 0x7_0000;
    let mut record = recorded(vec![]);
    let mut done = vec![];
    // What is on the stack: a return address, or something else.
    let mut stack: Vec<Option<u64>> = vec![];
    for &op in ops {
        let (mut code, top) = (vec![], stack.last().copied());
        let mut after = registers;
        let mut jump = None;
        match op {
            Op::Nop => code.push(0x90),
            Op::Push => {
                code.push(0x50);
                stack.push(None);
            }
            Op::Pop(value) if top.is_some() => {
                code.push(0x58);
                after.general[0] = value;
                stack.pop();
            }
            Op::Set(register, value) => {
                code.extend([0x48, 0xc7, 0xc0 | register]);
                code.extend(value.to_le_bytes());
                after.general[usize::from(register)] = u64::from(value);
            }
            Op::Jump(by) => {
                code.push(0xe9);
                code.extend(by.to_le_bytes());
                jump = Some(registers.rip + 5 + u64::from(by));
            }
            Op::Branch(taken, by) => {
                code.extend([0x0f, 0x84]);
                code.extend(by.to_le_bytes());
                registers.rflags = u64::from(taken) << 6;
                jump = taken.then(|| registers.rip + 6 + u64::from(by));
            }
            Op::Load(value) => {
                code.extend([0x48, 0xbe]); // MOV to RSI
                code.extend(value.to_le_bytes());
                after.general[6] = value;
            }
            Op::JumpRegister => {
                code.extend([0xff, 0xe6]); // to RSI
                jump = Some(registers.general[6]);
            }
            Op::JumpMemory(rip) => {
                code.extend([0xff, 0x20]);
                jump = Some(rip);
            }
            Op::Call(by) => {
                code.push(0xe8);
                code.extend(by.to_le_bytes());
                stack.push(Some(registers.rip + 5));
                jump = Some(registers.rip + 5 + u64::from(by));
            }
            Op::Ret => {
                if let Some(Some(back)) = top {
                    code.push(0xc3);
                    stack.pop();
                    jump = Some(back);
                }
            }
            Op::Ud2(handler) => {
                code.extend([0x0f, 0x0b]);
                stack.extend([None; 5]);
                jump = HANDLERS.get(handler).copied();
            }
            Op::Pop(_) => {}
        }
        if code.is_empty() {
            continue;
        }
        record.steps.push(step(registers, &code));
        done.push(op);
        after.rflags = registers.rflags;
        after.rip = jump.unwrap_or(registers.rip + code.len() as u64);
        after.general[RSP] = 0x7_0000 - 8 * stack.len() as u64;
        registers = after;
    }
    (record, done)
}

proptest! {
    #[test]
    fn a_step_that_is_missing_is_noticed_unless_memory_alone_knows(
        ops in vec(op(), 3..40),
        which in any::<prop::sample::Index>(),
    ) {
        let (record, done) = executed(&ops);
        prop_assume!(done.len() >= 3);
        prop_assert_eq!(check(&record), Ok(()));
        let missing = 1 + which.index(done.len() - 2);
        let mut cut = record.clone();
        cut.steps.remove(missing);
        let (before, at) = (&record.steps[missing - 1], &record.steps[missing]);
        let after = &record.steps[missing + 1];
        match (done[missing - 1], done[missing]) {
            // Where memory says, and nothing has changed there.
            (Op::JumpMemory(_), _) if at.registers.general == after.registers.general => {}
            // At a handler, however it got there: an exception that the instruction before could have raised.
            _ if HANDLERS.contains(&after.registers.rip)
                && before.registers.general[..RSP] == after.registers.general[..RSP]
                && before.registers.general[RSP + 1..] == after.registers.general[RSP + 1..] => {}
            // A jump on the spot.
            _ if at.registers.rip == after.registers.rip => {}
            _ => prop_assert!(
                matches!(check(&cut), Err(NotWhole::Hole { step, .. }) if step == missing),
                "{:?} after {:?}: {:?}", done[missing], done[missing - 1], check(&cut)
            ),
        }
    }

    #[test]
    fn no_record_is_too_strange_to_be_checked(
        steps in vec((any::<[u64; 16]>(), any::<u64>(), any::<u64>(), vec(any::<u8>(), 0..16)), 0..20),
        ended in prop_oneof![Just(Ended::User), Just(Ended::Limit), Just(Ended::Halted)],
    ) {
        let steps = steps.into_iter().map(|(general, rip, rflags, code)| {
            step(StepRegisters { general, rip, rflags, ..StepRegisters::default() }, &code)
        });
        let _ = check(&Record { ended, ..recorded(steps.collect()) });
    }
}

#[test]
fn what_was_interrupted_or_called_ends_by_its_own_return() {
    let (ret, iretq): (&[u8], &[u8]) = (&[0xc3], &[0x48, 0xcf]);
    for (began, code, whole) in [
        (Began::Call, ret, true),
        (Began::Call, iretq, false),
        (Began::Vector(0xec), iretq, true),
        (Began::Vector(0xec), ret, false),
    ] {
        let mut record = entered().step(code).end(Ended::Interrupted);
        record.began = began;
        assert_eq!(record.check(began).is_ok(), whole, "{began:?} {code:x?}");
    }
}

#[test]
fn a_return_goes_where_was_last_stored_and_anywhere_if_that_is_not_known() {
    // CALL to a MOV from RAX to where RSP points, which is the return address, or to 16 bytes above.
    let goes = |mov: &[u8], to: u64| {
        let back = Way::syscall().registers.rip + 5;
        let way = Way::syscall()
            .with(|registers| registers.general[0] = back + 0x40)
            .call(NOINSTR)
            .step(mov)
            .step(&[0xc3])
            .with(|registers| {
                registers.general[RSP] += 8;
                registers.rip = to;
            });
        check(&way.step(&[0x90]).end(Ended::Limit)).is_ok()
    };
    let back = Way::syscall().registers.rip + 5;
    let places = [back, back + 0x40, back + 0x80];
    for (mov, goes_to) in [
        (&[0x48, 0x89, 0x44, 0x24, 0x10][..], [true, false, false]), // mov %rax, 16(%rsp)
        (&[0x48, 0x89, 0x04, 0x24], [false, true, false]),           // mov %rax, (%rsp)
        (&[0x89, 0x04, 0x24], [true; 3]),                            // mov %eax, (%rsp)
        (&[0x48, 0x89, 0x44, 0x24, 0x04], [true; 3]),                // mov %rax, 4(%rsp)
    ] {
        assert_eq!(places.map(|to| goes(mov, to)), goes_to, "{mov:x?}");
    }
    // Of what was stored where no return address was nothing is known.
    let returns = Way::syscall()
        .with(|registers| registers.general[0] = 0x1234)
        .step(&[0x48, 0x89, 0x04, 0x24])
        .step(&[0xc3])
        .with(|registers| {
            registers.general[RSP] += 8;
            registers.rip = NOINSTR;
        });
    assert_eq!(check(&returns.step(&[0x90]).end(Ended::Limit)), Ok(()));
}
