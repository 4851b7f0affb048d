//! What the fake guest's agent does with a command.

use std::sync::atomic::Ordering::SeqCst;

use ipirig_abi::{Command, KernelText, Role, Status, StormKind};
use ipirig_scenario::EntryKind;

use crate::{Counting, Fake, kernel};

impl Fake<'_> {
    fn storm(&mut self, operations: u64) {
        self.stormed.set(true);
        let isolated = self.isolated();
        let witnesses = self.plan.cpus(Role::Housekeeping);
        for _ in 0..operations - self.script.lazy {
            if !self.script.no_witness && !witnesses.is_empty() {
                for _ in 0..=self.script.further_witness_ipis {
                    self.call(&witnesses, false);
                }
            }
            for _ in 0..self.script.ipis_per_operation {
                self.call(&isolated, true);
            }
        }
        for &cpu in &isolated {
            for _ in 0..self.script.timers {
                self.deliver(cpu, 0xec, false, true);
            }
        }
        for _ in 0..self.script.ipis_in_kernel {
            self.call(&isolated, false);
        }
        for _ in 0..self.script.undeliverable {
            self.call(&[], false);
        }
    }

    /// The storm that the command asks for; its results.
    fn run_storm(&mut self) -> [u64; 4] {
        let [kind, operations, target] =
            [0, 1, 3].map(|at: usize| self.mailbox.control.args[at].load(SeqCst));
        let kind = StormKind::try_from(u32::try_from(kind).unwrap()).unwrap();
        self.targets.push(target);
        let done = operations - self.script.pretended;
        self.storm(done);
        let poke = [0, kernel::POKED, 0, 5, 0, 0];
        let (start, end) = (kernel::UNMAPPED, kernel::UNMAPPED + 0x8000);
        let value = match kind {
            StormKind::StaticKeyFlip => {
                for _ in 0..3 * done {
                    self.change(kernel::TEXT_POKE, poke);
                }
                self.key ^= operations & 1;
                self.key
            }
            StormKind::Vunmap => {
                for _ in 0..done {
                    self.change(kernel::FLUSH, [start, end, 0, 0, 0, 0]);
                }
                self.alias += 0x1111;
                self.alias
            }
            _ => {
                self.change(kernel::TEXT_POKE, poke);
                0
            }
        };
        [operations - self.script.lazy, value, 0, 0]
    }

    pub(crate) fn obey(&mut self, command: Command) {
        let arg = self.mailbox.control.args[0].load(SeqCst);
        let mut results = [0; 4];
        let mut status = Status::Ok;
        match command {
            Command::ReadCounters => self
                .mailbox
                .text
                .set(self.counters(self.stormed.get()).as_bytes()),
            Command::ReadBootCounters => {
                let early = self.script.counters == Counting::BeforeTasks;
                self.mailbox.text.set(self.counters(early).as_bytes());
            }
            Command::ReadInterrupts => self.mailbox.text.set(self.interrupts().as_bytes()),
            Command::ReadVersion => self.mailbox.text.set(b"Linux 6.12.1-fake #1 SMP x86_64"),
            Command::Signal => {
                self.enters(arg as usize, EntryKind::Reschedule.began());
            }
            Command::Storm => results = self.run_storm(),
            Command::LetGo => {
                self.staying.borrow_mut().clear();
                self.let_go.set(true);
            }
            Command::Execute => {
                self.storm(self.script.command_operations);
                results = self.script.command_results.unwrap_or([1, 0, 6, 0]);
                if self.script.fails_to_start {
                    status = Status::Failed;
                    self.mailbox.text.set(b"find nonesuch in the guest");
                    self.mailbox.control.reply.errno.store(2, SeqCst);
                }
            }
            Command::Put => {
                let [path_len, from] =
                    [0, 1].map(|at: usize| self.mailbox.control.args[at].load(SeqCst) as usize);
                let handed: Vec<u8> = self.mailbox.handed.iter().collect();
                let (path, part) = handed.split_at(path_len);
                let path = String::from_utf8(path.to_owned()).unwrap();
                let file = self.files.entry(path).or_default();
                file.truncate(from);
                file.extend(part);
                results = [file.len() as u64 - self.script.bytes_dropped, 0, 0, 0];
            }
            Command::ReadOutput => {
                let all: &[u8] = if self.script.mute { b"" } else { b"hello\n" };
                let rest = all.get(arg as usize..).unwrap_or_default();
                self.mailbox.text.set(rest);
            }
            Command::Trace => {
                let [step, first] =
                    [0, 1].map(|at: usize| self.mailbox.control.args[at].load(SeqCst));
                match self.script.no_tracing {
                    Some(lacks) => {
                        status = Status::Lacking;
                        self.mailbox.text.set(lacks.as_bytes());
                    }
                    None => {
                        let text = self.trace.step(step, first, &self.script);
                        self.mailbox.text.set(text.as_bytes());
                    }
                }
            }
            Command::ReadKernelText => {
                let next = self.mailbox.control.args[1].load(SeqCst) != 0;
                self.parts_read = if next { self.parts_read + 1 } else { 0 };
                let parts = match KernelText::try_from(arg as u32) {
                    Ok(KernelText::Setup) => &[self.script.setup.as_bytes()],
                    Ok(KernelText::Symbols) => {
                        self.names_asked = true;
                        self.script.kernel_text
                    }
                    _ => self.script.kernel_text,
                };
                let part = parts.get(self.parts_read).copied();
                self.mailbox.text.set(part.unwrap_or_default());
            }
            Command::AddressSpaces => results[0] = self.mailbox.control.args[1].load(SeqCst),
            Command::Partition => {
                let says = self.script.partition.unwrap_or("isolated");
                self.mailbox.text.set(says.as_bytes());
            }
            Command::PowerOff
            | Command::Symbols
            | Command::Prepare
            | Command::Occupy
            | Command::Replug => {}
        }
        if let Some((_, what)) = self.script.lacks.filter(|(during, _)| *during == command) {
            status = Status::Lacking;
            self.mailbox.text.set(what.as_bytes());
        }
        if command == Command::Storm && self.script.storm_errno != 0 {
            status = Status::Failed;
            self.mailbox.text.set(b"ioctl:\x1b[31m no memory\n");
        }
        let reply = &self.mailbox.control.reply;
        if command != Command::Execute {
            reply.errno.store(self.script.storm_errno, SeqCst);
        }
        reply
            .status
            .store(self.script.status.unwrap_or(status.into()), SeqCst);
        for (cell, result) in reply.results.iter().zip(results) {
            cell.store(result, SeqCst);
        }
        reply
            .ack
            .store(self.mailbox.control.seq.load(SeqCst), SeqCst);
    }

    /// What the counters say once the storm was there (`stormed`), or before.
    fn counters(&self, stormed: bool) -> String {
        let counting = self.script.counters;
        if counting == Counting::Absent {
            return String::new();
        }
        if counting == Counting::Nonsense {
            return "cpu deferred_text deferred_tlb caught_up\nx y z\n".to_owned();
        }
        let mut text = "cpu deferred_text deferred_tlb caught_up pending\n".to_owned();
        for cpu in 0..self.plan.roles.len() {
            let role = self.plan.roles[cpu];
            let counted = stormed
                && (role == Role::Isolated
                    || role == Role::Housekeeping && counting == Counting::Everywhere)
                && (self.script.ipis_per_operation == 0 || counting == Counting::BeforeTasks)
                && counting != Counting::NothingDeferred;
            let (storm, all) = self.scenario.map_or(("", 0), |scenario| {
                let (storm, windows) = (scenario.storm, scenario.entries.len() as u64);
                (storm.kind.name, storm.operations * windows)
            });
            let (words, tlb) = match (counted, storm) {
                (false, _) => (0, 0),
                (true, "static-key-flip") => (3 * all, 0),
                (true, "vunmap") => (0, all),
                (true, _) => (3 * all, all),
            };
            let caught_up = match counting {
                Counting::NeverCaughtUp => 0,
                _ if self.probes_after == 0 => 0,
                Counting::OneForgotten => (words + tlb).saturating_sub(1),
                _ => words + tlb,
            };
            text += &format!("{cpu} {words} {tlb} {caught_up} 0\n");
        }
        text
    }

    fn interrupts(&self) -> String {
        let cpus = 0..self.plan.roles.len();
        let hidden = if self.stormed.get() {
            self.script.hidden
        } else {
            0
        };
        let header: Vec<String> = cpus.clone().map(|cpu| format!("CPU{cpu}")).collect();
        let calls: Vec<String> = cpus
            .map(|cpu| (self.calls.get(&cpu).unwrap_or(&0) + hidden).to_string())
            .collect();
        format!(
            "  {}\nCAL: {} Function call interrupts\n",
            header.join(" "),
            calls.join(" ")
        )
    }
}
