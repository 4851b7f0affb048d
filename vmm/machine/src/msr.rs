//! MSRs of a vCPU that is not running, one at a time.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

/// `IA32_TIME_STAMP_COUNTER` (SDM vol. 4, table 2-2).
pub(crate) const TSC: u32 = 0x10;
/// `IA32_STAR`: the selectors of SYSCALL and SYSRET. `STAR`, `LSTAR`, `CSTAR`, `FMASK` are
/// consecutive (SDM vol. 4, table 2-2).
pub(crate) const STAR: u32 = 0xc000_0081;
/// `IA32_LSTAR`: where SYSCALL goes.
pub(crate) const LSTAR: u32 = 0xc000_0082;
/// `IA32_FMASK`: the flags that SYSCALL clears.
pub(crate) const FMASK: u32 = 0xc000_0084;

/// Reads one.
pub(crate) fn read(fd: &VcpuFd, index: u32) -> Result<u64, errno::Error> {
    let mut msrs = one(index, 0)?;
    fd.get_msrs(&mut msrs)?;
    Ok(msrs.as_slice().first().map_or(0, |entry| entry.data))
}

/// Writes one. `false`: KVM does not take this value.
pub(crate) fn write(fd: &VcpuFd, index: u32, data: u64) -> Result<bool, errno::Error> {
    Ok(fd.set_msrs(&one(index, data)?)? == 1)
}

fn one(index: u32, data: u64) -> Result<Msrs, errno::Error> {
    let entry = kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    };
    Msrs::from_entries(&[entry]).map_err(|_| errno::Error::new(libc::ENOMEM))
}
