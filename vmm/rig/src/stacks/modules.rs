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
