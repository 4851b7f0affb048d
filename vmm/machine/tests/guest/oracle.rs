//! ICR writes, counted by somebody else: the host's KVM says in its own trace what a guest writes to
//! its APIC's page, and which instructions of a guest it emulates. Neither knows of the machine's APIC.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use ipirig_apic::DeliveryMode;
use ipirig_machine::{ApicMode, Host, Virtualization};

use crate::harness::GuestRecord;
use crate::image::icr_write;
use crate::{Suite, ipis};

const TRACING: &str = "/sys/kernel/tracing";
/// Stores to the APIC's page, with their values: on every KVM, as none has an APIC of its own here.
const MMIO: &str = "kvm/kvm_mmio";
/// Instructions that KVM emulates: WRMSR only where it emulates all of CPL 0.
const EMULATE: &str = "kvm/kvm_emulate_insn";

pub(crate) fn list(suite: &mut Suite) {
    let no_kvm = suite.no_kvm.clone();
    let reason = no_kvm.clone().or_else(|| no_event(MMIO));
    suite.add(
        "xapic::kvm_sees_the_icr_writes_that_the_machine_sees".to_owned(),
        reason,
        kvm_sees_the_values_that_the_machine_sees,
    );
    let emulates =
        Host::probe().is_ok_and(|host| host.facts().virtualization == Virtualization::None);
    let reason = no_kvm
        .or_else(|| suite.no_x2apic.clone())
        .or_else(|| (!emulates).then(|| "KVM does not emulate WRMSR".to_owned()))
        .or_else(|| no_event(EMULATE));
    suite.add(
        "x2apic::kvm_emulates_as_many_icr_writes_as_the_machine_sees".to_owned(),
        reason,
        kvm_emulates_as_many_as_the_machine_sees,
    );
}

/// Why the host's trace cannot be read, if it cannot.
fn no_event(event: &str) -> Option<String> {
    let enable = Path::new(TRACING).join("events").join(event).join("enable");
    let error = fs::OpenOptions::new().write(true).open(&enable).err()?;
    Some(format!(
        "no trace of the host's KVM: {}: {error}",
        enable.display()
    ))
}

/// A trace instance of the host that records what this thread's descendants do.
struct HostTrace(PathBuf);

impl HostTrace {
    fn start(event: &str, filter: &str) -> Self {
        let thread = fs::read_link("/proc/thread-self").unwrap();
        let thread = thread.file_name().unwrap().to_str().unwrap().to_owned();
        let dir = Path::new(TRACING).join(format!("instances/ipirig-test-{thread}"));
        fs::create_dir(&dir).unwrap();
        let trace = Self(dir);
        trace.write("options/event-fork", "1");
        trace.write("set_event_pid", &thread);
        trace.write("buffer_size_kb", "4096");
        trace.write(&format!("events/{event}/filter"), filter);
        trace.write(&format!("events/{event}/enable"), "1");
        trace
    }

    fn write(&self, file: &str, value: &str) {
        let path = self.0.join(file);
        let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all(value.as_bytes())
            .unwrap_or_else(|error| panic!("{value} to {}: {error}", path.display()));
    }

    /// The fields of each event, by the thread that caused it. Fails if one was lost.
    fn stop(self) -> BTreeMap<u32, Vec<String>> {
        self.write("tracing_on", "0");
        let text = fs::read_to_string(self.0.join("trace")).unwrap();
        let counts = text.lines().find(|line| line.starts_with("# entries"));
        let counts = counts.unwrap().split_whitespace().nth(2).unwrap();
        let (kept, written) = counts.split_once('/').unwrap();
        assert_eq!(kept, written, "events were lost");
        let mut events: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            // `    vcpu 0-1234    [001] .....  123.456: kvm_mmio: mmio write len 4 gpa ...`
            let (task, rest) = line.split_once(" [").unwrap();
            let thread = task.trim().rsplit('-').next().unwrap().parse().unwrap();
            let fields = rest.splitn(3, ": ").nth(2).unwrap();
            events.entry(thread).or_default().push(fields.to_owned());
        }
        events
    }
}

impl Drop for HostTrace {
    fn drop(&mut self) {
        // Nothing is to stay behind, whatever became of the test.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Vector and delivery mode of each ICR write, in order, one list for each vCPU that wrote any; the
/// lists are sorted, as the trace does not number vCPUs.
fn by_machine(seen: &GuestRecord) -> Vec<Vec<u64>> {
    let mut by_source: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for event in &seen.ipis {
        let ipi = &event.sent.ipi;
        // The codes of the SDM, vol. 3, figure "Interrupt Command Register".
        let mode = match ipi.mode {
            DeliveryMode::Fixed => 0,
            DeliveryMode::Init => 5,
            DeliveryMode::Startup => 6,
            other => panic!("{other:?}"),
        };
        let list = by_source.entry(ipi.source).or_default();
        list.push(mode << 8 | u64::from(ipi.vector));
    }
    sorted(by_source.into_values())
}

fn sorted(lists: impl Iterator<Item = Vec<u64>>) -> Vec<Vec<u64>> {
    let mut lists: Vec<_> = lists.collect();
    lists.sort();
    lists
}

fn kvm_sees_the_values_that_the_machine_sees() {
    // The low half of the ICR: the store that sends (SDM vol. 3, table "Local APIC Register Address
    // Map"); type 2 is a write.
    let trace = HostTrace::start(MMIO, "type == 2 && gpa == 0xfee00300");
    let mut seen = ipis::ping_pong(ApicMode::Xapic, true, 200);
    let by_kvm = trace.stop().into_values().map(|events| {
        let values = events.iter().map(|fields| {
            let value = fields.rsplit_once("val 0x").unwrap().1;
            u64::from_str_radix(value, 16).unwrap() & 0x7ff
        });
        values.collect()
    });
    let by_kvm = sorted(by_kvm);
    assert_eq!(by_kvm, by_machine(&seen));
    assert!(seen.ipis.len() > 400, "{}", seen.ipis.len());
    // One that the machine forgot would show.
    seen.ipis.pop();
    assert_ne!(by_kvm, by_machine(&seen));
}

fn kvm_emulates_as_many_as_the_machine_sees() {
    let filter = format!("rip == {:#x}", icr_write(true));
    let trace = HostTrace::start(EMULATE, &filter);
    let seen = ipis::ping_pong(ApicMode::X2apic, true, 200);
    let mut by_kvm: Vec<usize> = trace
        .stop()
        .into_values()
        .map(|events| events.len())
        .collect();
    let mut by_machine: Vec<usize> = by_machine(&seen).iter().map(Vec::len).collect();
    by_kvm.sort_unstable();
    by_machine.sort_unstable();
    assert_eq!(by_kvm, by_machine);
    assert!(seen.ipis.len() > 400, "{}", seen.ipis.len());
}
