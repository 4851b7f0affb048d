//! What comes of a system call that is not allowed.
use std::cell::Cell;
use std::io::{self, Write};
use std::sync::OnceLock;

use syscalls::Sysno;
use vmm_sys_util::signal::register_signal_handler;

/// The exit code of a fault of the rig.
const RIG_FAULT: libc::c_int = 3;
/// `si_code` of a filter's trap (SYS_SECCOMP, asm-generic/siginfo.h).
const SYS_SECCOMP: libc::c_int = 1;

thread_local! {
    /// The vCPU of this thread. No destructor, so the handler may read it at any time.
    static CPU: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The calling thread is that of vCPU `cpu`.
pub(crate) fn names(cpu: usize) {
    CPU.set(Some(cpu));
}

/// Installs the handler, once a process.
pub(crate) fn install() -> io::Result<()> {
    static DONE: OnceLock<Result<(), i32>> = OnceLock::new();
    DONE.get_or_init(|| register_signal_handler(libc::SIGSYS, on_trap).map_err(|e| e.errno()))
        .map_err(io::Error::from_raw_os_error)
}

/// Says which call it was, and ends the process. Allocates nothing and locks nothing: the thread may have been anywhere.
extern "C" fn on_trap(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands over a live siginfo, as the handler was registered with SA_SIGINFO.
    let call = unsafe { TrapInfo::of(info) };
    let mut text = Message::default();
    let cpu = CPU.get().unwrap_or_default();
    // Writing to the buffer does not fail; what has no room is left out.
    let _ = match call.and_then(|number| Some((number, Sysno::new(number)?))) {
        Some((number, name)) => writeln!(
            text,
            "error: vCPU {cpu}: its thread made the system call {} ({number}), which its sandbox does not allow. \
             That is a bug of ipirig's, or a guest that broke out of it; --no-sandbox does without",
            name.name()
        ),
        None => writeln!(
            text,
            "error: vCPU {cpu}: its thread got SIGSYS, and its sandbox does not say for which system call"
        ),
    };
    let text = text.bytes();
    // SAFETY: both may be called in a handler (signal-safety(7)) and are allowed here; the text is live.
    unsafe {
        libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
        libc::_exit(RIG_FAULT);
    }
}

/// The fields of `siginfo_t` for SIGSYS (`_sigsys` in asm-generic/siginfo.h), which libc does not name.
#[repr(C)]
struct TrapInfo {
    _signo: libc::c_int,
    _errno: libc::c_int,
    code: libc::c_int,
    _address: *const libc::c_void,
    syscall: libc::c_int,
}

impl TrapInfo {
    /// The number of the call, if a filter sent the signal.
    ///
    /// # Safety
    /// `info` is what the kernel gave a handler of SIGSYS.
    unsafe fn of(info: *const libc::siginfo_t) -> Option<usize> {
        // SAFETY: a siginfo is larger, and has these fields at these places for this signal and code; all are plain
        // numbers.
        let info = unsafe { &*info.cast::<Self>() };
        if info.code != SYS_SECCOMP {
            return None;
        }
        usize::try_from(info.syscall).ok()
    }
}

/// A line without an allocation.
struct Message {
    buffer: [u8; 320],
    length: usize,
}

impl Default for Message {
    fn default() -> Self {
        Self {
            buffer: [0; 320],
            length: 0,
        }
    }
}

impl Message {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

impl Write for Message {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.buffer.get_mut(self.length..).unwrap_or_default();
        let taken = bytes.len().min(room.len());
        for (to, from) in room.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.length += taken;
        // What has no room is left out.
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel hands over, of this signal code and call.
    fn info(code: libc::c_int, syscall: libc::c_int) -> libc::siginfo_t {
        // SAFETY: all zeroes is a siginfo.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        info.si_signo = libc::SIGSYS;
        info.si_code = code;
        // SAFETY: a siginfo is larger than its head for this signal, and as aligned.
        unsafe { (*(&raw mut info).cast::<TrapInfo>()).syscall = syscall };
        info
    }

    #[test]
    fn the_call_is_known_if_a_filter_sent_the_signal_and_not_if_another_process_did() {
        let calls =
            [(SYS_SECCOMP, 59), (libc::SI_USER, 59), (SYS_SECCOMP, -1)].map(|(code, syscall)| {
                // SAFETY: as the kernel would hand it over.
                unsafe { TrapInfo::of(&info(code, syscall)) }
            });
        assert_eq!(calls, [Some(59), None, None]);
    }

    #[test]
    fn a_message_has_what_has_room_and_the_rest_is_left_out() {
        let mut text = Message::default();
        for _ in 0..100 {
            text.write_all(b"1-two").unwrap();
        }
        assert_eq!(text.bytes(), "1-two".repeat(64).as_bytes());
    }
}
