//! What the kernel says of itself, part by part: longer than the mailbox's text.

use std::cell::RefCell;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::thread;
use std::time::Duration;

use ipirig_abi::{KernelText, TEXT_LEN};
use ipirig_system::{During, Failure, setting};

use crate::quiet::Written;

/// With anything but 0 in it, `/proc/kallsyms` may have zeroes for addresses (kernel/kallsyms.c, kallsyms_show_value).
const RESTRICT: &str = "proc/sys/kernel/kptr_restrict";

/// Files that say which CPUs are isolated, in one way or another.
const CPUS: [&str; 4] = ["nohz_full", "isolated", "online", "possible"];
/// What a line of the kernel's log has in it that is about isolation (kernel/sched/isolation.c,
/// kernel/time/tick-sched.c), and what one has that
/// says nothing.
const ABOUT_ISOLATION: [&str; 5] = [
    "ousekeeping:",
    "isolcpus",
    "nohz_full=",
    "irqaffinity",
    "NO_HZ: Can",
];
const SAYS_NOTHING: [&str; 4] = [
    "ommand line:",
    "will be passed to user space",
    "Full dynticks CPUs",
    // What init gets of the command line, a line each (init/main.c).
    "]     ",
];
/// Most lines of the log that are told.
const LINES: usize = 16;
/// What the kernel says of each CPU's tick (kernel/time/timer_list.c).
const TIMERS: &str = "proc/timer_list";
/// How often, and how many times, that is read while a CPU still has a periodic tick: each leaves it by
/// itself, at a tick after the clocksource can serve high-resolution timers (tick_check_oneshot_change).
const TICK: Duration = Duration::from_millis(20);
const TICKS: usize = 50;

/// How the kernel below `root` is set up, whose log is `log`, and what was `written` to it.
pub(crate) fn setup(root: &Path, log: &[u8], written: &[Written]) -> Vec<u8> {
    let cpus = CPUS.iter().filter_map(|name| {
        let file = root.join("sys/devices/system/cpu").join(name);
        let list = std::fs::read_to_string(file).ok()?;
        Some(format!("{name}\t{}\n", list.trim()))
    });
    let tickless = tickless(root).map(|list| format!("tickless\t{list}\n"));
    let log = String::from_utf8_lossy(log);
    let has = |line: &str, words: &[&str]| words.iter().any(|word| line.contains(word));
    let told = log
        .lines()
        .filter(|line| has(line, &ABOUT_ISOLATION) && !has(line, &SAYS_NOTHING))
        .take(LINES)
        .map(|line| format!("log\t{}\n", line.replace('\t', " ")));
    let written = written.iter().map(|written| format!("{written}\n"));
    let text: String = cpus.chain(tickless).chain(told).chain(written).collect();
    text.into_bytes()
}

/// The CPUs that can stop their tick, as a list with commas: those that program one timer at a time and run in NO_HZ
/// mode. Without it `nohz_full=` changes nothing. `None` where the kernel does not say.
fn tickless(root: &Path) -> Option<String> {
    let mut modes = Vec::new();
    for _ in 0..TICKS {
        modes = tick_modes(&std::fs::read_to_string(root.join(TIMERS)).ok()?);
        if modes.iter().all(|(_, nohz)| *nohz) {
            break;
        }
        thread::sleep(TICK);
    }
    let numbers = modes.iter().filter(|(_, nohz)| *nohz);
    let numbers: Vec<&str> = numbers.map(|(cpu, _)| cpu.as_str()).collect();
    (!modes.is_empty()).then(|| numbers.join(","))
}

/// The CPUs of a timer list, and whether each is in NO_HZ mode: `nohz`, or before 6.9 `nohz_mode`, is not 0.
fn tick_modes(list: &str) -> Vec<(String, bool)> {
    let mut cpu = None;
    let mut modes = Vec::new();
    for line in list.lines() {
        if let Some(number) = line.strip_prefix("cpu:") {
            cpu = Some(number.trim().to_owned());
        } else if let Some((name, value)) = line.trim().split_once(':')
            && matches!(name.trim(), ".nohz" | ".nohz_mode")
            && let Some(cpu) = cpu.take()
        {
            modes.push((cpu, value.trim() != "0"));
        }
    }
    modes
}

/// The text that is being read.
#[derive(Debug, Default)]
pub(crate) struct KernelTexts {
    open: RefCell<Option<File>>,
    /// How the kernel is set up.
    pub(crate) setup: Vec<u8>,
}

impl KernelTexts {
    /// The first part of `text` below `root`, or the one after the part that was read last. Empty at the end,
    /// and where the kernel has no such text.
    pub(crate) fn read(
        &self,
        root: &Path,
        text: KernelText,
        next: bool,
    ) -> Result<Vec<u8>, Failure> {
        let path = root.join(match text {
            KernelText::Symbols => "proc/kallsyms",
            KernelText::Notes => "sys/kernel/notes",
            KernelText::Setup if next => return Ok(Vec::new()),
            KernelText::Setup => return Ok(self.setup.clone()),
        });
        let mut open = self.open.borrow_mut();
        if !next {
            if text == KernelText::Symbols {
                let restrict = root.join(RESTRICT);
                setting::write(&restrict, "0")
                    .during(|| format!("write 0 to {}", restrict.display()))?;
            }
            *open = match File::open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                file => Some(file.during(|| format!("open {}", path.display()))?),
            };
        }
        let mut part = Vec::with_capacity(TEXT_LEN);
        if let Some(file) = &mut *open {
            file.take(TEXT_LEN as u64)
                .read_to_end(&mut part)
                .during(|| format!("read {}", path.display()))?;
        }
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_setup_has_the_kernel_s_lists_and_what_it_says_about_isolation() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("sys/devices/system/cpu");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("nohz_full"), "(null)\n").unwrap();
        fs::write(dir.join("online"), "0-2\n").unwrap();
        let log = b"<5>[    0.0] Kernel command line: nohz_full=2 isolcpus=1\n\
                    <4>[    0.0] Housekeeping: nohz_full= must match isolcpus=\n\
                    <7>[    0.1]     nohz_full=1\n\
                    <6>[    0.1] NO_HZ: Full dynticks CPUs: 2.\n\
                    <6>[    0.2] watchdog: Disabling watchdog on nohz_full cores by default\n";
        let texts = KernelTexts {
            setup: setup(root.path(), log, &[]),
            ..KernelTexts::default()
        };
        let read = |next| {
            let part = texts.read(root.path(), KernelText::Setup, next).unwrap();
            String::from_utf8(part).unwrap()
        };
        assert_eq!(
            read(false),
            "nohz_full\t(null)\nonline\t0-2\n\
             log\t<4>[    0.0] Housekeeping: nohz_full= must match isolcpus=\n"
        );
        assert_eq!(read(true), "");
    }

    #[test]
    fn cpus_whose_tick_can_stop_are_listed_by_the_names_of_old_and_new_kernels() {
        let listed = |text: &str| {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join("proc")).unwrap();
            fs::write(root.path().join(TIMERS), text).unwrap();
            tickless(root.path())
        };
        let cpu = |number: u32, mode: &str| {
            format!(
                "\ncpu: {number}\n clock 0:\n  .base:       ffff88800dc1c6c0\n\
                 active timers:\n  .expires_next   : 1000 nsecs\n{mode}  .idle_tick      : 0 nsecs\n"
            )
        };
        let new = |nohz| format!("  .nohz           : {nohz}\n  .highres        : 1\n");
        let old = |mode| format!("  .nohz_mode      : {mode}\n");
        let head = "Timer List Version: v0.10\nHRTIMER_MAX_CLOCK_BASES: 8\n";
        // The devices come after the CPUs.
        let tail = "\nTick Device: mode:     1\nBroadcast device\n";
        let list = |a: &str, b: &str| listed(&format!("{head}{}{}{tail}", cpu(0, a), cpu(3, b)));
        assert_eq!(list(&new(1), &new(1)).as_deref(), Some("0,3"));
        assert_eq!(list(&new(0), &new(1)).as_deref(), Some("3"));
        assert_eq!(list(&old(2), &old(1)).as_deref(), Some("0,3"));
        assert_eq!(list(&old(0), &old(0)).as_deref(), Some(""));
        // Without CONFIG_NO_HZ_COMMON there is no such line.
        assert_eq!(list("", ""), None);
        assert_eq!(tickless(Path::new("/nonexistent")), None);
    }

    #[test]
    fn a_text_comes_whole_part_by_part_with_its_addresses_shown() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &[u8]| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let symbols = vec![b'f'; TEXT_LEN + 1];
        write("proc/kallsyms", &symbols);
        write(RESTRICT, b"2");
        let texts = KernelTexts::default();
        let read = |text, next| texts.read(root.path(), text, next).unwrap();
        assert_eq!(read(KernelText::Symbols, false), symbols[1..]);
        assert_eq!(read(KernelText::Symbols, true), b"f");
        assert_eq!(read(KernelText::Symbols, true), b"");
        assert_eq!(read(KernelText::Symbols, false), symbols[1..]);
        assert_eq!(fs::read(root.path().join(RESTRICT)).unwrap(), b"0");
        // A kernel without notes.
        assert_eq!(read(KernelText::Notes, false), b"");
        assert_eq!(read(KernelText::Notes, true), b"");
    }
}
