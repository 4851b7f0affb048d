//! What the program has inside for when it is away from its checkout: the sources that a guest is built from, the
//! baselines, and the agent. `build.rs` packs it; `ipirig-store` unpacks it into the cache.

use ipirig_store::Embedded;

const ARCHIVE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/inside.cpio"));

/// Has guests built from what is inside, where that is enough to build one: debug builds have no agent.
pub fn provide() {
    if cfg!(agent_inside) {
        Embedded::provide(ARCHIVE);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The names of the files in the archive: each has a header of 110 digits that begins with these.
    fn has(name: &str) -> bool {
        let name = format!("{name}\0");
        let name = name.as_bytes();
        ARCHIVE.windows(name.len()).any(|window| window == name)
    }

    #[test]
    fn all_of_the_kernel_the_module_and_the_baselines_is_inside() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        // Whoever the checkout belongs to.
        let listed = Command::new("git")
            .args(["-c", "safe.directory=*", "-C", root, "ls-files", "--"])
            .args(["guest/kernel", "guest/module", "results/baseline"])
            .output();
        // `.ci/run` installs it.
        let listed = listed.expect("git(1), which this test needs, is installed");
        assert!(listed.status.success(), "{listed:?}");
        let listed = String::from_utf8_lossy(&listed.stdout);
        assert!(listed.lines().count() > 10, "{listed}");
        let lacking: Vec<&str> = listed.lines().filter(|name| !has(name)).collect();
        assert_eq!(lacking, [""; 0]);
        assert!(!has("guest/module/Kconfig"));
    }
}
