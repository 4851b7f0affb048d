//! What the kernel says of itself, part by part: longer than the mailbox's text.

use std::cell::RefCell;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use ipirig_abi::{KernelText, TEXT_LEN};

use crate::failure::{During, Failure};
use crate::setting;

/// With anything but 0 in it, `/proc/kallsyms` may have zeroes for addresses (kernel/kallsyms.c, kallsyms_show_value).
const RESTRICT: &str = "proc/sys/kernel/kptr_restrict";

/// The text that is being read.
#[derive(Debug, Default)]
pub(crate) struct KernelTexts {
    open: RefCell<Option<File>>,
}

impl KernelTexts {
    /// The first part of `text` below `root`, or the one after the part that was read last. Empty at the end,
    /// and where the kernel has no such text.
    pub(crate) fn read(
        &self,
        root: &Path,
        text: KernelText,
        next: bool,
    ) -> Result<Vec<u8>, Failure> {
        let path = root.join(match text {
            KernelText::Symbols => "proc/kallsyms",
            KernelText::Notes => "sys/kernel/notes",
        });
        let mut open = self.open.borrow_mut();
        if !next {
            if text == KernelText::Symbols {
                let restrict = root.join(RESTRICT);
                setting::write(&restrict, "0")
                    .during(|| format!("write 0 to {}", restrict.display()))?;
            }
            *open = match File::open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                file => Some(file.during(|| format!("open {}", path.display()))?),
            };
        }
        let mut part = Vec::with_capacity(TEXT_LEN);
        if let Some(file) = &mut *open {
            file.take(TEXT_LEN as u64)
                .read_to_end(&mut part)
                .during(|| format!("read {}", path.display()))?;
        }
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_text_comes_whole_part_by_part_with_its_addresses_shown() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &[u8]| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let symbols = vec![b'f'; TEXT_LEN + 1];
        write("proc/kallsyms", &symbols);
        write(RESTRICT, b"2");
        let texts = KernelTexts::default();
        let read = |text, next| texts.read(root.path(), text, next).unwrap();
        assert_eq!(read(KernelText::Symbols, false), symbols[1..]);
        assert_eq!(read(KernelText::Symbols, true), b"f");
        assert_eq!(read(KernelText::Symbols, true), b"");
        assert_eq!(read(KernelText::Symbols, false), symbols[1..]);
        assert_eq!(fs::read(root.path().join(RESTRICT)).unwrap(), b"0");
        // A kernel without notes.
        assert_eq!(read(KernelText::Notes, false), b"");
        assert_eq!(read(KernelText::Notes, true), b"");
    }
}
