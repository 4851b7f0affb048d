//! What the kernel that runs says of itself, where its file does not say it: which build it is, and how its
//! functions are called.

use ipirig_abi::{Command, KernelText};
use ipirig_evidence::{Isolation, KernelSetup, SwitchedOff};
use ipirig_image::build_id;
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
        let balanced = self.plan.isolated_at_boot();
        let vcpus = self.plan.roles.len();
        match (
            setup.compare(vcpus, &self.isolated, balanced),
            self.scenario,
        ) {
            (Isolation::Ticks(what) | Isolation::Missing(what), Some(_)) => {
                return Err(Ended::NotIsolated { what });
            }
            (Isolation::NoSuchThing(what), Some(_)) => return Err(Ended::Lacking { what }),
            (
                Isolation::Ticks(what) | Isolation::Missing(what) | Isolation::NoSuchThing(what),
                None,
            )
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
