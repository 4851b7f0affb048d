//! MSRs of a vCPU that is not running, one at a time.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

/// `IA32_TIME_STAMP_COUNTER` (SDM vol. 4, table 2-2).
pub(crate) const TSC: u32 = 0x10;
/// `IA32_MTRRCAP` (SDM vol. 3, 12.11.1).
pub(crate) const MTRRCAP: u32 = 0xfe;
/// `IA32_STAR`: the selectors of SYSCALL and SYSRET. `STAR`, `LSTAR`, `CSTAR`, `FMASK` are
/// consecutive (SDM vol. 4, table 2-2).
pub(crate) const STAR: u32 = 0xc000_0081;
/// `IA32_LSTAR`: where SYSCALL goes.
pub(crate) const LSTAR: u32 = 0xc000_0082;
/// `IA32_CSTAR`: where SYSCALL goes in compatibility mode.
pub(crate) const CSTAR: u32 = 0xc000_0083;
/// `IA32_SYSENTER_EIP`: where SYSENTER goes.
pub(crate) const SYSENTER_EIP: u32 = 0x176;
/// `IA32_FMASK`: the flags that SYSCALL clears.
pub(crate) const FMASK: u32 = 0xc000_0084;

/// Reads one.
///
/// # Errors
/// The ioctl's; `ENXIO` where KVM has no such MSR, which the ioctl tells by a count of 0 (KVM API
/// 4.18).
pub(crate) fn read(fd: &VcpuFd, index: u32) -> Result<u64, errno::Error> {
    let mut msrs = one(index, 0)?;
    let count = fd.get_msrs(&mut msrs)?;
    value(&msrs, count)
}

/// What `KVM_GET_MSRS` read, of which it says that it is `count` MSRs.
fn value(msrs: &Msrs, count: usize) -> Result<u64, errno::Error> {
    match msrs.as_slice().first() {
        Some(entry) if count == 1 => Ok(entry.data),
        _ => Err(errno::Error::new(libc::ENXIO)),
    }
}

/// Writes one, which KVM must take.
///
/// # Errors
/// The ioctl's; `ENXIO` where KVM has no such MSR or does not take this value.
pub(crate) fn set(fd: &VcpuFd, index: u32, data: u64) -> Result<(), errno::Error> {
    if write(fd, index, data)? {
        Ok(())
    } else {
        Err(errno::Error::new(libc::ENXIO))
    }
}

/// Writes one. `false`: KVM does not take this value.
pub(crate) fn write(fd: &VcpuFd, index: u32, data: u64) -> Result<bool, errno::Error> {
    Ok(fd.set_msrs(&one(index, data)?)? == 1)
}

/// Most MSRs that one call takes: fewer than `MAX_IO_MSRS` (arch/x86/kvm/x86.c).
const AT_ONCE: usize = 255;

/// Writes `msrs` in order, up to the first that KVM does not take, or as many as it takes at once. How
/// many were written.
pub(crate) fn write_all(fd: &VcpuFd, msrs: &[kvm_msr_entry]) -> Result<usize, errno::Error> {
    let first = msrs.get(..AT_ONCE).unwrap_or(msrs);
    let list = Msrs::from_entries(first).map_err(|_| errno::Error::new(libc::ENOMEM))?;
    fd.set_msrs(&list)
}

fn one(index: u32, data: u64) -> Result<Msrs, errno::Error> {
    let entry = kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    };
    Msrs::from_entries(&[entry]).map_err(|_| errno::Error::new(libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_msr_that_kvm_did_not_read_has_no_value() {
        let msrs = one(TSC, 7).unwrap();
        assert_eq!(value(&msrs, 1), Ok(7));
        assert_eq!(value(&msrs, 0), Err(errno::Error::new(libc::ENXIO)));
    }
}
