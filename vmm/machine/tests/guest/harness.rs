//! Starting a guest, hearing from it, and what it leaves behind.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ipirig_abi::Role;
use ipirig_apic::{AcceptedKind, DeliveryMode, Origin};
use ipirig_machine::{
    AcceptedEvent, ApicMode, Config, ConsoleSinks, CrashReport, Host, HostError, IpiEvent, Machine,
    MachineError, Observer, Snapshot, StopReason, Wakeup, WatchEvent,
};
use tempfile::TempDir;

use crate::image;

/// Why no guest can run here, if it is the host that lacks something. Any other trouble is for the
/// tests to run into.
pub(crate) fn no_kvm(error: &HostError) -> Option<String> {
    match error {
        HostError::NoKvm { .. }
        | HostError::NotAllowed { .. }
        | HostError::Open { .. }
        | HostError::Version { .. }
        | HostError::Missing { .. } => Some(error.to_string()),
        _ => None,
    }
}

/// Nothing here takes a second on an idle host; a busy one gets all of this.
const PATIENCE: Duration = Duration::from_secs(60);
/// Snapshots are of this.
pub(crate) const KEY: &str = "a guest of a few instructions";

/// Keeps every event.
#[derive(Debug, Default)]
struct Recorder {
    ipis: Mutex<Vec<IpiEvent>>,
    accepted: Mutex<Vec<AcceptedEvent>>,
    watched: Mutex<Vec<WatchEvent>>,
}

impl Observer for Recorder {
    fn ipi(&self, event: &IpiEvent) {
        self.ipis.lock().unwrap().push(event.clone());
    }

    fn accepted(&self, event: &AcceptedEvent) {
        self.accepted.lock().unwrap().push(event.clone());
    }

    fn watched(&self, event: &WatchEvent) {
        self.watched.lock().unwrap().push(*event);
    }
}

/// A guest to be: one vCPU, the APIC's best face.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest {
    entry: &'static u8,
    cpus: usize,
    apic: ApicMode,
    boots: bool,
    sandbox: bool,
}

impl Guest {
    pub(crate) fn new(entry: &'static u8) -> Self {
        Self {
            entry,
            cpus: 1,
            apic: ApicMode::Auto,
            boots: false,
            sandbox: true,
        }
    }

    /// Taken for a kernel that boots, until the machine is settled.
    pub(crate) fn boots(self) -> Self {
        Self {
            boots: true,
            ..self
        }
    }

    /// Whether the threads of its vCPUs are confined.
    pub(crate) fn sandbox(self, sandbox: bool) -> Self {
        Self { sandbox, ..self }
    }

    pub(crate) fn cpus(self, cpus: usize) -> Self {
        Self { cpus, ..self }
    }

    pub(crate) fn apic(self, apic: ApicMode) -> Self {
        Self { apic, ..self }
    }

    pub(crate) fn start(self) -> Running {
        let seen = Arc::new(Recorder::default());
        self.start_with(Arc::clone(&seen) as _).seen_by(seen)
    }

    /// The same with an observer of the test's own; nothing else is kept of what happens.
    pub(crate) fn start_with(self, observer: Arc<dyn Observer>) -> Running {
        let host = Arc::new(Host::probe().unwrap());
        let image = image::vmlinux(self.entry);
        self.start_image(&host, &image, observer).unwrap()
    }

    /// The same of an image of the test's own, on a host that it has probed. An error of the machine that is
    /// made is the test's to judge.
    pub(crate) fn start_image(
        self,
        host: &Arc<Host>,
        image: &[u8],
        observer: Arc<dyn Observer>,
    ) -> Result<Running, MachineError> {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| -> PathBuf {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let config = Config {
            roles: (0..self.cpus)
                .map(|cpu| {
                    if cpu == 0 {
                        Role::Control
                    } else {
                        Role::Housekeeping
                    }
                })
                .collect(),
            memory_mib: 64,
            symbols: None,
            kernel: file("vmlinux", image),
            initramfs: file("initramfs", b"070701"),
            cmdline: String::new(),
            apic: self.apic,
            pin: None,
            sandbox: self.sandbox,
            console: ConsoleSinks::default(),
        };
        let mut machine = Machine::new(host, &config, observer)?;
        assert_eq!(machine.x2apic(), self.apic != ApicMode::Xapic);
        if self.boots {
            machine.expect_boot();
        }
        machine.offer_debug_exit();
        machine.start()?;
        Ok(Running {
            machine,
            seen: Arc::default(),
            host: Arc::clone(host),
            config,
            _dir: dir,
        })
    }
}

/// A guest that runs.
pub(crate) struct Running {
    pub(crate) machine: Machine,
    seen: Arc<Recorder>,
    host: Arc<Host>,
    config: Config,
    _dir: TempDir,
}

impl Running {
    /// A snapshot of the guest as it is now, in a file without a name.
    pub(crate) fn save(&self) -> File {
        let mut file = tempfile::tempfile().unwrap();
        self.machine.save(KEY, &mut file).unwrap();
        file
    }

    /// Another guest of the same configuration, which is restored from there.
    pub(crate) fn restored(&self, snapshot: &File) -> Running {
        self.restored_from(&Snapshot::open(snapshot, KEY).unwrap())
    }

    /// The same from one that has been looked through.
    pub(crate) fn restored_from(&self, snapshot: &Snapshot) -> Running {
        let seen = Arc::new(Recorder::default());
        let observer = Arc::clone(&seen) as _;
        let mut machine = Machine::restore(&self.host, &self.config, observer, snapshot).unwrap();
        machine.start().unwrap();
        Running {
            machine,
            seen,
            host: Arc::clone(&self.host),
            config: self.config.clone(),
            _dir: tempfile::tempdir().unwrap(),
        }
    }

    fn seen_by(self, seen: Arc<Recorder>) -> Self {
        Self { seen, ..self }
    }

    /// What the guest does next: rings, or ends.
    pub(crate) fn next(&mut self) -> Wakeup {
        match self.machine.wait(Instant::now() + PATIENCE).unwrap() {
            Wakeup::Deadline => self.fail("neither rang nor ended"),
            wakeup => wakeup,
        }
    }

    /// Waits until the guest rings.
    pub(crate) fn rings(&mut self) {
        match self.next() {
            Wakeup::Doorbell => {}
            other => self.fail(&format!("did not ring: {other:?}")),
        }
    }

    /// Waits until the guest ends, and says why it did.
    pub(crate) fn ends(&mut self) -> StopReason {
        match self.next() {
            Wakeup::Stopped(reason) => reason,
            other => self.fail(&format!("did not end: {other:?}")),
        }
    }

    /// Waits until `done`.
    pub(crate) fn until(&mut self, what: &str, done: impl Fn(&Machine) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(&self.machine) {
            if Instant::now() >= deadline {
                self.fail(what);
            }
            // Leaves the core to the guest between two looks.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What the machine answered; the test fails with the guest's end where that is why it did not.
    pub(crate) fn answered<T>(&mut self, answer: Result<T, MachineError>) -> T {
        let error = match answer {
            Ok(answer) => return answer,
            Err(error) => error,
        };
        match self.machine.wait(Instant::now()) {
            Ok(Wakeup::Stopped(reason)) => panic!("{error}: {}", self.machine.report(reason)),
            _ => panic!("{error}"),
        }
    }

    fn fail(&mut self, what: &str) -> ! {
        let exception = match self.word(63) {
            0 => String::new(),
            vector => format!(
                "\nunexpected vector {}, frame {:#x} {:#x}",
                vector & 0xff,
                self.word(62),
                self.word(61)
            ),
        };
        let words: Vec<_> = (0..16).map(|n| self.word(n)).collect();
        let report = self.machine.report(StopReason::Timeout {
            phase: what.to_owned(),
            seconds: PATIENCE.as_secs(),
        });
        panic!("the guest {what}{exception}\nwords {words:x?}\n{report}")
    }

    /// What the guest left in word `n`.
    pub(crate) fn word(&self, n: usize) -> u64 {
        let slot = &self.machine.mailbox().cpus[n];
        slot.task.heartbeat.load(Ordering::SeqCst)
    }

    /// Gives the guest order `n`: a number that is not zero.
    pub(crate) fn order(&self, n: usize, order: u32) {
        let slot = &self.machine.mailbox().cpus[n];
        slot.order_seq.store(order, Ordering::SeqCst);
    }

    /// Stops the guest; what was seen of it.
    pub(crate) fn stop(mut self) -> GuestRecord {
        let words = std::array::from_fn(|n| self.word(n));
        let report = self.machine.report(StopReason::Timeout {
            phase: "the test".into(),
            seconds: 0,
        });
        GuestRecord {
            words,
            report,
            ipis: std::mem::take(&mut self.seen.ipis.lock().unwrap()),
            accepted: std::mem::take(&mut self.seen.accepted.lock().unwrap()),
            watched: std::mem::take(&mut self.seen.watched.lock().unwrap()),
        }
    }
}

/// All that is known of a guest that was stopped.
#[derive(Debug)]
pub(crate) struct GuestRecord {
    pub(crate) words: [u64; 64],
    pub(crate) report: CrashReport,
    pub(crate) ipis: Vec<IpiEvent>,
    pub(crate) accepted: Vec<AcceptedEvent>,
    pub(crate) watched: Vec<WatchEvent>,
}

impl GuestRecord {
    /// What `cpu` took, in order.
    pub(crate) fn taken(&self, cpu: usize) -> Vec<(AcceptedKind, Origin)> {
        let taken = self.accepted.iter().filter(|event| event.cpu == cpu);
        taken
            .map(|event| (event.accepted.kind, event.accepted.origin))
            .collect()
    }

    /// Mode, vector and targets of what `cpu` sent, in order.
    pub(crate) fn sent(&self, cpu: usize) -> Vec<(DeliveryMode, u8, Vec<usize>)> {
        let sent = self
            .ipis
            .iter()
            .filter(|event| event.sent.ipi.source == cpu);
        sent.map(|event| {
            let ipi = &event.sent.ipi;
            (ipi.mode, ipi.vector, ipi.targets.iter().collect())
        })
        .collect()
    }
}

/// A fixed IPI with this vector, taken.
pub(crate) fn ipi(vector: u8) -> (AcceptedKind, Origin) {
    (AcceptedKind::Fixed(vector), Origin::Ipi)
}

/// The timer's interrupt with this vector, taken.
pub(crate) fn timer(vector: u8) -> (AcceptedKind, Origin) {
    (AcceptedKind::Fixed(vector), Origin::Timer)
}
