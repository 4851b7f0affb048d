//! The agent's end of the mailbox and of the doorbell.
#![expect(
    unsafe_code,
    reason = "turns a mapping of /dev/mem into the mailbox, and rings by OUT"
)]

use std::arch::asm;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use ipirig_abi::{
    AgentState, DOORBELL_PORT, MAGIC, MAILBOX_GPA, MAILBOX_SIZE, MAX_CPUS, Mailbox, Role, VERSION,
};

use ipirig_system::{During, Errno, Failure, sys};

/// Which CPU does what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Roles {
    /// Runs the control task.
    pub(crate) control: usize,
    /// Each runs one isolated task.
    pub(crate) isolated: Vec<usize>,
    /// All others, the control CPU among them.
    pub(crate) housekeeping: Vec<usize>,
}

/// Maps the mailbox and checks that it is one.
pub(crate) fn map() -> Result<&'static Mailbox, Failure> {
    // Without O_SYNC: that would make the mapping uncached (drivers/char/mem.c).
    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/mem")
        .during(|| "open /dev/mem (the kernel needs CONFIG_DEVMEM)")?;
    let mapping = sys::map_shared(&memory, MAILBOX_SIZE, MAILBOX_GPA)
        .during(|| format!("map the mailbox at {MAILBOX_GPA:#x} of /dev/mem"))?;
    // SAFETY: the mapping is page-aligned, never goes away and is no smaller than a `Mailbox`
    // (asserted in the ABI). All fields are atomics: any content is valid, and the rig may write
    // at any time.
    let mailbox = unsafe { mapping.cast::<Mailbox>().as_ref() };
    check(mailbox)?;
    Ok(mailbox)
}

fn check(mailbox: &Mailbox) -> Result<(), Failure> {
    let magic = mailbox.header.magic.load(Ordering::Acquire);
    if magic != MAGIC {
        return Err(Failure::new(format!(
            "no mailbox at {MAILBOX_GPA:#x}: its first word is {magic:#x}, not {MAGIC:#x}"
        )));
    }
    let version = mailbox.header.version.load(Ordering::Relaxed);
    if version != VERSION {
        return Err(Failure::new(format!(
            "the rig's mailbox has version {version}, this agent's {VERSION}: rebuild the initramfs"
        )));
    }
    Ok(())
}

/// Reads who is to do what; there must be exactly one control CPU.
pub(crate) fn roles(mailbox: &Mailbox) -> Result<Roles, Failure> {
    let cpus = mailbox.header.cpus.load(Ordering::Relaxed) as usize;
    if cpus > MAX_CPUS {
        return Err(Failure::new(format!(
            "the mailbox tells of {cpus} CPUs, more than {MAX_CPUS}"
        )));
    }
    let mut controls = Vec::new();
    let mut isolated = Vec::new();
    let mut housekeeping = Vec::new();
    for (cpu, slot) in mailbox.cpus.iter().enumerate().take(cpus) {
        let code = slot.role.load(Ordering::Relaxed);
        match Role::try_from(code) {
            Ok(Role::Control) => {
                controls.push(cpu);
                housekeeping.push(cpu);
            }
            Ok(Role::Isolated) => isolated.push(cpu),
            Ok(Role::Housekeeping) => housekeeping.push(cpu),
            Ok(Role::Absent) => {}
            Err(_) => {
                return Err(Failure::new(format!(
                    "CPU {cpu} has role {code}, which is none"
                )));
            }
        }
    }
    match controls[..] {
        [control] => Ok(Roles {
            control,
            isolated,
            housekeeping,
        }),
        _ => Err(Failure::new(format!(
            "the mailbox has {} control CPUs, not 1",
            controls.len()
        ))),
    }
}

/// Marks the agent as failed, with the reason. The doorbell is the caller's.
pub(crate) fn set_failed(mailbox: &Mailbox, reason: &str) {
    mailbox.text.set(reason.as_bytes());
    mailbox
        .header
        .agent
        .store(AgentState::Failed.into(), Ordering::Release);
}

/// Makes the rig look at the mailbox.
#[derive(Debug)]
pub(crate) enum Doorbell {
    /// By `/dev/port`.
    Device(File),
    /// By OUT, which ioperm(2) lets this task execute.
    Out,
}

impl Doorbell {
    /// Opens the I/O port: distributions' kernels for virtual machines come without `/dev/port`.
    pub(crate) fn open() -> Result<Self, Failure> {
        Self::open_below(Path::new("/"), || sys::permit_port(DOORBELL_PORT))
    }

    fn open_below(root: &Path, permit: fn() -> Result<(), Errno>) -> Result<Self, Failure> {
        match OpenOptions::new().write(true).open(root.join("dev/port")) {
            Ok(device) => Ok(Self::Device(device)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                permit().during(|| {
                    "ioperm, as there is no /dev/port (the kernel needs CONFIG_DEVPORT or \
                     CONFIG_X86_IOPL_IOPERM)"
                })?;
                Ok(Self::Out)
            }
            Err(error) => Err(error).during(|| "open /dev/port"),
        }
    }

    /// Rings.
    pub(crate) fn ring(&self) -> Result<(), Failure> {
        match self {
            Self::Device(device) => device
                .write_all_at(&[1], DOORBELL_PORT.into())
                .during(|| format!("write port {DOORBELL_PORT:#x} of /dev/port")),
            Self::Out => {
                // SAFETY: `open` got permission for the port of this task, which is the only one that rings.
                unsafe {
                    asm!("out dx, al", in("dx") DOORBELL_PORT, in("al") 1_u8,
                         options(nomem, nostack, preserves_flags));
                }
                Ok(())
            }
        }
    }
}

/// A mailbox in ordinary memory.
#[cfg(test)]
pub(crate) fn in_memory() -> Box<Mailbox> {
    let layout = std::alloc::Layout::new::<Mailbox>();
    // SAFETY: the layout is not empty and is the box's own; all fields are atomic integers, for
    // which zero is valid.
    unsafe {
        let memory = std::alloc::alloc_zeroed(layout).cast::<Mailbox>();
        assert!(!memory.is_null(), "out of memory");
        Box::from_raw(memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_roles(roles: &[u32]) -> Box<Mailbox> {
        let mailbox = in_memory();
        mailbox
            .header
            .cpus
            .store(roles.len() as u32, Ordering::Relaxed);
        for (slot, &role) in mailbox.cpus.iter().zip(roles) {
            slot.role.store(role, Ordering::Relaxed);
        }
        mailbox
    }

    #[test]
    fn a_mailbox_of_this_version_is_accepted_and_any_other_is_refused() {
        let mailbox = in_memory();
        assert_eq!(
            check(&mailbox).unwrap_err().to_string(),
            "no mailbox at 0xd0000000: its first word is 0x0, not 0x676972697069"
        );
        mailbox.header.magic.store(MAGIC, Ordering::Relaxed);
        assert_eq!(
            check(&mailbox).unwrap_err().to_string(),
            format!(
                "the rig's mailbox has version 0, this agent's {VERSION}: rebuild the initramfs"
            )
        );
        mailbox.header.version.store(VERSION, Ordering::Relaxed);
        assert_eq!(check(&mailbox), Ok(()));
    }

    #[test]
    fn roles_are_read_from_the_slots_in_use() {
        let (control, housekeeping, isolated) = (
            Role::Control.into(),
            Role::Housekeeping.into(),
            Role::Isolated.into(),
        );
        let mailbox = with_roles(&[control, housekeeping, isolated, isolated]);
        assert_eq!(
            roles(&mailbox),
            Ok(Roles {
                control: 0,
                isolated: vec![2, 3],
                housekeeping: vec![0, 1]
            })
        );
        mailbox.header.cpus.store(3, Ordering::Relaxed);
        assert_eq!(
            roles(&mailbox),
            Ok(Roles {
                control: 0,
                isolated: vec![2],
                housekeeping: vec![0, 1]
            })
        );
    }

    #[test]
    fn roles_without_exactly_one_control_cpu_are_refused() {
        let control = Role::Control.into();
        for (given, complaint) in [
            (&[][..], "the mailbox has 0 control CPUs, not 1"),
            (&[control, control], "the mailbox has 2 control CPUs, not 1"),
            (&[control, 9], "CPU 1 has role 9, which is none"),
        ] {
            assert_eq!(
                roles(&with_roles(given)).unwrap_err().to_string(),
                complaint
            );
        }
        let mailbox = with_roles(&[control]);
        mailbox.header.cpus.store(65, Ordering::Relaxed);
        assert_eq!(
            roles(&mailbox).unwrap_err().to_string(),
            "the mailbox tells of 65 CPUs, more than 64"
        );
    }

    #[test]
    fn without_dev_port_the_doorbell_is_an_out_if_the_kernel_permits_it() {
        let root = tempfile::tempdir().unwrap();
        let opened = Doorbell::open_below(root.path(), || Ok(())).unwrap();
        assert!(matches!(opened, Doorbell::Out));
        let refused = Doorbell::open_below(root.path(), || Err(Errno(libc::ENOSYS)));
        assert_eq!(
            refused.unwrap_err().to_string(),
            "ioperm, as there is no /dev/port (the kernel needs CONFIG_DEVPORT or \
             CONFIG_X86_IOPL_IOPERM): ENOSYS (Function not implemented)"
        );
        std::fs::create_dir(root.path().join("dev")).unwrap();
        std::fs::write(root.path().join("dev/port"), "").unwrap();
        let opened = Doorbell::open_below(root.path(), || Err(Errno(libc::ENOSYS))).unwrap();
        assert!(matches!(opened, Doorbell::Device(_)));
    }

    #[test]
    fn a_failure_is_in_the_text_and_in_the_state() {
        let mailbox = in_memory();
        set_failed(&mailbox, "mount proc on /proc: ENODEV (No such device)");
        assert_eq!(
            mailbox.header.agent.load(Ordering::Relaxed),
            u32::from(AgentState::Failed)
        );
        assert!(
            mailbox
                .text
                .iter()
                .eq(*b"mount proc on /proc: ENODEV (No such device)")
        );
    }
}
