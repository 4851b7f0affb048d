//! Error numbers, spelt as the manual pages spell them.

use std::fmt;
use std::io;

/// A positive `errno`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The calling thread's `errno`.
    pub fn last() -> Self {
        Self::from(io::Error::last_os_error())
    }

    /// As the mailbox carries it.
    pub fn code(self) -> u32 {
        self.0.unsigned_abs()
    }
}

impl From<io::Error> for Errno {
    /// EIO for an error that std made up itself, such as a write that made no progress.
    fn from(error: io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = io::Error::from_raw_os_error(self.0).to_string();
        let suffix = format!(" (os error {})", self.0);
        let meaning = said.strip_suffix(&suffix).unwrap_or(&said);
        match name(self.0) {
            Some(name) => write!(f, "{name} ({meaning})"),
            None => write!(f, "errno {} ({meaning})", self.0),
        }
    }
}

macro_rules! names {
    ($code:expr; $($name:ident)*) => {
        match $code {
            $(libc::$name => Some(stringify!($name)),)*
            _ => None,
        }
    };
}

/// The numbers that the calls made here can give; the rest show as numbers.
fn name(code: i32) -> Option<&'static str> {
    names! { code;
        EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT
        ENOTBLK EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG
        ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY
        ELOOP ENODATA ETIME EPROTO EBADMSG EOVERFLOW ELIBBAD EILSEQ EOPNOTSUPP EADDRINUSE
        EADDRNOTAVAIL ETIMEDOUT EALREADY ESTALE ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_its_name_and_its_meaning() {
        assert_eq!(Errno(libc::ENODEV).to_string(), "ENODEV (No such device)");
        assert_eq!(
            Errno(libc::EKEYREJECTED).to_string(),
            "EKEYREJECTED (Key was rejected by service)"
        );
    }

    #[test]
    fn an_error_without_a_name_shows_its_number() {
        assert_eq!(Errno(4000).to_string(), "errno 4000 (Unknown error 4000)");
    }
}
