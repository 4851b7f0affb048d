//! VMX by Bochs: a PC that boots from a CD with what the program needs. One CPU, and all of it
//! interpreted, so that a boot takes minutes; but with EPT, VPID, PCIDs and INVPCID.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::iso::{self, Contents};
use crate::relay::{self, Emulator, Limits};
use crate::scratch::Scratch;
use crate::{Ended, Lab, LabError, kernel_words};

const BOCHS: &str = "bochs";
/// How Debian has it all.
const INSTALL: &str =
    "apt-get install bochs bochsbios bochs-sdl vgabios isolinux syslinux-common genisoimage";
/// A Haswell has EPT, VPID, unrestricted guests, PCIDs and INVPCID.
const MODEL: &str = "corei7_haswell_4770";
/// Emulated instructions a second of emulated time. More makes the host's clock slower than ours, and
/// deadlines in it longer.
const INSTRUCTIONS_A_SECOND: u32 = 400_000_000;
/// How long Bochs may take to connect, which it does first of all.
const CONNECT: Duration = Duration::from_secs(60);
/// What must be there besides the program, and which program needs it.
const PARTS: [(&str, &str); 5] = [
    ("genisoimage", "/usr/bin/genisoimage"),
    ("isolinux", "/usr/lib/ISOLINUX/isolinux.bin"),
    (
        "syslinux-common",
        "/usr/lib/syslinux/modules/bios/ldlinux.c32",
    ),
    ("bochsbios", "/usr/share/bochs/BIOS-bochs-latest"),
    ("vgabios", "/usr/share/vgabios/vgabios.bin"),
];

/// Boots the host and runs its job.
pub(crate) fn run(lab: &Lab<'_>) -> Result<Ended, LabError> {
    check_parts()?;
    let scratch = Scratch::new()?;
    let at = |name: &str| scratch.path().join(name);
    let io = |path: &Path| LabError::io(format!("write {}", path.display()));

    let job = lab.job.write(scratch.path())?;
    let words = format!(
        "root=/dev/sr0 rootfstype=iso9660 ro rootwait {}",
        kernel_words(&crate::text(&job)?, &crate::text(&lab.init)?)
    );
    let mut files = lab.job.files();
    files.extend(lab.files.iter().cloned());
    files.push(job);
    let contents = Contents {
        programs: vec![lab.init.clone(), lab.job.program()],
        files,
        directories: lab.job.directories(),
        kernel: &lab.kernel.bzimage,
        words: &words,
    };
    let (parts, disc) = (at("iso"), at("boot.iso"));
    fs::create_dir(&parts).map_err(io(&parts))?;
    iso::write(&contents, &parts, &disc)?;

    let console = lab.console.clone().unwrap_or_else(|| at("console"));
    let listener =
        TcpListener::bind("127.0.0.1:0").map_err(LabError::io("listen for the emulator"))?;
    let port = listener
        .local_addr()
        .map_err(LabError::io("listen for the emulator"))?
        .port();
    let settings = at("bochsrc");
    let log = at("log");
    let memory = lab.memory_mib.get().min(2048);
    fs::write(&settings, text_of(memory, &disc, &console, &log, port)).map_err(io(&settings))?;
    // Debian's build has the debugger in, which waits for a word to go on.
    let go_on = at("continue");
    fs::write(&go_on, "c\n").map_err(io(&go_on))?;

    let mut command = Command::new(BOCHS);
    command
        .args(["-q", "-f"])
        .arg(&settings)
        .arg("-rc")
        .arg(&go_on)
        .env("SDL_VIDEODRIVER", "dummy")
        .env("SDL_AUDIODRIVER", "dummy")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let emulator = Emulator::start(command, BOCHS.to_owned())?;
    let ours = connection(&listener)?;
    let to_host = ours.try_clone().map_err(LabError::io("share a socket"))?;
    let limits = Limits {
        boot: lab.boot_timeout,
        silence: None,
        console: &console,
        interrupt: lab.interrupt,
    };
    relay::relay(emulator, ours, to_host, limits)
}

fn connection(listener: &TcpListener) -> Result<std::net::TcpStream, LabError> {
    let failed = || LabError::io("be connected to by the emulator");
    listener.set_nonblocking(true).map_err(failed())?;
    let deadline = Instant::now() + CONNECT;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).map_err(failed())?;
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if Instant::now() > deadline {
                    return Err(failed()(std::io::ErrorKind::TimedOut.into()));
                }
                // It connects as soon as it has read its settings.
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(failed()(error)),
        }
    }
}

/// Bochs' settings.
fn text_of(memory: u32, disc: &Path, console: &Path, log: &Path, port: u16) -> String {
    let [disc, console, log] = [disc, console, log].map(|path| path.display().to_string());
    format!(
        "display_library: sdl2
megs: {memory}
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
cpu: model={MODEL}, count=1, ips={INSTRUCTIONS_A_SECOND}, reset_on_triple_fault=0, ignore_bad_msrs=1
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path={disc}, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={console}
com2: enabled=1, mode=socket-client, dev=127.0.0.1:{port}
log: {log}
panic: action=fatal
error: action=ignore
info: action=ignore
clock: sync=none, time0=utc
"
    )
}

fn check_parts() -> Result<(), LabError> {
    let missing = |program| LabError::Missing {
        program,
        install: INSTALL.to_owned(),
    };
    let found = Command::new(BOCHS)
        .arg("--help")
        .stdin(Stdio::null())
        .output();
    if found.is_err() {
        return Err(missing(BOCHS));
    }
    for (package, file) in PARTS {
        if !Path::new(file).exists() {
            return Err(missing(package));
        }
    }
    Ok(())
}
