//! The I/O ports of the machine: a serial port, and the two ways a PC resets itself.
//!
//! For test images there is a device isa-debug-exit besides, where [`Ports::offer_debug_exit`] asks for it.
//!
//! The doorbell ([`ipirig_abi::DOORBELL_PORT`]) is not here: KVM signals an eventfd for it, with no
//! exit to user space.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use vm_superio::serial::{NoEvents, SerialState};
use vm_superio::{Serial, Trigger};

use crate::console::Console;

/// COM1, eight registers.
const COM1: u16 = 0x3f8;
/// Command port of the keyboard controller (`reboot=k`), and the command that resets.
const I8042: u16 = 0x64;
const I8042_RESET: u8 = 0xfe;
/// Reset control register of PC chipsets (`reboot=p`): bit 2 resets.
const CF9: u16 = 0xcf9;
const CF9_RESET: u8 = 1 << 2;

/// NMI status of PC chipsets, and its bits for IOCHK# and SERR#: Linux looks here first for the
/// source of an NMI (`default_do_nmi` of arch/x86/kernel/nmi.c).
const NMI_STATUS: u16 = 0x61;
const NMI_SOURCES: u8 = 0xc0;

/// The device isa-debug-exit of QEMU, where kvm-unit-tests has it (their x86/run).
const DEBUG_EXIT: u16 = 0xf4;

/// What a port write asked of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortWrite {
    Done,
    Reset,
    /// The device isa-debug-exit was written this.
    DebugExit(u32),
}

/// The console is polled: no interrupt ever comes from it.
#[derive(Debug)]
struct NoInterrupt;

impl Trigger for NoInterrupt {
    type E = io::Error;
    fn trigger(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The ports, shared by all vCPUs.
pub(crate) struct Ports {
    serial: Mutex<Serial<NoInterrupt, NoEvents, Console>>,
    debug_exit: AtomicBool,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}

impl Ports {
    pub(crate) fn new(console: Console) -> Self {
        Self {
            serial: Mutex::new(Serial::new(NoInterrupt, console)),
            debug_exit: AtomicBool::new(false),
        }
    }

    /// From now on there is a device isa-debug-exit.
    pub(crate) fn offer_debug_exit(&self) {
        self.debug_exit.store(true, Ordering::Relaxed);
    }

    /// The serial port's registers.
    pub(crate) fn save(&self) -> SerialState {
        let serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
        serial.state()
    }

    /// Goes on with these registers.
    pub(crate) fn restore(&self, state: &SerialState) {
        let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
        let console = serial.writer().clone();
        // Only a state with more input than the port holds is refused, and there is no input here.
        if let Ok(restored) = Serial::from_state(state, NoInterrupt, NoEvents, console) {
            *serial = restored;
        }
    }

    /// A read of `data.len()` bytes. Ports with nothing behind them float high, as on a PC.
    pub(crate) fn read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        let Some(first) = data.first_mut() else {
            return;
        };
        if let Some(offset) = serial_register(port) {
            let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
            *first = serial.read(offset);
        } else if port == I8042 {
            // Both buffers empty: ready for a command.
            *first = 0;
        } else if port == NMI_STATUS {
            // No error line of a bus was ever raised. The rest floats high: a kernel that calibrates
            // its TSC waits for bit 5, the output of a timer that is not there.
            *first &= !NMI_SOURCES;
        }
    }

    /// A write. Errors of the console's log are the log's loss, not the guest's.
    pub(crate) fn write(&self, port: u16, data: &[u8]) -> PortWrite {
        let Some(&first) = data.first() else {
            return PortWrite::Done;
        };
        if let Some(offset) = serial_register(port) {
            let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
            // A string write (REP OUTSB) brings several bytes for the one register.
            for &byte in data {
                let _ = serial.write(offset, byte);
            }
        }
        match (port, first) {
            (I8042, I8042_RESET) => PortWrite::Reset,
            (CF9, value) if value & CF9_RESET != 0 => PortWrite::Reset,
            (DEBUG_EXIT, _) if self.debug_exit.load(Ordering::Relaxed) => {
                let mut code = [0; 4];
                code.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
                PortWrite::DebugExit(u32::from_le_bytes(code))
            }
            _ => PortWrite::Done,
        }
    }
}

fn serial_register(port: u16) -> Option<u8> {
    let offset = port.checked_sub(COM1)?;
    if offset < 8 {
        u8::try_from(offset).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::ConsoleSinks;

    fn ports() -> (Ports, Console) {
        let console = Console::new(&ConsoleSinks::default()).unwrap();
        (Ports::new(console.clone()), console)
    }

    #[test]
    fn no_bus_raises_an_nmi_and_the_timer_that_is_not_there_is_done() {
        let (ports, _) = ports();
        let mut status = [0];
        ports.read(NMI_STATUS, &mut status);
        assert_eq!(status, [0x3f]);
    }

    #[test]
    fn what_is_written_to_com1_is_on_the_console() {
        let (ports, console) = ports();
        for byte in b"hi\n" {
            assert_eq!(ports.write(COM1, &[*byte]), PortWrite::Done);
        }
        assert_eq!(console.tail(1), ["hi"]);
        let mut status = [0];
        ports.read(COM1 + 5, &mut status);
        assert_eq!(status[0] & 0x60, 0x60, "the transmitter is empty");
    }

    #[test]
    fn both_resets_reset_and_nothing_else_does() {
        let (ports, _) = ports();
        assert_eq!(ports.write(I8042, &[0xfe]), PortWrite::Reset);
        assert_eq!(ports.write(CF9, &[0x06]), PortWrite::Reset);
        assert_eq!(ports.write(CF9, &[0x02]), PortWrite::Done);
        assert_eq!(ports.write(I8042, &[0xd1]), PortWrite::Done);
        assert_eq!(ports.write(0x80, &[0xfe]), PortWrite::Done);
    }

    #[test]
    fn a_debug_exit_ends_with_its_code_where_it_was_asked_for() {
        let (ports, _) = ports();
        assert_eq!(ports.write(DEBUG_EXIT, &[7, 0, 0, 0]), PortWrite::Done);
        ports.offer_debug_exit();
        let wide = ports.write(DEBUG_EXIT, &[7, 1, 0, 0]);
        assert_eq!(wide, PortWrite::DebugExit(0x107));
        assert_eq!(ports.write(DEBUG_EXIT, &[5]), PortWrite::DebugExit(5));
    }

    #[test]
    fn empty_ports_float_high_at_any_width() {
        let (ports, _) = ports();
        let mut wide = [0; 4];
        ports.read(0xcfc, &mut wide);
        assert_eq!(wide, [0xff; 4]);
        ports.read(0xcfc, &mut []);
        assert_eq!(ports.write(COM1, &[]), PortWrite::Done);
    }
}
