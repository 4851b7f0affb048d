//! What [`Command::Execute`](crate::Command::Execute) runs, and what becomes of it.
//!
//! A command line does not fit into the mailbox's words. The rig hands it over in a file, like the
//! programs that the command needs, by [`Command::Put`](crate::Command::Put).

/// The file with the command: its words, a NUL after each. Path below the root.
pub const COMMAND_FILE: &str = "ipirig/observe";
/// The file that the command's standard output and standard error go to, beside the former. Path
/// below the root.
pub const OUTPUT_FILE: &str = "ipirig/output";
/// First word of the commands that the agent has built in: `load`, then the names of loads.
pub const LOAD: &str = "load";
/// What may follow [`LOAD`]: the names of the loads that the agent has. A number of rounds may come before them
/// ([`ROUNDS`]).
pub const LOADS: [&str; 17] = [
    "idle",
    "fork",
    "bpf",
    "net",
    "keys",
    "membarrier",
    "perf",
    "module",
    "tracepoint",
    "kprobe",
    "vmstat",
    "caches",
    "compact",
    "hugetlb",
    "ignore-ce",
    "hotplug",
    "trace-pipe",
];
/// Before the names: how often each load is done. Without it, until somebody kills it.
pub const ROUNDS: &str = "--rounds";
/// Where a program is looked for whose name has no slash, in this order.
pub const SEARCH: [&str; 5] = ["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/"];
/// Exit code of [`LOAD`] when the kernel offers none of the loads that it is asked for.
pub const NO_LOAD: u8 = 77;

/// The words of [`COMMAND_FILE`]. What follows the last NUL is no word.
pub fn words(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split_inclusive(|&byte| byte == 0)
        .filter_map(|word| word.strip_suffix(&[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_with_a_nul_and_may_be_empty() {
        assert!(words(b"load\0fork\0").eq([&b"load"[..], b"fork"]));
        assert!(words(b"a\0\0b c\0").eq([&b"a"[..], b"", b"b c"]));
        assert!(words(b"a\0cut").eq([&b"a"[..]]));
        assert_eq!(words(b"").count(), 0);
    }
}
