//! A page that is mapped and not present: each touch is one page fault.
#![expect(unsafe_code, reason = "maps, drops and touches a page; reads a usage")]

use std::ptr::{self, NonNull};

use crate::errno::Errno;

/// Bytes of a page.
const SIZE: usize = 4096;

/// The page, dropped again after each touch.
#[derive(Debug)]
pub(crate) struct AbsentPage {
    page: NonNull<u8>,
    /// Minor faults of the task since the page was last dropped are those above this count; an error
    /// if it could not be dropped.
    absent: Result<i64, Errno>,
}

impl AbsentPage {
    /// Maps the page for good.
    pub(crate) fn map() -> Result<Self, Errno> {
        // SAFETY: without MAP_FIXED and at no given address, this replaces no other mapping.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        // MCL_FUTURE locked it, and a locked page cannot be dropped (mm/madvise.c).
        // SAFETY: changes how the page is kept, not what is in it.
        if unsafe { libc::munlock(page, SIZE) } != 0 {
            return Err(Errno::last());
        }
        let page = NonNull::new(page.cast()).ok_or(Errno(libc::EFAULT))?;
        let absent = drop_page(page);
        absent.map(|faults| Self {
            page,
            absent: Ok(faults),
        })
    }

    /// Writes to the page, and only then enters the kernel in other ways: to ask whether that was a
    /// fault (EPROTO if not), and to drop the page for the next time.
    pub(crate) fn touch(&mut self) -> Result<(), Errno> {
        let before = self.absent?;
        // SAFETY: the page is mapped for writing, and nobody else knows of it. Volatile: the write
        // is wanted for itself.
        unsafe { self.page.write_volatile(1) };
        let after = minor_faults();
        self.absent = drop_page(self.page);
        if after? > before {
            Ok(())
        } else {
            Err(Errno(libc::EPROTO))
        }
    }
}

/// Drops the page; the task's minor faults so far come back. EBUSY if the page is still there.
fn drop_page(page: NonNull<u8>) -> Result<i64, Errno> {
    let mut present = 0_u8;
    // SAFETY: the page belongs to the caller, who keeps nothing in it.
    if unsafe { libc::madvise(page.as_ptr().cast(), SIZE, libc::MADV_DONTNEED) } != 0 {
        return Err(Errno::last());
    }
    // SAFETY: the kernel writes one byte for the one page.
    if unsafe { libc::mincore(page.as_ptr().cast(), SIZE, &raw mut present) } != 0 {
        return Err(Errno::last());
    }
    if present & 1 != 0 {
        return Err(Errno(libc::EBUSY));
    }
    minor_faults()
}

/// Page faults of this process that needed no disk (getrusage(2)).
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
    fn a_page_that_could_not_be_dropped_is_not_touched() {
        let mut page = AbsentPage::map().unwrap();
        page.absent = Err(Errno(libc::EBUSY));
        let before = minor_faults();
        assert_eq!(page.touch(), Err(Errno(libc::EBUSY)));
        assert_eq!(minor_faults(), before);
    }
}
