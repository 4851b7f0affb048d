//! What the kernel that runs says of itself, where its file does not say it: which build it is, and how its
//! functions are called.

use ipirig_abi::{Command, KernelText};
use ipirig_image::build_id;

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
    ///
    /// [`Ended::OtherBuild`], and what ends a run anyway. A guest that cannot say is no error.
    pub(super) fn identify(&mut self) -> Result<(), Ended> {
        let nameless = self.ledger.stacks().is_nameless();
        if self.plan.build_id.is_none() && !nameless {
            return Ok(());
        }
        self.enter(Phase::Identify);
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
    use super::super::{Start, conduct, fake_kernel};
    use super::*;

    const NOTES: &[u8] = b"\x04\0\0\0\x02\0\0\0\x03\0\0\0GNU\0\xab\xcd\0\0";

    fn ending(build_id: Option<&str>, parts: &'static [&'static [u8]]) -> Option<String> {
        let mut plan = plan("static-key-flip", None);
        plan.build_id = build_id.map(str::to_owned);
        let script = Script {
            kernel_text: parts,
            ..Script::default()
        };
        let ledger = Ledger::new(plan.roles.len(), DETAILS);
        let mut guest = Fake::new(&plan, &ledger, script);
        let layout = Box::new(fake_kernel::layout);
        let ended = conduct(&mut guest, &plan, Start::Boot, layout, &ledger, &|_| {});
        ended.err().map(|ended| ended.to_string())
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

    /// What comes of a text in these parts.
    fn text(parts: &'static [&'static [u8]]) -> Result<Vec<u8>, String> {
        let plan = plan("static-key-flip", None);
        let ledger = Ledger::new(plan.roles.len(), DETAILS);
        let script = Script {
            kernel_text: parts,
            ..Script::default()
        };
        let mut guest = Fake::new(&plan, &ledger, script);
        let mut conductor = Conductor::new(&mut guest, &plan, &ledger, &|_| {});
        conductor.enter(Phase::Identify);
        conductor.kernel_text(KernelText::Symbols).unwrap()
    }

    #[test]
    fn a_text_is_put_together_and_one_without_an_end_is_left() {
        assert_eq!(text(&[b"a T", b" _text"]), Ok(b"a T _text".to_vec()));
        assert_eq!(text(&[]), Ok(Vec::new()));
        static ENDLESS: [&[u8]; PARTS_MAX + 1] = [b"x"; PARTS_MAX + 1];
        assert_eq!(text(&ENDLESS), Err("it has no end".to_owned()));
    }
}
