//! What a conductor asks of a guest, answered by a fake one.

use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use ipirig_abi::{AgentState, Command, Mailbox, TaskState};
use ipirig_entry::{Began, Paging, Record};
use ipirig_machine::{Line, StopReason, Wakeup, clock};
use ipirig_scenario::{EntryKind, Trigger};

use ipirig_rig::conductor::{Failure, Guest, VcpuSample};

use crate::{Fake, Moment, kernel, trace};

impl Guest for Fake<'_> {
    fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    fn wait(&mut self, deadline: Instant) -> Result<Wakeup, Failure> {
        if self.gone.get() {
            return Ok(Wakeup::Stopped(StopReason::TripleFault { cpu: 1 }));
        }
        let moment = self.moment();
        let storm = matches!(
            moment,
            Some(Moment::Command(Command::Storm | Command::Execute))
        );
        if !(storm && self.script.heart_stops) {
            self.beat();
        }
        if self.script.never_quiet {
            for cpu in self.isolated() {
                self.deliver(cpu, 0xec, false, true);
            }
        }
        if let Some((when, text)) = self.script.fails
            && moment == Some(when)
        {
            self.mailbox.text.set(text.as_bytes());
            self.mailbox
                .header
                .agent
                .store(AgentState::Failed.into(), SeqCst);
            return Ok(Wakeup::Doorbell);
        }
        if moment.is_some() && moment == self.script.stops_in {
            return Ok(Wakeup::Stopped(
                if self.script.unknown_instruction.is_empty() {
                    StopReason::TripleFault { cpu: 1 }
                } else {
                    StopReason::InternalError {
                        cpu: 1,
                        suberror: 1,
                        instruction: self.script.unknown_instruction.to_vec(),
                    }
                },
            ));
        }
        if moment.is_some() && moment == self.script.interrupted_in {
            if self.mailbox.control.args[1].load(SeqCst) == 1 {
                self.obey(Command::Execute);
            }
            return Ok(Wakeup::Interrupted);
        }
        match moment {
            Some(Moment::Boot) if !self.script.silent => {
                self.get_ready();
                Ok(Wakeup::Doorbell)
            }
            Some(Moment::Command(command)) if !self.script.deaf => {
                self.obey(command);
                Ok(Wakeup::Doorbell)
            }
            Some(Moment::Order) if self.script.task_dies => {
                let text = b"the isolated task of CPU 2 was killed by SIGSEGV";
                self.mailbox.text.set(text);
                let task = &self.mailbox.cpus[2].task;
                task.state.store(TaskState::Failed.into(), SeqCst);
                Ok(Wakeup::Doorbell)
            }
            // No doorbell: isolated tasks make no exits.
            Some(Moment::Order) if !self.script.deaf => {
                self.carry_out_orders();
                Ok(Wakeup::Deadline)
            }
            _ => {
                std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
                Ok(Wakeup::Deadline)
            }
        }
    }

    fn save(&self, key: &str, file: &mut File) -> Result<(), Failure> {
        Ok(file.write_all(key.as_bytes())?)
    }

    fn settle(&mut self) -> Result<(), Failure> {
        self.settled = true;
        Ok(())
    }

    fn sample(&self, cpu: usize) -> Option<VcpuSample> {
        assert!(self.settled, "looked at before it was pinned");
        self.beat();
        let handler = self.stormed.get() && self.in_handler.get() > 0;
        if handler {
            self.in_handler.set(self.in_handler.get() - 1);
        }
        let kernel = handler
            || (self.script.in_kernel && self.stormed.get())
            || !self.plan.isolated_in.has_task()
            || self.staying.borrow().contains(&cpu);
        let (cpl, rip) = if kernel {
            (0, u64::MAX << 31)
        } else {
            (3, 0x40_1000)
        };
        self.isolated().contains(&cpu).then_some(VcpuSample {
            cpl,
            rip,
            timer: self.timer_of(cpu),
        })
    }

    fn moment(&self, cpu: usize) -> Result<clock::Moment, Failure> {
        let time_ns = self.clock.tick(500);
        Ok(clock::Moment {
            tsc: trace::tsc(cpu, time_ns),
            time_ns,
        })
    }

    fn cannot_stop(&self) -> Option<String> {
        let lack = self.script.debug.lack()?;
        Some(format!("this host's KVM {lack}"))
    }

    fn lstar(&self, cpu: usize) -> Result<u64, Failure> {
        if self.script.stops_between {
            self.gone.set(true);
            return Err(format!("vCPU {cpu} does not answer").into());
        }
        Ok(kernel::lstar())
    }

    fn read(&self, _cpu: usize, _address: u64, len: usize) -> Result<Option<Vec<u8>>, Failure> {
        // swapgs; xchg %ax, %ax
        let code = [0x0f, 0x01, 0xf8, 0x66, 0x90];
        Ok(code.get(..len.min(code.len())).map(<[u8]>::to_vec))
    }

    fn kernel_word(&self, _cpu: usize, address: u64) -> Result<Option<u64>, Failure> {
        assert_eq!(address, kernel::VMALLOC_BASE, "nothing else is asked for");
        Ok(self.script.vmalloc_base)
    }

    fn paging(&self, cpu: usize, _vmalloc: &Range<u64>) -> Result<Option<Paging>, Failure> {
        assert!(self.isolated().contains(&cpu));
        Ok(Some(self.script.paging))
    }

    fn watch(&self, cpu: usize, addresses: &[u64]) -> Result<(), Failure> {
        if self.isolated().contains(&cpu) {
            assert!(self.plan.cross_check, "left alone");
            assert!(addresses.is_empty() || addresses == [kernel::CALL_HANDLER]);
            return Ok(());
        }
        assert_eq!(addresses, [kernel::TEXT_POKE, kernel::FLUSH]);
        Ok(())
    }

    fn follow(&self, cpu: usize, _limit: usize, _vectors: &[u8]) -> Result<(), Failure> {
        assert!(self.isolated().contains(&cpu));
        Ok(())
    }

    fn follow_calls(&self, cpu: usize, _limit: usize, _addresses: &[u64]) -> Result<(), Failure> {
        assert!(!self.isolated().contains(&cpu));
        Ok(())
    }

    fn followed(&self, _cpu: usize) -> Result<Option<Vec<Record>>, Failure> {
        Ok(Some(vec![]))
    }

    fn arm(&self, cpu: usize, _limit: usize, _ways: &[Began]) -> Result<(), Failure> {
        assert!(self.stormed.get(), "armed before the storm");
        self.entered.borrow_mut().remove(&cpu);
        self.armed.borrow_mut().insert(cpu);
        Ok(())
    }

    fn disarm(&self, cpu: usize) -> Result<(), Failure> {
        self.armed.borrow_mut().remove(&cpu);
        Ok(())
    }

    fn recorded(&self, _: usize) -> Result<usize, Failure> {
        Ok(self.looks.get())
    }

    fn record(&self, cpu: usize) -> Result<Option<Record>, Failure> {
        if self.looks.get() < self.script.slow_record {
            self.looks.set(self.looks.get() + 1);
            std::thread::sleep(std::time::Duration::from_millis(100));
            return Ok(None);
        }
        let Some(began) = self.entered.borrow_mut().remove(&cpu) else {
            return Ok(None);
        };
        if !self.armed.borrow_mut().remove(&cpu) {
            return Ok(None);
        }
        let script = &self.script;
        let spaces = self
            .scenario
            .map_or(0, |scenario| scenario.vcpus.address_spaces);
        Ok(kernel::record(
            cpu,
            began,
            script.path,
            spaces,
            script.paging,
        ))
    }

    fn raise(&self, cpu: usize, line: Line) -> Result<bool, Failure> {
        let produced = self.produces(Trigger::Raise(line));
        if produced {
            let kind = match line {
                Line::Nmi => EntryKind::Nmi,
                Line::Timer => EntryKind::Timer,
            };
            self.enters(cpu, kind.began());
        }
        Ok(produced)
    }

    fn report(&mut self, reason: StopReason) -> String {
        format!("report: {reason}")
    }
}
