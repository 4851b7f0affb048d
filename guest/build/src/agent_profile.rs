//! How the agent is compiled. The command line's build script takes this file too, to have the agent inside.

/// The package, and the program that it makes.
pub(crate) const NAME: &str = "ipirig-agent";

/// What Cargo is told first; the package comes next.
pub(crate) const BUILD: [&str; 5] = ["build", "--locked", "--profile", "release", "--package"];

/// glibc linked statically: the musl target is not there on a machine that cannot download it.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Unpacking the agent is part of each boot, and so are the faults on its pages.
pub(crate) const SMALL: [(&str, &str); 6] = [
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s"),
    // The agent's panic hook does not return.
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
];

/// The initramfs has no dynamic linker, and the kernel does not relocate the program.
pub(crate) const RUSTFLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static";
