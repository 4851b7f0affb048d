//! The host that runs are made on.

use std::sync::OnceLock;

use ipirig_machine::{Host, HostError};

/// The host. It is probed once a process: it does not change, and a probe takes tens of milliseconds.
pub(super) fn host() -> Result<&'static Host, &'static HostError> {
    static HOST: OnceLock<Result<Host, HostError>> = OnceLock::new();
    HOST.get_or_init(Host::probe).as_ref()
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    #[test]
    fn the_host_is_probed_once() {
        let same = match (host(), host()) {
            (Ok(one), Ok(other)) => ptr::eq(one, other),
            (Err(one), Err(other)) => ptr::eq(one, other),
            _ => false,
        };
        assert!(same);
    }
}
