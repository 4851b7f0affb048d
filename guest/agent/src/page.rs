//! A page that is mapped and not present: each touch is one page fault.
#![expect(unsafe_code, reason = "maps and touches a page; counts faults")]

use std::ptr::{self, NonNull};

use ipirig_system::Errno;

/// Bytes of a page.
const SIZE: usize = 4096;

/// The page, absent again after each touch.
#[derive(Debug)]
pub(crate) struct AbsentPage {
    page: NonNull<u8>,
    /// Page faults of the task until the page was last made absent, or why it was not.
    absent: Result<i64, Errno>,
}

impl AbsentPage {
    /// Maps the page for good.
    pub(crate) fn map() -> Result<Self, Errno> {
        let page = map_at(ptr::null_mut(), 0)?;
        Ok(Self {
            page,
            absent: Ok(minor_faults()?),
        })
    }

    /// Writes to the page, and only then enters the kernel in other ways: to ask whether that was a
    /// fault (EPROTO if not), and to make the page absent for the next time.
    pub(crate) fn touch(&mut self) -> Result<(), Errno> {
        let before = self.absent?;
        // SAFETY: the page is mapped for writing, and nobody else knows of it. Volatile: the write
        // is wanted for itself.
        unsafe { self.page.write_volatile(1) };
        let after = minor_faults();
        self.absent = make_absent(self.page);
        if after? > before {
            Ok(())
        } else {
            Err(Errno(libc::EPROTO))
        }
    }
}

/// Maps the page anew where it is; the task's page faults so far come back.
///
/// A locked page cannot be dropped by madvise(2), which not every kernel has anyway. A new mapping is
/// locked by MCL_FUTURE, and empty thanks to MCL_ONFAULT.
fn make_absent(page: NonNull<u8>) -> Result<i64, Errno> {
    map_at(page.as_ptr(), libc::MAP_FIXED)?;
    minor_faults()
}

/// Only for an address that is null or a page of the caller's own.
fn map_at(address: *mut u8, flags: i32) -> Result<NonNull<u8>, Errno> {
    // SAFETY: replaces the caller's page, in which nothing is kept, or, without MAP_FIXED, nothing.
    let page = unsafe {
        libc::mmap(
            address.cast(),
            SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    NonNull::new(page.cast()).ok_or(Errno(libc::EFAULT))
}

/// Page faults of the calling task that needed no disk (getrusage(2)).
fn minor_faults() -> Result<i64, Errno> {
    // SAFETY: all zeroes is a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills in exactly one `rusage`.
    if unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) } != 0 {
        return Err(Errno::last());
    }
    Ok(usage.ru_minflt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_touch_is_a_fault() {
        let mut page = AbsentPage::map().unwrap();
        for _ in 0..3 {
            assert_eq!(page.touch(), Ok(()));
        }
    }

    #[test]
    fn a_page_that_is_there_already_is_no_fault() {
        let mut page = AbsentPage::map().unwrap();
        // The page, and the pages of this code, are there after the first round.
        let touched = [(); 2].map(|()| {
            // SAFETY: as in `touch`.
            unsafe { page.page.write_volatile(1) };
            page.absent = minor_faults();
            page.touch()
        });
        assert_eq!(touched[1], Err(Errno(libc::EPROTO)));
        assert_eq!(page.touch(), Ok(()));
    }

    #[test]
    fn a_page_that_could_not_be_made_absent_is_not_touched() {
        let mut page = AbsentPage::map().unwrap();
        page.absent = Err(Errno(libc::EBUSY));
        assert_eq!(page.touch(), Err(Errno(libc::EBUSY)));
        assert!(!present(&page));
        // SAFETY: as in `touch`.
        unsafe { page.page.write_volatile(1) };
        assert!(present(&page));
    }

    /// Faults cannot be counted for this: any other page may be missing as well.
    fn present(page: &AbsentPage) -> bool {
        let mut resident = 0_u8;
        // SAFETY: the page is mapped, and there is a byte for it.
        let result = unsafe { libc::mincore(page.page.as_ptr().cast(), SIZE, &raw mut resident) };
        assert_eq!(result, 0);
        resident & 1 != 0
    }
}
