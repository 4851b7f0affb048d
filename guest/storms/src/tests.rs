use std::cell::RefCell;
use std::fs;
use std::path::Path;

use ipirig_abi::module::{LetGo, Move, Trigger};
use tempfile::TempDir;

use super::*;
use crate::interfaces::{Symbols, Triggers};
use ipirig_system::Errno;

/// A module that remembers what was called.
#[derive(Debug, Default)]
struct FakeModule {
    calls: RefCell<Vec<String>>,
    /// The kernel has no static keys to patch.
    no_keys: bool,
    no_vmap_stack: bool,
}

impl Triggers for FakeModule {
    fn move_alias(&self, _: &mut Move) -> Result<(), Errno> {
        Err(Errno(libc::ENOTTY))
    }

    fn trigger(&self, request: &mut Trigger) -> Result<(), Errno> {
        let kind = StormKind::try_from(request.kind).unwrap();
        let call = format!("{kind:?} {}x{}", request.count, request.size);
        self.calls.borrow_mut().push(call);
        if self.no_keys && kind == StormKind::StaticKeyFlip {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        request.done = request.count;
        Ok(())
    }

    fn purge(&self) -> Result<(), Errno> {
        self.calls.borrow_mut().push("purge".to_owned());
        match self.no_vmap_stack {
            true => Err(Errno(libc::EOPNOTSUPP)),
            false => Ok(()),
        }
    }

    fn let_go(&self, _: &mut LetGo) -> Result<(), Errno> {
        Err(Errno(libc::ENOTTY))
    }
}

fn interfaces<'a>(root: &'a Path, module: Option<&'a FakeModule>) -> Interfaces<'a> {
    Interfaces {
        triggers: module.map(|module| module as &dyn Triggers),
        housekeeping: &[0],
        symbols: Symbols::default(),
        root,
        mount_tracefs: |_| Err(Errno(libc::ENODEV)),
    }
}

fn ask(
    interfaces: &Interfaces<'_>,
    kind: StormKind,
    operations: u64,
    size: u64,
) -> (Progress, String) {
    outcome(run, interfaces, kind, [operations, size, 0])
}

/// What comes of making ready for a storm of three operations.
fn ready(interfaces: &Interfaces<'_>, kind: StormKind, target: u64) -> (Progress, String) {
    outcome(prepare, interfaces, kind, [3, 0, target])
}

fn outcome(
    step: Run,
    interfaces: &Interfaces<'_>,
    kind: StormKind,
    [operations, size, target]: [u64; 3],
) -> (Progress, String) {
    let request = StormRequest {
        kind,
        operations,
        size,
        target,
    };
    let mut progress = Progress::default();
    let said = match step(interfaces, &request, &mut progress) {
        Ok(()) => "done".to_owned(),
        Err(StormError::NoModule) => "no module".to_owned(),
        Err(StormError::Lacking(what)) => format!("lacking: {what}"),
        Err(StormError::Failed(failure)) => format!("failed: {failure}"),
    };
    (
        progress,
        said.replace(&interfaces.root.display().to_string(), ""),
    )
}

fn done(done: u64, value: u64) -> (Progress, String) {
    (Progress { done, value }, "done".to_owned())
}

fn said(text: &str) -> (Progress, String) {
    (Progress::default(), text.to_owned())
}

/// A root directory with these empty files below `sys/kernel/tracing`.
fn with_tracefs(files: &[&str]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        let path = root.path().join("sys/kernel/tracing").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    root
}

/// What a storm wrote to a file of [`with_tracefs`], end to end.
fn written(root: &TempDir, file: &str) -> String {
    fs::read_to_string(root.path().join("sys/kernel/tracing").join(file)).unwrap()
}

#[test]
fn a_storm_of_no_operations_or_of_too_many_is_refused_whatever_its_kind() {
    let interfaces = interfaces(Path::new("/nonexistent"), None);
    for &kind in StormKind::ALL {
        for operations in [0, MAX_REPEAT + 1] {
            let text = format!(
                "failed: {operations} operations of {kind:?}, size 0: EINVAL (Invalid argument)"
            );
            assert_eq!(ask(&interfaces, kind, operations, 0), said(&text));
        }
    }
}

#[test]
fn what_is_missing_is_named_for_each_kind_and_never_a_failure() {
    let interfaces = interfaces(Path::new("/nonexistent"), None);
    let tracing = "lacking: no CONFIG_TRACING: tracefs cannot be mounted on /sys/kernel/tracing";
    for (kind, text) in [
        (StormKind::StaticKeyFlip, "no module"),
        (StormKind::Vunmap, "no module"),
        (StormKind::StaticKeyMany, "no module"),
        (StormKind::EntryTextPoke, "no module"),
        (StormKind::VmapStack, "no module"),
        (StormKind::HousekeepingLoad, "no module"),
        (
            StormKind::ModuleLoad,
            "lacking: the initramfs has no /ipirig_dummy.ko",
        ),
        (StormKind::Tracepoint, tracing),
        (StormKind::Kprobe, tracing),
        (StormKind::Ftrace, tracing),
        (
            StormKind::ImageKey,
            "lacking: no CONFIG_SCHEDSTATS: /proc/sys/kernel/sched_schedstats is missing",
        ),
        (
            StormKind::BpfJit,
            "lacking: no CONFIG_BPF_JIT: /proc/sys/net/core/bpf_jit_enable is missing",
        ),
    ] {
        let sizes = kind.properties().sizes.as_ref();
        let size = sizes.map_or(0, |sizes| *sizes.start());
        assert_eq!(ask(&interfaces, kind, 1, size), said(text), "{kind:?}");
    }
}

#[test]
fn a_tracefs_without_the_file_that_a_storm_needs_names_the_option() {
    let root = with_tracefs(&["trace"]);
    let interfaces = interfaces(root.path(), None);
    for (kind, option, file) in [
        (
            StormKind::Tracepoint,
            "CONFIG_EVENT_TRACING",
            "events/sched/sched_waking/enable",
        ),
        (StormKind::Kprobe, "CONFIG_KPROBE_EVENTS", "kprobe_events"),
        (
            StormKind::Ftrace,
            "CONFIG_DYNAMIC_FTRACE",
            "set_ftrace_filter",
        ),
    ] {
        let text = format!("lacking: no {option}: /sys/kernel/tracing/{file} is missing");
        assert_eq!(ready(&interfaces, kind, 0), said(&text));
    }
}

/// Root with what the tracing storms need.
fn with_all_of_tracefs() -> TempDir {
    let root = with_tracefs(&[
        "trace",
        "buffer_size_kb",
        "events/sched/sched_waking/enable",
        "kprobe_events",
        "events/ipirig/quiet/enable",
        "set_ftrace_filter",
        "current_tracer",
    ]);
    let tracers = root.path().join("sys/kernel/tracing/available_tracers");
    fs::write(tracers, "function nop\n").unwrap();
    root
}

#[test]
fn tracing_storms_undo_what_they_do() {
    let root = with_all_of_tracefs();
    let interfaces = interfaces(root.path(), None);

    assert_eq!(ask(&interfaces, StormKind::Tracepoint, 2, 0), done(2, 0));
    assert_eq!(written(&root, "events/sched/sched_waking/enable"), "1010");

    assert_eq!(ask(&interfaces, StormKind::Kprobe, 1, 0), done(1, 0));
    assert_eq!(
        written(&root, "kprobe_events"),
        "p:ipirig/quiet kernel_power_off+0-:ipirig/quiet"
    );
    assert_eq!(written(&root, "events/ipirig/quiet/enable"), "10");

    assert_eq!(ask(&interfaces, StormKind::Ftrace, 2, 0), done(2, 0));
    assert_eq!(written(&root, "current_tracer"), "functionnopfunctionnop");
    assert_eq!(written(&root, "set_ftrace_filter"), "");
    assert_eq!(written(&root, "buffer_size_kb"), "");
}

#[test]
fn making_ready_sets_the_buffers_up_and_does_one_operation() {
    for (kind, file, content) in [
        (
            StormKind::Tracepoint,
            "events/sched/sched_waking/enable",
            "10",
        ),
        (StormKind::Kprobe, "events/ipirig/quiet/enable", "10"),
        (StormKind::Ftrace, "current_tracer", "functionnop"),
    ] {
        let root = with_all_of_tracefs();
        assert_eq!(ready(&interfaces(root.path(), None), kind, 0), done(1, 0));
        assert_eq!(written(&root, "buffer_size_kb"), "64", "{kind:?}");
        assert_eq!(written(&root, file), content);
    }
}

#[test]
fn a_storm_that_needs_nothing_is_ready_at_once() {
    let interfaces = interfaces(Path::new("/nonexistent"), None);
    assert_eq!(ready(&interfaces, StormKind::StaticKeyMany, 0), done(0, 0));
}

#[test]
fn a_function_is_filtered_by_number_and_by_name_where_that_is_another() {
    for (before, target, after) in [
        // What the kernel shows of the filter; here, the number remains too.
        ("kernel_power_off\n", 7, "kernel_power_off\n7"),
        ("another\n", 7, "kernel_power_off"),
        ("", 0, "kernel_power_off"),
    ] {
        let root = with_all_of_tracefs();
        let filter = root.path().join("sys/kernel/tracing/set_ftrace_filter");
        fs::write(&filter, before).unwrap();
        let interfaces = interfaces(root.path(), None);
        assert_eq!(ready(&interfaces, StormKind::Ftrace, target), done(1, 0));
        assert_eq!(fs::read_to_string(filter).unwrap(), after);
    }
}

#[test]
fn a_kernel_without_the_function_tracer_is_told_so() {
    let root = with_all_of_tracefs();
    fs::write(
        root.path().join("sys/kernel/tracing/available_tracers"),
        "nop\n",
    )
    .unwrap();
    assert_eq!(
        ready(&interfaces(root.path(), None), StormKind::Ftrace, 0),
        said(
            "lacking: no CONFIG_FUNCTION_TRACER: /sys/kernel/tracing/available_tracers has no \
             function"
        )
    );
}

#[test]
fn a_write_that_fails_half_way_leaves_what_was_done() {
    let root = with_tracefs(&["trace", "kprobe_events"]);
    let (progress, said) = ask(&interfaces(root.path(), None), StormKind::Kprobe, 3, 0);
    assert_eq!(progress, Progress::default());
    assert_eq!(
        said,
        "failed: write 1 to /sys/kernel/tracing/events/ipirig/quiet/enable: ENOENT (No such file or \
         directory)"
    );
}

#[test]
fn filters_are_attached_where_the_kernel_compiles_them_until_their_memory_is_back() {
    let root = tempfile::tempdir().unwrap();
    let enable = root.path().join("proc/sys/net/core/bpf_jit_enable");
    fs::create_dir_all(enable.parent().unwrap()).unwrap();
    fs::write(&enable, "").unwrap();
    let interfaces = interfaces(root.path(), None);
    let bpf = |operations| ask(&interfaces, StormKind::BpfJit, operations, 0);
    assert_eq!(
        bpf(3),
        said("failed: read /proc/meminfo: ENOENT (No such file or directory)")
    );
    let memory = root.path().join("proc/meminfo");
    fs::write(&memory, "VmallocChunk: 0 kB\n").unwrap();
    assert_eq!(bpf(3), said("failed: /proc/meminfo has no VmallocUsed"));
    fs::write(&memory, "Slab:  1 kB\nVmallocUsed:        1234 kB\n").unwrap();
    assert_eq!(bpf(3), done(3, 0));
    assert_eq!(fs::read_to_string(enable).unwrap(), "111");
}

#[test]
fn a_kernel_whose_stacks_are_not_vmapped_is_lacking() {
    let module = FakeModule {
        no_vmap_stack: true,
        ..FakeModule::default()
    };
    let interfaces = interfaces(Path::new("/nonexistent"), Some(&module));
    let text = "lacking: no CONFIG_VMAP_STACK: kernel stacks are not vmalloc areas";
    assert_eq!(ask(&interfaces, StormKind::VmapStack, 2, 3), said(text));
}

#[test]
fn the_image_key_is_turned_on_and_off_by_its_sysctl() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("proc/sys/kernel");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("sched_schedstats"), "").unwrap();
    let interfaces = interfaces(root.path(), None);
    assert_eq!(ask(&interfaces, StormKind::ImageKey, 2, 0), done(2, 0));
    // Each write begins at the file's start.
    let left = fs::read_to_string(dir.join("sched_schedstats")).unwrap();
    assert_eq!(left, "0");
    let text = "failed: 2 operations of ImageKey, size 1: EINVAL (Invalid argument)";
    assert_eq!(ask(&interfaces, StormKind::ImageKey, 2, 1), said(text));
}

#[test]
fn processes_come_and_go_and_their_stacks_are_purged_each_time() {
    let module = FakeModule::default();
    let interfaces = interfaces(Path::new("/nonexistent"), Some(&module));
    assert_eq!(ask(&interfaces, StormKind::VmapStack, 2, 3), done(2, 0));
    assert_eq!(*module.calls.borrow(), ["purge", "purge"]);
    for size in [2, 65] {
        let text =
            format!("failed: 5 operations of VmapStack, size {size}: EINVAL (Invalid argument)");
        assert_eq!(ask(&interfaces, StormKind::VmapStack, 5, size), said(&text));
    }
}

#[test]
fn the_load_pairs_each_cpu_with_the_next_and_counts_its_messages() {
    let module = FakeModule::default();
    let mut interfaces = interfaces(Path::new("/nonexistent"), Some(&module));
    assert_eq!(
        ask(&interfaces, StormKind::HousekeepingLoad, 50, 0),
        done(50, 1)
    );
    interfaces.housekeeping = &[0, 0];
    assert_eq!(
        ask(&interfaces, StormKind::HousekeepingLoad, 50, 0),
        done(50, 2)
    );
    // A round for each 8 messages begun.
    let round = ["Vunmap 1x8", "StaticKeyFlip 1x0"];
    assert_eq!(*module.calls.borrow(), round.repeat(2 * 7));

    interfaces.housekeeping = &[63];
    let (progress, said) = ask(&interfaces, StormKind::HousekeepingLoad, 50, 0);
    assert_eq!(progress, Progress { done: 0, value: 1 });
    assert_eq!(
        said,
        "failed: send 50 messages through pipes: EINVAL (Invalid argument)"
    );
}

#[test]
fn a_load_is_not_done_by_half_where_the_kernel_has_no_key_to_flip() {
    let module = FakeModule {
        no_keys: true,
        ..FakeModule::default()
    };
    let interfaces = interfaces(Path::new("/nonexistent"), Some(&module));
    assert_eq!(
        ask(&interfaces, StormKind::HousekeepingLoad, 50, 0),
        (
            Progress { done: 0, value: 1 },
            "lacking: no CONFIG_JUMP_LABEL: a static key is a variable, and a flip patches nothing"
                .to_owned()
        )
    );
}
