mod fake;

use ipirig_abi::TraceStep;
use ipirig_system::Errno;

use super::*;
use crate::mailbox;
use fake::{FakeGuest, FakeModule};

fn with_module(module: FakeModule) -> FakeGuest {
    FakeGuest {
        module: Some(module),
        ..FakeGuest::default()
    }
}

fn obey(guest: &FakeGuest, command: impl Into<u32>, args: [u64; 4]) -> (Answer, NextAction) {
    Request {
        seq: 1,
        code: command.into(),
        args,
    }
    .obey(guest)
}

fn storm(guest: &FakeGuest, kind: StormKind, operations: u64, size: u64) -> (Answer, NextAction) {
    obey(guest, Command::Storm, kind.args(operations, size, 0))
}

fn ok(results: [u64; 4]) -> Answer {
    Answer {
        status: Status::Ok,
        errno: 0,
        results,
        text: Vec::new(),
    }
}

#[test]
fn a_command_is_read_once_and_answered_under_its_number() {
    let mailbox = mailbox::in_memory();
    assert_eq!(Request::newer_than(0, &mailbox.control), None);
    mailbox
        .control
        .command
        .store(Command::ReadVersion.into(), Ordering::Relaxed);
    mailbox.control.args[2].store(5, Ordering::Relaxed);
    mailbox.control.seq.store(7, Ordering::Release);
    let request = Request::newer_than(0, &mailbox.control).unwrap();
    assert_eq!(
        request,
        Request {
            seq: 7,
            code: 3,
            args: [0, 0, 5, 0]
        }
    );
    assert_eq!(Request::newer_than(request.seq(), &mailbox.control), None);

    let (answer, then) = request.obey(&FakeGuest::default());
    assert_eq!(then, NextAction::Wait);
    answer.post(&request, &mailbox);
    let reply = &mailbox.control.reply;
    assert_eq!(reply.ack.load(Ordering::Relaxed), 7);
    assert_eq!(reply.status.load(Ordering::Relaxed), u32::from(Status::Ok));
    assert!(mailbox.text.iter().eq(*b"Linux 6.12 #1 x86_64"));
}

#[test]
fn address_spaces_are_counted_refused_and_need_the_module() {
    let add = |guest, cpu| obey(guest, Command::AddressSpaces, [cpu, 7, 0, 0]).0;
    let guest = with_module(FakeModule::default());
    assert_eq!(add(&guest, 1), ok([7, 0, 0, 0]));
    let refused = Answer {
        status: Status::Failed,
        errno: 22,
        text: b"start processes: EINVAL (Invalid argument)".into(),
        ..ok([0; 4])
    };
    assert_eq!(add(&guest, 2), refused);
    let lacking = Answer {
        status: Status::NoModule,
        text: b"the initramfs has no /ipirig.ko".into(),
        ..ok([0; 4])
    };
    assert_eq!(add(&FakeGuest::default(), 1), lacking);
}

#[test]
fn a_cpu_is_occupied_or_replugged_or_the_reason_why_not_comes_back() {
    let guest = FakeGuest::default();
    let ask = |command, cpu| obey(&guest, command, [cpu, 0, 0, 0]).0;
    let refused = |errno, text: &str| Answer {
        status: Status::Failed,
        errno,
        text: text.into(),
        ..ok([0; 4])
    };
    assert_eq!(ask(Command::Occupy, 1), ok([0; 4]));
    let words = "run a loop: EINVAL (Invalid argument)";
    assert_eq!(ask(Command::Occupy, 2), refused(22, words));
    assert_eq!(ask(Command::Replug, 2), ok([0; 4]));
    let words = "take a CPU offline: ENOENT (No such file or directory)";
    assert_eq!(ask(Command::Replug, 1), refused(2, words));
}

#[test]
fn what_the_kernel_says_of_a_partition_comes_back_or_what_it_lacks() {
    let guest = FakeGuest::default();
    let make = |cpus| obey(&guest, Command::Partition, [cpus, 0, 0, 0]).0;
    assert_eq!(make(4), Answer::text(b"isolated".into()));
    let lacking = Answer::lacking([0; 4], "no cpusets".into());
    assert_eq!(make(8), lacking);
}

#[test]
fn a_kernel_whose_flips_patch_nothing_is_lacking() {
    let guest = with_module(FakeModule {
        trigger_fails: Some(Errno(libc::EOPNOTSUPP)),
        ..FakeModule::default()
    });
    let (answer, _) = storm(&guest, StormKind::StaticKeyFlip, 101, 0);
    let text = "no CONFIG_JUMP_LABEL: a static key is a variable, and a flip patches nothing";
    assert_eq!(answer, Answer::lacking([100, 2, 0, 0], text.to_owned()));
}

#[test]
fn rounds_of_vmalloc_and_vfree_end_with_the_alias_on_another_page() {
    let guest = with_module(FakeModule::default());
    assert_eq!(
        storm(&guest, StormKind::Vunmap, 100, 4),
        (ok([100, 0x77, 0, 0]), NextAction::Wait)
    );
    assert_eq!(
        *guest.module.unwrap().calls.borrow(),
        ["trigger 17 100x4 at 0x0, 0x0 0x0", "move"]
    );
}

#[test]
fn a_storm_of_a_size_that_its_row_does_not_have_calls_nothing_and_says_what_was_asked() {
    let guest = with_module(FakeModule::default());
    // 2^32 + 1 must not turn into 1.
    let (answer, _) = storm(&guest, StormKind::Vunmap, 3, (1 << 32) + 1);
    let text = "3 operations of Vunmap, size 4294967297: EINVAL (Invalid argument)";
    assert_eq!(
        answer,
        Answer {
            status: Status::Failed,
            errno: 22,
            results: [0; 4],
            text: text.into()
        }
    );
    assert_eq!(*guest.module.unwrap().calls.borrow(), [""; 0]);
}

#[test]
fn a_failed_move_reports_the_rounds_done_and_no_word() {
    let guest = with_module(FakeModule {
        move_fails: Some(Errno(libc::EADDRNOTAVAIL)),
        ..FakeModule::default()
    });
    let (answer, _) = storm(&guest, StormKind::Vunmap, 2, 1);
    let text = "move the vmalloc alias: EADDRNOTAVAIL (Cannot assign requested address)";
    assert_eq!(
        answer,
        Answer {
            status: Status::Failed,
            errno: 99,
            results: [2, 0, 0, 0],
            text: text.into()
        }
    );
}

#[test]
fn a_storm_of_the_module_gets_what_was_asked_and_the_symbols_told_before() {
    let guest = with_module(FakeModule::default());
    assert_eq!(
        obey(&guest, Command::Symbols, [0x10, 0x20, 0, 0]),
        (ok([0; 4]), NextAction::Wait)
    );
    let args = StormKind::EntryTextPoke.args(7, 0, 0x30);
    assert_eq!(
        obey(&guest, Command::Storm, args),
        (ok([7, 2, 0, 0]), NextAction::Wait)
    );
    assert_eq!(
        *guest.module.unwrap().calls.borrow(),
        ["trigger 6 7x0 at 0x30, 0x10 0x20"]
    );
}

#[test]
fn a_storm_that_stops_says_how_far_it_came_and_whether_something_is_missing() {
    for (errno, status, code, text) in [
        (
            libc::ENOMEM,
            Status::Failed,
            12,
            "5 operations of SetMemory, size 4: ENOMEM (Cannot allocate memory)",
        ),
        (
            libc::EOPNOTSUPP,
            Status::Lacking,
            0,
            "the kernel does not support it",
        ),
        (
            libc::ENOTTY,
            Status::Lacking,
            0,
            "this guest's ipirig.ko does not know SetMemory",
        ),
    ] {
        let guest = with_module(FakeModule {
            trigger_fails: Some(Errno(errno)),
            ..FakeModule::default()
        });
        assert_eq!(
            storm(&guest, StormKind::SetMemory, 5, 4).0,
            Answer {
                status,
                errno: code,
                results: [4, 2, 0, 0],
                text: text.into()
            }
        );
    }
}

#[test]
fn a_storm_of_no_known_kind_is_lacking() {
    let guest = with_module(FakeModule::default());
    // 2^32 + 1 must not turn into 1.
    let (answer, _) = obey(&guest, Command::Storm, [(1 << 32) + 1, 1, 0, 0]);
    let text = "this agent knows no storm 4294967297";
    assert_eq!(
        answer,
        Answer {
            status: Status::Lacking,
            text: text.into(),
            ..ok([0; 4])
        }
    );
}

#[test]
fn letting_go_says_how_many_stayed() {
    let guest = with_module(FakeModule::default());
    assert_eq!(
        obey(&guest, Command::LetGo, [0; 4]),
        (ok([3, 0, 0, 0]), NextAction::Wait)
    );
    assert_eq!(*guest.module.unwrap().calls.borrow(), ["let go"]);
}

#[test]
fn without_a_module_triggers_are_refused_and_texts_still_read() {
    let guest = FakeGuest::default();
    for command in [Command::Storm, Command::LetGo] {
        let (answer, then) = obey(&guest, command, StormKind::StaticCall.args(1, 0, 0));
        assert_eq!((answer.status, then), (Status::NoModule, NextAction::Wait));
    }
    assert_eq!(
        obey(&guest, Command::ReadCounters, [0; 4]),
        (ok([0; 4]), NextAction::Wait)
    );
    let (answer, _) = obey(&guest, Command::ReadBootCounters, [0; 4]);
    assert_eq!(answer, Answer::text(b"cpu deferred_text\n".into()));
}

#[test]
fn what_the_kernel_says_of_itself_comes_in_parts_and_what_is_not_known_is_refused() {
    let read = |args| obey(&FakeGuest::default(), Command::ReadKernelText, args).0;
    let symbols = u64::from(u32::from(KernelText::Symbols));
    assert_eq!(
        read([symbols, 0, 0, 0]),
        Answer::text(b"ffffffff81000000 T _text\n".into())
    );
    assert_eq!(read([symbols, 1, 0, 0]), Answer::text(Vec::new()));
    let failed = Failure::of("read notes", Errno(libc::EIO));
    assert_eq!(read([2, 0, 0, 0]), Answer::failed([0; 4], &failed));
    let unknown = "this agent knows no kernel text 99".to_owned();
    assert_eq!(read([99, 0, 0, 0]), Answer::lacking([0; 4], unknown));
}

#[test]
fn a_failed_read_names_the_file() {
    let (answer, _) = obey(&FakeGuest::default(), Command::ReadInterrupts, [0; 4]);
    let text = "read /proc/interrupts: EIO (Input/output error)";
    assert_eq!(
        answer,
        Answer {
            status: Status::Failed,
            errno: 5,
            results: [0; 4],
            text: text.into()
        }
    );
}

#[test]
fn a_signal_to_an_isolated_task_is_sent_and_one_to_nobody_is_refused() {
    let guest = FakeGuest::default();
    assert_eq!(
        obey(&guest, Command::Signal, [1, 0, 0, 0]),
        (ok([1, 0, 0, 0]), NextAction::Wait)
    );
    let text = "signal the isolated task of CPU 4294967297: ESRCH (No such process)";
    assert_eq!(
        obey(&guest, Command::Signal, [(1 << 32) + 1, 0, 0, 0]).0,
        Answer {
            status: Status::Failed,
            errno: 3,
            results: [0; 4],
            text: text.into()
        }
    );
}

#[test]
fn an_unknown_command_is_answered_as_such() {
    let (answer, then) = obey(&FakeGuest::default(), 99_u32, [0; 4]);
    let text = "this agent knows no command 99";
    assert_eq!(
        (answer, then),
        (
            Answer {
                status: Status::Unknown,
                errno: 0,
                results: [0; 4],
                text: text.into()
            },
            NextAction::Wait
        )
    );
}

#[test]
fn power_off_is_answered_before_it_happens() {
    assert_eq!(
        obey(&FakeGuest::default(), Command::PowerOff, [0; 4]),
        (ok([0; 4]), NextAction::PowerOff)
    );
}

#[test]
fn a_step_of_tracing_gives_its_text_or_what_stopped_it_and_a_strange_one_is_lacking() {
    let guest = FakeGuest::default();
    let step = |code, argument| obey(&guest, Command::Trace, [code, argument, 0, 0]).0;
    let said = |answer: Answer| {
        let text = String::from_utf8(answer.text).unwrap();
        (answer.status, answer.errno, text)
    };
    let expected = |status, errno, text: &str| (status, errno, text.to_owned());
    assert_eq!(
        said(step(TraceStep::Stats as u64, 2)),
        expected(Status::Ok, 0, "stats of 2")
    );
    assert_eq!(
        said(step(TraceStep::Read as u64, 0)),
        expected(
            Status::Failed,
            16,
            "read trace: EBUSY (Device or resource busy)"
        )
    );
    assert_eq!(
        said(step(TraceStep::Start as u64, 4)),
        expected(Status::Lacking, 0, "no CONFIG_TRACING")
    );
    for strange in [0, 99, u64::MAX] {
        assert_eq!(
            said(step(strange, 0)),
            expected(
                Status::Lacking,
                0,
                &format!("this agent knows no trace step {strange}")
            )
        );
    }
}

#[test]
fn the_command_s_end_comes_back_in_words_and_its_output_as_text() {
    let guest = FakeGuest::default();
    assert_eq!(
        obey(&guest, Command::Execute, [1500, 0, 0, 0]),
        (ok([1, 3, 1500, 0]), NextAction::Wait)
    );
    let (answer, _) = obey(&guest, Command::Execute, [0; 4]);
    assert_eq!(
        (answer.status, answer.errno, answer.text),
        (
            Status::Failed,
            2,
            b"find nonesuch: ENOENT (No such file or directory)".into()
        )
    );
    let (answer, _) = obey(&guest, Command::ReadOutput, [32, 0, 0, 0]);
    assert_eq!(answer.text, b"from 32");
}

#[test]
fn a_file_s_length_comes_back_or_why_it_cannot_be_written() {
    let guest = FakeGuest::default();
    assert_eq!(
        obey(&guest, Command::Put, [1, 20, 300, 0]),
        (ok([321, 0, 0, 0]), NextAction::Wait)
    );
    let (answer, _) = obey(&guest, Command::Put, [0; 4]);
    assert_eq!(
        (answer.status, answer.errno, answer.text),
        (Status::Failed, 0, b"the file has no name".into())
    );
}
