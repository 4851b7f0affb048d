//! A guest that commands act on, in ordinary memory.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::Duration;

use ipirig_abi::module::{LetGo, Move, Trigger};
use ipirig_abi::{KernelText, TraceStep};
use ipirig_storms::{Interfaces, StormError, Symbols, Triggers};
use ipirig_system::{Errno, Failure};

use crate::execute::Executed;
use crate::obey::Guest;
use crate::tracing::Step;

/// A module in ordinary memory that keeps the real one's bounds.
#[derive(Debug, Default)]
pub(super) struct FakeModule {
    pub(super) calls: RefCell<Vec<String>>,
    pub(super) move_fails: Option<Errno>,
    pub(super) trigger_fails: Option<Errno>,
}

impl Triggers for FakeModule {
    fn move_alias(&self, request: &mut Move) -> Result<(), Errno> {
        self.calls.borrow_mut().push("move".to_owned());
        request.word = 0x77;
        self.move_fails.map_or(Ok(()), Err)
    }

    fn trigger(&self, request: &mut Trigger) -> Result<(), Errno> {
        self.calls.borrow_mut().push(format!(
            "trigger {} {}x{} at {:#x}, {:#x} {:#x}",
            request.kind,
            request.count,
            request.size,
            request.target,
            request.text_poke,
            request.text_mutex
        ));
        (request.done, request.value) = (request.count, 2);
        match self.trigger_fails {
            Some(errno) => {
                request.done -= 1;
                Err(errno)
            }
            None => Ok(()),
        }
    }

    fn purge(&self) -> Result<(), Errno> {
        self.calls.borrow_mut().push("purge".to_owned());
        Ok(())
    }

    fn let_go(&self, request: &mut LetGo) -> Result<(), Errno> {
        self.calls.borrow_mut().push("let go".to_owned());
        request.staying = 3;
        Ok(())
    }
}

#[derive(Debug, Default)]
pub(super) struct FakeGuest {
    pub(super) module: Option<FakeModule>,
    pub(super) symbols: Cell<Symbols>,
}

impl Guest for FakeGuest {
    fn triggers(&self) -> Option<&dyn Triggers> {
        self.module.as_ref().map(|module| module as &dyn Triggers)
    }

    fn interfaces(&self) -> Interfaces<'_> {
        Interfaces {
            triggers: self.triggers(),
            housekeeping: &[],
            symbols: self.symbols.get(),
            root: Path::new("/nonexistent"),
            mount_tracefs: |_| Err(Errno(libc::ENODEV)),
        }
    }

    fn learn(&self, symbols: Symbols) {
        self.symbols.set(symbols);
    }

    fn counters(&self) -> Result<Vec<u8>, Failure> {
        Ok(Vec::new())
    }

    fn boot_counters(&self) -> Vec<u8> {
        b"cpu deferred_text\n".into()
    }

    fn interrupts(&self) -> Result<Vec<u8>, Failure> {
        Err(Failure::of("read /proc/interrupts", Errno(libc::EIO)))
    }

    fn version(&self) -> Result<Vec<u8>, Failure> {
        Ok(b"Linux 6.12 #1 x86_64".into())
    }

    fn kernel_text(&self, text: KernelText, next: bool) -> Result<Vec<u8>, Failure> {
        match (text, next) {
            (KernelText::Symbols, false) => Ok(b"ffffffff81000000 T _text\n".into()),
            (KernelText::Symbols, true) => Ok(Vec::new()),
            _ => Err(Failure::of("read notes", Errno(libc::EIO))),
        }
    }

    fn add_address_spaces(&self, cpu: u64, count: u64) -> Result<u64, StormError> {
        match self.module {
            Some(_) if cpu == 1 => Ok(count),
            Some(_) => Err(Failure::of("start processes", Errno(libc::EINVAL)).into()),
            None => Err(StormError::NoModule),
        }
    }

    fn occupy(&self, cpu: u64) -> Result<(), Failure> {
        match cpu {
            1 => Ok(()),
            _ => Err(Failure::of("run a loop", Errno(libc::EINVAL))),
        }
    }

    fn replug(&self, cpu: u64) -> Result<(), Failure> {
        match cpu {
            2 => Ok(()),
            _ => Err(Failure::of("take a CPU offline", Errno(libc::ENOENT))),
        }
    }

    fn partition(&self, cpus: u64) -> Result<Vec<u8>, StormError> {
        match cpus {
            4 => Ok(b"isolated".into()),
            _ => Err(StormError::Lacking("no cpusets".into())),
        }
    }

    fn put(&self, path_len: u64, from: u64, mode: u64) -> Result<u64, Failure> {
        match path_len {
            0 => Err(Failure::new("the file has no name")),
            _ => Ok(path_len + from + mode),
        }
    }

    fn execute(&self, limit: Duration) -> Result<Executed, Failure> {
        if limit.is_zero() {
            return Err(Failure::of("find nonesuch", Errno(libc::ENOENT)));
        }
        Ok(Executed {
            ending: ipirig_abi::Ending::Exited,
            code: 3,
            printed: limit.as_millis() as u64,
        })
    }

    fn output(&self, from: u64) -> Result<Vec<u8>, Failure> {
        Ok(format!("from {from}").into())
    }

    fn signal(&self, cpu: u64) -> Result<(), Failure> {
        if cpu == 1 {
            return Ok(());
        }
        Err(Failure::of(
            format!("signal the isolated task of CPU {cpu}"),
            Errno(libc::ESRCH),
        ))
    }

    fn trace(&self, step: Step) -> Result<Vec<u8>, StormError> {
        match step.kind {
            TraceStep::Stats => Ok(format!("stats of {}", step.args[0]).into()),
            TraceStep::Read => Err(Failure::of("read trace", Errno(libc::EBUSY)).into()),
            _ => Err(StormError::Lacking("no CONFIG_TRACING".to_owned())),
        }
    }
}
