//! PID 1 of the guest: sets up, runs the isolated tasks, obeys the rig.
//!
//! On a KVM without VMX/SVM, guest kernel code runs several hundred times slower than user code, so
//! each system call, page fault and exec counts: the agent makes few, waits in user space, and does
//! without what std's runtime does before `main`.
//!
//! What this crate does not do: judge, count or time anything. The rig (`ipirig-rig`) does that from
//! outside, through the mailbox (`ipirig-abi`). Storms are `ipirig-storms`, and their kernel side `guest/module`.
//!
//! Each failure goes by name to the mailbox, the doorbell and the console. PID 1 never just exits.

mod behaviour;
mod compat;
mod console;
mod device;
mod exception;
mod execute;
mod guest;
mod kernel_text;
mod mailbox;
mod meter;
mod mounts;
mod not_produced;
mod obey;
mod online;
mod page;
mod partition;
mod put;
mod quiet;
mod relay;
mod signals;
mod sigreturn;
mod spinner;
mod tasks;
mod tracing;

mod entry;

pub use behaviour::{Behaviour, Honest, Obedience};
pub use entry::init;

use std::cell::Cell;
use std::convert::Infallible;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use ipirig_abi::{AgentState, Mailbox};
use ipirig_system::{During, Failure, sys};

use device::Device;
use guest::ThisGuest;
use kernel_text::KernelTexts;
use mailbox::Doorbell;
use obey::{NextAction, Request};
use tasks::Tasks;
use tracing::Recording;

/// The way to the rig, once there is one. Static for the panic hook.
static RIG: OnceLock<Rig> = OnceLock::new();

#[derive(Debug)]
struct Rig {
    mailbox: &'static Mailbox,
    doorbell: Doorbell,
}

impl Rig {
    fn open() -> Result<&'static Self, Failure> {
        mounts::devices()?;
        let mailbox = mailbox::map()?;
        mailbox
            .header
            .agent
            .store(AgentState::Starting.into(), Ordering::Release);
        // Without a doorbell the rig still sees the reason, when it looks.
        let doorbell = Doorbell::open()
            .inspect_err(|failure| mailbox::set_failed(mailbox, &failure.to_string()))?;
        Ok(RIG.get_or_init(|| Self { mailbox, doorbell }))
    }

    /// Reports a dead isolated task; its slot and the mailbox's text say so already.
    fn task_died(&self, failure: &Failure) -> Result<(), Failure> {
        console::say(&failure.to_string());
        self.doorbell.ring()
    }

    /// Reports the end. `false` if the rig may not have heard.
    fn failed(&self, reason: &str) -> bool {
        mailbox::set_failed(self.mailbox, reason);
        self.doorbell.ring().is_ok()
    }
}

/// All that PID 1 does; the failure that ends it comes back.
fn run(behaviour: &dyn Behaviour) -> Failure {
    let ended = Rig::open().and_then(|rig| serve(rig, behaviour));
    match ended {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

/// Reports why PID 1 cannot go on, and goes no further.
fn end(reason: &str) -> ! {
    console::say(reason);
    if RIG.get().is_some_and(|rig| rig.failed(reason)) {
        // The rig stops the machine when it has seen enough.
        sys::sleep_forever()
    }
    // A stopped machine is all that the rig can still notice.
    let errno = sys::reboot();
    console::say(&format!("reboot: {errno}"));
    sys::sleep_forever()
}

fn serve(rig: &'static Rig, behaviour: &dyn Behaviour) -> Result<Infallible, Failure> {
    let mailbox = rig.mailbox;
    mounts::kernel()?;
    online::all(mailbox.header.cpus.load(Ordering::Relaxed) as usize)?;
    let roles = mailbox::roles(mailbox)?;
    let cpu = roles.control;
    sys::pin(cpu).during(|| format!("pin the control task to CPU {cpu} (is the CPU online?)"))?;
    let device = Device::load()?;
    mailbox
        .header
        .module
        .store(device.is_some().into(), Ordering::Relaxed);
    let boot_counters = guest::counters()?;
    // Whether isolated CPUs are to have tasks.
    let isolated = if is_none(ipirig_abi::TASKS) {
        &[]
    } else {
        &roles.isolated[..]
    };
    let tasks = Tasks::start(mailbox, isolated, device.as_ref())?;
    let mut guest = ThisGuest {
        tasks,
        device,
        boot_counters,
        housekeeping: roles.housekeeping,
        symbols: Cell::default(),
        recording: Recording::default(),
        texts: KernelTexts::default(),
        mailbox,
    };
    // With the tasks at work: to stop the deadline server of a CPU without a fair task makes 6.12
    // take its bandwidth off twice, and warn (dl_server_stop).
    let root = Path::new("/");
    let written = if is_none(ipirig_abi::SETTINGS) {
        Vec::new()
    } else {
        let mut written = quiet::apply(root, isolated);
        quiet::put_first(&mut written, |cpu| {
            guest.tasks.pid(cpu as u64).and_then(sys::put_first)
        });
        written
    };
    // A kernel without a log says nothing.
    let log = sys::kernel_log().unwrap_or_default();
    guest.texts.setup = kernel_text::setup(root, &log, &written);

    behaviour.ready(mailbox);
    mailbox
        .header
        .agent
        .store(AgentState::Ready.into(), Ordering::Release);
    rig.doorbell.ring()?;

    let mut seen = 0;
    loop {
        if let Some(request) = Request::newer_than(seen, &mailbox.control) {
            seen = request.seq();
            obey(rig, &guest, &request, behaviour)?;
        }
        for failure in guest.tasks.bury(rig.mailbox) {
            rig.task_died(&failure)?;
        }
    }
}

/// Whether a parameter of the kernel's command line is `none`. The kernel hands those that it does not know to init as
/// environment variables.
fn is_none(parameter: &str) -> bool {
    std::env::var_os(parameter).is_some_and(|value| value == "none")
}

fn obey(
    rig: &Rig,
    guest: &ThisGuest,
    request: &Request,
    behaviour: &dyn Behaviour,
) -> Result<(), Failure> {
    let (answer, then) = request.obey_as(behaviour, guest);
    answer.post(request, rig.mailbox);
    rig.doorbell.ring()?;
    match then {
        NextAction::Wait => Ok(()),
        NextAction::PowerOff => Err(Failure::of("reboot", sys::reboot())),
    }
}
