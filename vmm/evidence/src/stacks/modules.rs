//! Where the kernel has loaded its modules, found in its memory: the list `modules` of
//! kernel/module/main.c.

use ipirig_blame::{Memory, Module};
use ipirig_image::{KERNEL_HALF, ModuleFile, STRUCT_MODULE_LIST, STRUCT_MODULE_NAME};

/// Most modules of the list that are looked at.
const MODULES: usize = 1024;

/// Those of `files` that are on the list whose head is at `list`.
pub(super) fn loaded(list: u64, files: &[ModuleFile], memory: &dyn Memory) -> Vec<Module> {
    let mut found = Vec::new();
    let mut link = word(memory, list);
    for _ in 0..MODULES {
        let Some(here) = link.filter(|&here| here != list && here >= KERNEL_HALF) else {
            break;
        };
        found.extend(module(here.wrapping_sub(STRUCT_MODULE_LIST), files, memory));
        link = word(memory, here);
    }
    found
}

/// The one of `files` whose `struct module` is at `address`.
fn module(address: u64, files: &[ModuleFile], memory: &dyn Memory) -> Option<Module> {
    let mut name = [0; STRUCT_MODULE_NAME.end - STRUCT_MODULE_NAME.start];
    let at = address.wrapping_add(STRUCT_MODULE_NAME.start as u64);
    if !memory.read(at, &mut name) {
        return None;
    }
    let name = name.split(|&byte| byte == 0).next()?;
    let named = |file: &&ModuleFile| file.name().map(str::as_bytes) == Some(name);
    let file = files.iter().find(named)?;
    let exit = word(memory, address.wrapping_add(file.exit_pointer()?))?;
    Some(Module {
        name: file.name()?.to_owned(),
        code: file.load(&file.code_at(exit)?),
    })
}

fn word(memory: &dyn Memory, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    memory
        .read(address, &mut bytes)
        .then(|| u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const LIST: u64 = 0xffff_ffff_8200_0000;

    /// Every link leads on to another one, and none back to the head.
    #[derive(Default)]
    struct Endless {
        reads: Cell<usize>,
    }

    impl Memory for Endless {
        fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
            self.reads.set(self.reads.get() + 1);
            let word = address.wrapping_add(0x40).to_le_bytes();
            for (byte, value) in buffer.iter_mut().zip(word.into_iter().cycle()) {
                *byte = value;
            }
            true
        }
    }

    /// One word everywhere.
    struct Same(u64);

    impl Memory for Same {
        fn read(&self, _address: u64, buffer: &mut [u8]) -> bool {
            buffer.copy_from_slice(&self.0.to_le_bytes().repeat(10)[..buffer.len()]);
            true
        }
    }

    #[test]
    fn a_list_without_end_is_left_after_a_while() {
        let memory = Endless::default();
        assert!(loaded(LIST, &[], &memory).is_empty());
        // The head, then a name and a link each.
        assert_eq!(memory.reads.get(), 1 + 2 * MODULES);
    }

    #[test]
    fn a_list_that_is_empty_or_leads_out_of_the_kernel_has_no_modules() {
        for link in [LIST, 0, 0x40_0000] {
            assert!(loaded(LIST, &[], &Same(link)).is_empty());
        }
    }
}
