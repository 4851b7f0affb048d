//! Child processes of a storm: none outlives it.
#![expect(
    unsafe_code,
    reason = "lends stacks to processes that share our memory"
)]

use ipirig_system::{
    Errno,
    sys::{self, Fork, SleeperStack},
};

/// Children that were not waited for yet. Those left are killed in the end.
#[derive(Debug, Default)]
pub(crate) struct Children(Vec<i32>);

/// Has `count` processes live at once, and kills them before they do anything.
pub(crate) fn come_and_go(count: u64) -> Result<(), Errno> {
    let mut stacks = Vec::new();
    stacks.resize_with(count as usize, || SleeperStack::NEW);
    // Dropped before the stacks are, also when one cannot be started.
    let mut children = Children::default();
    for stack in &mut stacks {
        // SAFETY: `children` kills the process, and waits for its end, before the stacks go.
        children.0.push(unsafe { sys::sleeper(stack) }?);
    }
    children.kill()
}

impl Children {
    /// Forks a child that does `job` and exits: with 0 if that went well, else with the error's
    /// number.
    pub(crate) fn add(&mut self, job: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        match sys::fork()? {
            Fork::Child => sys::exit(job().err().map_or(0, |errno| errno.0)),
            Fork::Parent(pid) => {
                self.0.push(pid);
                Ok(())
            }
        }
    }

    /// Waits for each in turn. ECHILD if one was killed, else the number that it exited with.
    pub(crate) fn join(&mut self) -> Result<(), Errno> {
        while let Some(pid) = self.0.first().copied() {
            let status = sys::wait(pid)?;
            self.0.remove(0);
            if !libc::WIFEXITED(status) {
                return Err(Errno(libc::ECHILD));
            }
            match libc::WEXITSTATUS(status) {
                0 => {}
                errno => return Err(Errno(errno)),
            }
        }
        Ok(())
    }

    /// Asks all of them to end, with SIGTERM.
    pub(crate) fn end(&self) -> Result<(), Errno> {
        self.0
            .iter()
            .try_for_each(|&pid| sys::kill(pid, libc::SIGTERM))
    }

    /// Kills all of them, and waits until they are gone.
    pub(crate) fn kill(&mut self) -> Result<(), Errno> {
        for &pid in &self.0 {
            sys::kill(pid, libc::SIGKILL)?;
        }
        while let Some(pid) = self.0.pop() {
            sys::wait(pid)?;
        }
        Ok(())
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        // There is nobody left to tell; what failed before was told.
        let _ = self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_that_go_well_are_joined_and_the_first_error_comes_back() {
        let mut children = Children::default();
        children.add(|| Ok(())).unwrap();
        children.add(|| Ok(())).unwrap();
        assert_eq!(children.join(), Ok(()));
        children.add(|| Ok(())).unwrap();
        children.add(|| Err(Errno(libc::EPIPE))).unwrap();
        assert_eq!(children.join(), Err(Errno(libc::EPIPE)));
    }

    #[test]
    fn a_child_that_was_killed_is_an_error_and_killing_leaves_none() {
        let mut children = Children::default();
        children.add(|| sys::sleep_forever()).unwrap();
        sys::kill(children.0[0], libc::SIGKILL).unwrap();
        assert_eq!(children.join(), Err(Errno(libc::ECHILD)));

        children.add(|| sys::sleep_forever()).unwrap();
        let pid = children.0[0];
        assert_eq!(children.kill(), Ok(()));
        assert_eq!(sys::wait(pid), Err(Errno(libc::ECHILD)));
    }
}
