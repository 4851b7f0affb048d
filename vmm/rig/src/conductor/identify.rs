//! What the kernel that runs says of itself, where its file does not say it: which build it is, and how its
//! functions are called.

use ipirig_abi::{Command, KernelText};
use ipirig_evidence::{Isolation, KernelSetup, SwitchedOff};
use ipirig_image::build_id;
use ipirig_scenario::Mode;
use ipirig_scenario::cmdline::quieting;

use super::{Conductor, Ended, Phase};

/// Most bytes of a text, and most parts that it may come in. `/proc/kallsyms` of the largest kernels stays below a
/// quarter of both.
const TEXT_MAX: usize = 64 << 20;
const PARTS_MAX: usize = 1 << 13;

impl Conductor<'_> {
    /// Compares the kernel's build id with that of the vmlinux that was given for it, and has the guest say the
    /// kernel's symbols where nothing else has them.
    ///
    /// # Errors
    /// [`Ended::OtherBuild`], and what ends a run anyway. A guest that cannot say is no error.
    pub(super) fn identify(&mut self) -> Result<(), Ended> {
        let nameless = self.ledger.stacks().is_nameless();
        if let Some(given) = self.plan.build_id.clone() {
            let notes = self.kernel_text(KernelText::Notes)?.unwrap_or_default();
            if let Some(running) = build_id(&notes).filter(|id| id.to_string() != given) {
                return Err(Ended::OtherBuild { running, given });
            }
        }
        if nameless {
            let text = self
                .kernel_text(KernelText::Symbols)?
                .and_then(|text| String::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned()));
            self.ledger
                .stacks()
                .name(text.as_deref().map_err(Clone::clone));
        }
        Ok(())
    }

    /// How the kernel is set up, if the guest says so: for a scenario as planned, or the run ends.
    ///
    /// # Errors
    /// [`Ended::NotIsolated`], [`Ended::Lacking`], and what ends a run anyway.
    pub(super) fn setup(&mut self) -> Result<Option<KernelSetup>, Ended> {
        self.enter(Phase::Identify);
        let text = self.kernel_text(KernelText::Setup)?.unwrap_or_default();
        let Some(mut setup) = KernelSetup::parse(&String::from_utf8_lossy(&text)) else {
            return Ok(None);
        };
        let balanced = self.plan.isolated_in != Mode::Replugged;
        match (setup.compare(&self.isolated, balanced), self.scenario) {
            (Isolation::Ticks(what), Some(_)) => return Err(Ended::NotIsolated { what }),
            (Isolation::NoSuchThing(what), Some(_)) => return Err(Ended::Lacking { what }),
            (Isolation::Ticks(what) | Isolation::NoSuchThing(what), None)
            | (Isolation::Balanced(what), _) => setup.differences.push(what),
            (Isolation::AsPlanned, _) => setup.differences.extend(setup.complaints()),
        }
        let words = quieting(self.plan).into_iter();
        let words = words.map(|(word, would)| SwitchedOff::by_word(word, would));
        setup.switched_off.splice(0..0, words);
        Ok(Some(setup))
    }

    /// A text of the kernel's, as the guest hands it over; the inner error is why it cannot.
    fn kernel_text(&mut self, text: KernelText) -> Result<Result<Vec<u8>, String>, Ended> {
        let code = u64::from(u32::from(text));
        let mut whole = Vec::new();
        for part in 0..PARTS_MAX as u64 {
            match self.command(Command::ReadKernelText, [code, part.min(1), 0, 0]) {
                Ok(_) => {}
                Err(Ended::Command { text: why, .. } | Ended::Lacking { what: why }) => {
                    return Ok(Err(why));
                }
                Err(ended) => return Err(ended),
            }
            let before = whole.len();
            whole.extend(self.guest.mailbox().text.iter());
            if whole.len() == before {
                return Ok(Ok(whole));
            }
            if whole.len() > TEXT_MAX {
                break;
            }
        }
        Ok(Err("it has no end".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use ipirig_evidence::ledger::{DETAILS, Ledger};

    use super::super::fake::{Fake, Script, plan};
    use ipirig_evidence::Evidence;

    use super::super::{Start, conduct, fake_kernel};
    use super::*;

    const NOTES: &[u8] = b"\x04\0\0\0\x02\0\0\0\x03\0\0\0GNU\0\xab\xcd\0\0";

    fn run(build_id: Option<&str>, script: Script) -> Result<Evidence, Ended> {
        let mut plan = plan("static-key-flip", None);
        plan.build_id = build_id.map(str::to_owned);
        let ledger = Ledger::new(plan.roles.len(), DETAILS);
        let mut guest = Fake::new(&plan, &ledger, script);
        let layout = Box::new(fake_kernel::layout);
        conduct(&mut guest, &plan, Start::Boot, layout, &ledger, &|_| {})
    }

    fn ending(build_id: Option<&str>, parts: &'static [&'static [u8]]) -> Option<String> {
        let script = Script {
            kernel_text: parts,
            ..Script::default()
        };
        Some(run(build_id, script).err()?.to_string())
    }

    #[test]
    fn a_kernel_that_did_not_isolate_as_planned_ends_a_scenario_s_run() {
        let ending = |setup| {
            let script = Script {
                setup,
                ..Script::default()
            };
            match run(None, script) {
                Ok(evidence) => evidence.setup.unwrap_or_default().differences.join("; "),
                Err(ended @ Ended::NotIsolated { .. }) => format!("error: {ended}"),
                Err(ended @ Ended::Lacking { .. }) => format!("lacking: {ended}"),
                Err(ended) => panic!("{ended}"),
            }
        };
        let shown = |setup| ending(setup).split(" vCPUs").next().map(str::to_owned);
        for (setup, expected) in [
            ("nohz_full\t2\nisolated\t1-2\n", ""),
            (
                "nohz_full\t1\n",
                "error: the kernel keeps its tick on isolated",
            ),
            (
                "online\t0-2\n",
                "lacking: the kernel keeps its tick on isolated",
            ),
            ("nohz_full\t2\n", "the kernel balances load onto isolated"),
            ("", ""),
        ] {
            assert_eq!(shown(setup).as_deref(), Some(expected), "{setup:?}");
        }
    }

    #[test]
    fn a_kernel_of_another_build_than_the_vmlinux_ends_the_run() {
        assert_eq!(ending(Some("abcd"), &[NOTES]), None);
        assert_eq!(
            ending(Some("abce"), &[NOTES]).as_deref(),
            Some(
                "the guest's kernel has build id abcd and --vmlinux abce: they are not of one build"
            )
        );
        // One without a build id was compared by its version, before it was booted.
        assert_eq!(ending(Some("abce"), &[]), None);
        assert_eq!(ending(None, &[NOTES]), None);
    }

    #[test]
    fn a_text_is_put_together_and_one_without_an_end_is_left() {
        static PARTS: [&[u8]; 2] = [NOTES.split_at(9).0, NOTES.split_at(9).1];
        assert!(ending(Some("abce"), &PARTS).is_some());
        static ENDLESS: [&[u8]; PARTS_MAX + 1] = [b"x"; PARTS_MAX + 1];
        assert_eq!(ending(Some("abce"), &ENDLESS), None);
    }
}
