//! A module that is loaded and unloaded: text is mapped, protected, unmapped and freed.

use std::fs::File;
use std::io::ErrorKind;

use crate::interfaces::Interfaces;
use crate::request::{Progress, StormError, StormRequest};
use ipirig_system::{During, Errno, sys};

/// Below the root, as `guest/build` packs it.
const FILE: &str = "ipirig_dummy.ko";
const NAME: &std::ffi::CStr = c"ipirig_dummy";

pub(crate) fn run(
    interfaces: &Interfaces<'_>,
    request: &StormRequest,
    progress: &mut Progress,
) -> Result<(), StormError> {
    let path = interfaces.root.join(FILE);
    let module = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(StormError::Lacking(format!(
                "the initramfs has no {}",
                path.display()
            )));
        }
        result => result.during(|| format!("open {}", path.display()))?,
    };
    request.each(progress, || {
        match sys::load_module(&module) {
            Err(Errno(libc::ENOSYS)) => {
                return Err(StormError::Lacking("no CONFIG_MODULES".to_owned()));
            }
            result => result.during(|| format!("load {}", path.display()))?,
        }
        match sys::unload_module(NAME) {
            Err(Errno(libc::ENOSYS)) => {
                Err(StormError::Lacking("no CONFIG_MODULE_UNLOAD".to_owned()))
            }
            result => Ok(result.during(|| format!("unload {}", NAME.to_string_lossy()))?),
        }
    })
}
