//! SVM by QEMU's TCG: a microvm with this machine's files over 9P.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};

use crate::relay::{self, Emulator, Limits};
use crate::scratch::Scratch;
use crate::wire::PORT;
use crate::{Ended, Lab, LabError, kernel_words, shown, text, tsc};

const QEMU: &str = "qemu-system-x86_64";
/// The first major version that was seen to arm an SVM guest's debug registers (VMRUN loads DR7):
/// 7.2 does not, 10.0 does. Between them nothing was tried.
const FIRST: u32 = 8;
/// How long a host may say nothing. It speaks every second; a machine with much more to do than it can may be late
/// to let it.
const SILENCE: Duration = Duration::from_secs(180);
/// How Debian has it.
const INSTALL: &str = "apt-get install qemu-system-x86 (Debian 13), or on Debian 12, with \
    bookworm-backports among its sources, apt-get install -t bookworm-backports qemu-system-x86";

/// Boots the host and runs its job.
pub(crate) fn run(lab: &Lab<'_>) -> Result<Ended, LabError> {
    check_version()?;
    let scratch = Scratch::new()?;
    let job = lab.job.write(scratch.path())?;
    let console = match &lab.console {
        Some(path) => path.clone(),
        None => scratch.path().join("console"),
    };

    let pair = UnixStream::pair().map_err(LabError::io("make a socket"))?;
    let (ours, theirs) = (pair.0, OwnedFd::from(pair.1));
    // QEMU inherits it; nothing else is started meanwhile.
    fcntl_setfd(&theirs, FdFlags::empty())
        .map_err(|error| LabError::io("pass a socket on")(error.into()))?;
    let arguments = arguments(lab, &console, &job, theirs.as_raw_fd())?;
    let mut command = Command::new(QEMU);
    command
        .args(&arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let emulator = Emulator::start(command, format!("{QEMU} {}", shown(&arguments)))?;
    // Else the end of QEMU would not be the end of the port.
    drop(theirs);
    let to_host = ours.try_clone().map_err(LabError::io("share a socket"))?;
    let limits = Limits {
        boot: lab.boot_timeout,
        silence: Some(SILENCE),
        console: &console,
        interrupt: lab.interrupt,
    };
    relay::relay(emulator, ours, to_host, limits)
}

fn arguments(
    lab: &Lab<'_>,
    console: &Path,
    job: &Path,
    port: i32,
) -> Result<Vec<OsString>, LabError> {
    let mut words = kernel_words(&text(job)?, &text(&lab.init)?);
    words.insert_str(
        0,
        "rw root=root rootfstype=9p \
         rootflags=trans=virtio,version=9p2000.L,msize=512000,cache=loose ",
    );
    if let Some(khz) = tsc::khz() {
        words.insert_str(0, &format!("tsc_early_khz={khz} "));
    }
    let mut serial = OsString::from("file:");
    serial.push(comma(console));
    let arguments: [&[&OsStr]; 5] = [
        // One translating thread a CPU: on one thread for all, a CPU that spins keeps the others from running for a
        // tenth of a second each time. All that TCG has, SVM with nested paging included.
        &["-accel", "tcg,thread=multi", "-cpu", "max"].map(OsStr::new),
        &[
            "-M",
            "microvm,acpi=off,pcie=off,usb=off,x-option-roms=off",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]
        .map(OsStr::new),
        &[
            "-fsdev",
            "local,id=root,path=/,security_model=none,multidevs=remap",
            "-device",
            "virtio-9p-device,fsdev=root,mount_tag=root",
            "-device",
            "virtio-serial-device",
        ]
        .map(OsStr::new),
        &[OsStr::new("-kernel"), lab.kernel.vmlinux.as_os_str()],
        &[OsStr::new("-serial"), &serial],
    ];
    let mut arguments: Vec<OsString> = arguments
        .concat()
        .into_iter()
        .map(OsStr::to_owned)
        .collect();
    arguments.extend(
        [
            "-smp".to_owned(),
            lab.cpus.to_string(),
            "-m".to_owned(),
            format!("{}M", lab.memory_mib),
            "-chardev".to_owned(),
            format!("socket,id=port,fd={port}"),
            "-device".to_owned(),
            format!("virtserialport,chardev=port,name={PORT}"),
            "-append".to_owned(),
            words,
        ]
        .map(OsString::from),
    );
    Ok(arguments)
}

/// In QEMU's options a comma stands for itself when doubled.
fn comma(path: &Path) -> PathBuf {
    PathBuf::from(path.to_string_lossy().replace(',', ",,"))
}

/// That QEMU is there, and is not one that is known not to do.
fn check_version() -> Result<(), LabError> {
    let output = Command::new(QEMU)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    let Ok(output) = output else {
        return Err(LabError::Missing {
            program: QEMU,
            install: INSTALL.to_owned(),
        });
    };
    let text = String::from_utf8_lossy(&output.stdout);
    match major(&text) {
        Some(version) if version < FIRST => Err(LabError::TooOld {
            found: text.lines().next().unwrap_or(QEMU).to_owned(),
            lacks: "breakpoints in a guest of SVM",
            install: INSTALL.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The major version in `QEMU emulator version 10.0.2 (...)`.
fn major(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("version ")?;
    rest.split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_qemu_says_of_itself() {
        let debian = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\n";
        assert_eq!(major(debian), Some(10));
        assert_eq!(major("QEMU emulator version 7.2.15 (Debian)"), Some(7));
        assert_eq!(major("something else"), None);
    }
}
