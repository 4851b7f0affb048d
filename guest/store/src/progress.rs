//! What a build tells whoever waits for it.

/// Hears how a build gets on. All methods may be called from any thread.
pub trait Progress: Sync {
    /// A stage begins, for example `building the kernel`. It ends when the next one begins, or
    /// when the build returns. A stage whose result is cached is not announced.
    fn stage(&self, name: &str);
    /// Something the user should know: packages being installed, a wait for another build.
    fn note(&self, text: &str);
    /// `done` steps of the current stage are finished. `total` is an estimate, never below
    /// `done`; `None` when there is nothing to estimate from.
    fn step(&self, done: u64, total: Option<u64>);
    /// Whether `packages`, which the build needs, may be installed on this machine. Asked as root only.
    fn may_install(&self, packages: &[&str]) -> bool {
        let _ = packages;
        false
    }
}

/// Says nothing.
impl Progress for () {
    fn stage(&self, _name: &str) {}
    fn note(&self, _text: &str) {}
    fn step(&self, _done: u64, _total: Option<u64>) {}
}
