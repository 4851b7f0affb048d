//! The guest that commands act on: this kernel and its module.

use std::cell::Cell;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ipirig_abi::module::{LetGo, Move, Trigger};
use ipirig_abi::{KernelText, Mailbox, TEXT_LEN};

use crate::device::Device;
use crate::execute::{self, Executed};
use crate::kernel_text::KernelTexts;
use crate::mounts;
use crate::obey::Guest;
use crate::online;
use crate::partition;
use crate::put::Part;
use crate::relay;
use crate::tasks::{self, Tasks};
use crate::tracing::{Recording, Step};
use ipirig_storms::StormError;
use ipirig_storms::{Interfaces, Symbols, Triggers};
use ipirig_system::{During, Errno, Failure, sys};

const COUNTERS: &str = "/sys/kernel/debug/ipi_deferral";
const INTERRUPTS: &str = "/proc/interrupts";

/// This kernel and the tasks on its isolated CPUs.
#[derive(Debug)]
pub(crate) struct ThisGuest {
    /// The isolated tasks that run.
    pub(crate) tasks: Tasks,
    /// `/dev/ipirig`, if the initramfs has the module.
    pub(crate) device: Option<Device>,
    /// CPUs that are not isolated.
    pub(crate) housekeeping: Vec<usize>,
    /// The deferral counters before the first isolated task.
    pub(crate) boot_counters: Vec<u8>,
    /// What the rig said that the kernel does not export.
    pub(crate) symbols: Cell<Symbols>,
    /// The kernel's own record of IPIs.
    pub(crate) recording: Recording,
    /// What is being read of what the kernel says of itself.
    pub(crate) texts: KernelTexts,
    /// Where the rig hands things over.
    pub(crate) mailbox: &'static Mailbox,
}

impl Guest for ThisGuest {
    fn triggers(&self) -> Option<&dyn Triggers> {
        self.device.as_ref().map(|device| device as &dyn Triggers)
    }

    fn interfaces(&self) -> Interfaces<'_> {
        Interfaces {
            triggers: self.triggers(),
            housekeeping: &self.housekeeping,
            symbols: self.symbols.get(),
            root: Path::new("/"),
            mount_tracefs: mounts::tracefs,
        }
    }

    fn learn(&self, symbols: Symbols) {
        self.symbols.set(symbols);
    }

    fn counters(&self) -> Result<Vec<u8>, Failure> {
        counters()
    }

    fn boot_counters(&self) -> Vec<u8> {
        self.boot_counters.clone()
    }

    fn interrupts(&self) -> Result<Vec<u8>, Failure> {
        read(INTERRUPTS)?
            .ok_or_else(|| Failure::of(format!("open {INTERRUPTS}"), Errno(libc::ENOENT)))
    }

    fn version(&self) -> Result<Vec<u8>, Failure> {
        Ok(sys::version().into_bytes())
    }

    fn kernel_text(&self, text: KernelText, next: bool) -> Result<Vec<u8>, Failure> {
        self.texts.read(self.interfaces().root, text, next)
    }

    fn signal(&self, cpu: u64) -> Result<(), Failure> {
        self.tasks.signal(cpu)
    }

    fn add_address_spaces(&self, cpu: u64, count: u64) -> Result<u64, StormError> {
        let device = self.device.as_ref().ok_or(StormError::NoModule)?;
        Ok(relay::start(device, cpu, count)?)
    }

    fn occupy(&self, cpu: u64) -> Result<(), Failure> {
        let cpus = self.housekeeping.iter();
        let slots = cpus.filter_map(|&cpu| Some((cpu, self.mailbox.cpus.get(cpu)?)));
        let found = { slots }.find(|(housekeeping, _)| *housekeeping as u64 == cpu);
        let (cpu, slot) = found
            .ok_or(Errno(libc::EINVAL))
            .during(|| format!("run a user-space loop on CPU {cpu}"))?;
        tasks::occupy(cpu, slot)
    }

    fn replug(&self, cpu: u64) -> Result<(), Failure> {
        online::replug(self.interfaces().root, cpu)
    }

    fn partition(&self, cpus: u64) -> Result<Vec<u8>, StormError> {
        let root = self.interfaces().root;
        partition::make(root, cpus, &self.tasks.pids(), mounts::cgroup2)
    }

    fn trace(&self, step: Step) -> Result<Vec<u8>, StormError> {
        self.recording.take(&self.interfaces(), step)
    }

    fn put(&self, path_len: u64, from: u64, mode: u64) -> Result<u64, Failure> {
        let handed: Vec<u8> = self.mailbox.handed.iter().collect();
        Part::of(&handed, path_len, from, mode)?.write_below(self.interfaces().root)
    }

    fn execute(&self, limit: Duration) -> Result<Executed, Failure> {
        let stop = || self.mailbox.control.args[1].load(Ordering::Relaxed) != 0;
        execute::execute(&self.interfaces(), limit, &stop)
    }

    fn output(&self, from: u64) -> Result<Vec<u8>, Failure> {
        execute::output(self.interfaces().root, from)
    }
}

impl Triggers for Device {
    fn move_alias(&self, request: &mut Move) -> Result<(), Errno> {
        self.move_alias(request)
    }

    fn trigger(&self, request: &mut Trigger) -> Result<(), Errno> {
        self.trigger(request)
    }

    fn purge(&self) -> Result<(), Errno> {
        self.purge()
    }

    fn let_go(&self, request: &mut LetGo) -> Result<(), Errno> {
        self.let_go(request)
    }
}

/// The kernel's deferral counters; empty if it has none.
pub(crate) fn counters() -> Result<Vec<u8>, Failure> {
    Ok(read(COUNTERS)?.unwrap_or_default())
}

/// As much of the file as the mailbox's text takes; `None` if there is no such file.
fn read(path: &str) -> Result<Option<Vec<u8>>, Failure> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        result => result.during(|| format!("open {path}"))?,
    };
    let mut text = Vec::with_capacity(TEXT_LEN);
    file.take(TEXT_LEN as u64)
        .read_to_end(&mut text)
        .during(|| format!("read {path}"))?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_whole_up_to_the_texts_length_and_a_missing_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        let path = path.to_str().unwrap();
        assert_eq!(read(path), Ok(None));
        std::fs::write(path, "deferred 3\n").unwrap();
        assert_eq!(read(path), Ok(Some(b"deferred 3\n".into())));
        std::fs::write(path, vec![b'x'; TEXT_LEN + 1]).unwrap();
        assert_eq!(read(path), Ok(Some(vec![b'x'; TEXT_LEN])));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        assert_eq!(
            read(path).unwrap_err().to_string(),
            format!("read {path}: EISDIR (Is a directory)")
        );
    }
}
