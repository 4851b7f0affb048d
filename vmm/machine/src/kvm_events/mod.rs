//! What KVM's own APICs do, from the host's trace: the events `kvm:kvm_apic_ipi` and
//! `kvm:kvm_apic_accept_irq` of this machine's threads. For [`crate::ApicMode::Kernel`].
//!
//! It is less than what an APIC of one's own knows: an interrupt is seen when it becomes pending, not when it
//! is taken, and two that were merged are not told from one. What an IPI interrupted is known of the vCPUs that
//! this is asked for, where the host has the events for it: `kvm:kvm_inj_virq`, and `kvm:kvm_entry` with RIP
//! (Linux 5.9).

mod parse;
mod trace;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::observer::Observer;
pub use trace::{KvmTrace, NoEvent};

/// Where tracefs is (Documentation/trace/ftrace.rst).
const TRACING: &str = "/sys/kernel/tracing";
const EVENTS: [&str; 2] = ["kvm/kvm_apic_ipi", "kvm/kvm_apic_accept_irq"];
/// What is injected, and what that interrupts.
const INTERRUPTED: [&str; 2] = ["kvm/kvm_entry", "kvm/kvm_inj_virq"];
/// Names of instances begin with this; the process' number follows.
const NAME: &str = "ipirig-";
/// For each CPU of the host: some 100000 events.
const BUFFER_KIB: &str = "8192";

/// Why KVM's events cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("no trace of KVM's own APIC: cannot {what} {}", path.display())]
pub struct KvmEventsError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KvmEventsError {
    let path = path.to_owned();
    move |source| KvmEventsError { what, path, source }
}

/// A trace instance of the host for this process; it goes with the value.
#[derive(Debug)]
pub(crate) struct KvmEvents {
    instance: PathBuf,
    reader: Mutex<Reader>,
}

#[derive(Debug)]
struct Reader {
    pipe: File,
    trace: KvmTrace,
}

impl KvmEvents {
    /// Records what threads do that the calling one starts from now on, and what IPIs interrupt on the
    /// vCPUs `closely`.
    pub(crate) fn begin(closely: &[usize]) -> Result<Self, KvmEventsError> {
        let instances = Path::new(TRACING).join("instances");
        sweep(&instances);
        let instance = instances.join(format!("{NAME}{}", std::process::id()));
        fs::create_dir(&instance).map_err(failed("make", &instance))?;
        let path = instance.join("trace_pipe");
        let pipe = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path);
        let events = match pipe {
            Ok(pipe) => Self {
                instance,
                reader: Mutex::new(Reader {
                    pipe,
                    trace: KvmTrace::default(),
                }),
            },
            Err(source) => {
                let _ = fs::remove_dir(&instance);
                return Err(failed("open", &path)(source));
            }
        };
        let thread = ipirig_kick::thread_id().to_string();
        events.write("trace_clock", "mono")?;
        events.write("options/event-fork", "1")?;
        events.write("set_event_pid", &thread)?;
        events.write("buffer_size_kb", BUFFER_KIB)?;
        for event in EVENTS {
            events.write(&format!("events/{event}/enable"), "1")?;
        }
        // An older host's trace has less, and is no worse for what it has.
        if let Err(_lacking) = events.record_entries(closely) {
            events.disable(&INTERRUPTED);
        }
        Ok(events)
    }

    fn record_entries(&self, vcpus: &[usize]) -> Result<(), KvmEventsError> {
        let [entry, injection] = INTERRUPTED;
        let conditions: Vec<String> = vcpus
            .iter()
            .map(|cpu| format!("vcpu_id == {cpu}"))
            .collect();
        if conditions.is_empty() {
            return Ok(());
        }
        // The host refuses a condition on a field that the event lacks.
        self.write(&format!("events/{entry}/filter"), "rip != 0")?;
        let filter = conditions.join(" || ");
        self.write(&format!("events/{entry}/filter"), &filter)?;
        self.write(&format!("events/{injection}/enable"), "1")?;
        self.write(&format!("events/{entry}/enable"), "1")
    }

    fn disable(&self, events: &[&str]) {
        for event in events {
            let _ = self.write(&format!("events/{event}/enable"), "0");
        }
    }

    fn write(&self, file: &str, value: &str) -> Result<(), KvmEventsError> {
        let path = self.instance.join(file);
        let opened = OpenOptions::new().write(true).open(&path);
        opened
            .and_then(|mut file| file.write_all(value.as_bytes()))
            .map_err(failed("write", &path))
    }

    /// Tells `observer` what has happened since the last time. `vcpu`: which vCPU a thread runs.
    ///
    /// # Errors
    /// The trace cannot be read, or has a line that makes no sense.
    pub(crate) fn report(
        &self,
        observer: &dyn Observer,
        vcpu: impl Fn(i32) -> Option<usize>,
    ) -> Result<(), KvmEventsError> {
        let path = self.instance.join("trace_pipe");
        let mut reader = self
            .reader
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = match reader.pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed("read", &path)(error)),
            };
            let more = buffer.get(..read).unwrap_or_default();
            let taken = reader.trace.read(more, &vcpu, observer);
            taken.map_err(|error| failed("read", &path)(io::Error::other(error)))?;
        }
        // All that belongs to a send has been recorded with it.
        reader.trace.finish(observer);
        Ok(())
    }
}

impl Drop for KvmEvents {
    fn drop(&mut self) {
        self.disable(&EVENTS);
        self.disable(&INTERRUPTED);
        // An instance that is being read cannot be removed.
        if let Ok(null) = File::open("/dev/null") {
            let reader = self.reader.get_mut();
            reader
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .pipe = null;
        }
        let _ = fs::remove_dir(&self.instance);
    }
}

/// Removes what processes left that were killed.
fn sweep(instances: &Path) {
    let Ok(entries) = fs::read_dir(instances) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(NAME));
        let number = process.and_then(|number| number.parse::<u32>().ok());
        if number.is_some_and(|number| !Path::new("/proc").join(number.to_string()).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}
