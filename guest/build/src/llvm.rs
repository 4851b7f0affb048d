//! Kernels that LLVM builds: which of its versions, as Kbuild's `LLVM=` names them (Documentation/kbuild/llvm.rst).

use std::env;
use std::ffi::OsStr;

/// The variable of the environment by which who builds kernels says it.
pub(crate) const VARIABLE: &str = "LLVM";

/// What to tell make so that it builds with what the kernel with this `.config` was built with: nothing if that was
/// gcc. The user's own `LLVM` counts, then the programs of that very version, then those without one in their names.
pub(crate) fn argument(config: &str) -> Option<String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let own = env::var(VARIABLE).ok();
    argument_with(config, own.as_deref(), &path)
}

fn argument_with(config: &str, own: Option<&str>, path: &OsStr) -> Option<String> {
    ipirig_kconfig::value(config, "CONFIG_CC_IS_CLANG")?;
    if let Some(own) = own {
        return Some(format!("{VARIABLE}={own}"));
    }
    // 160006 of 16.0.6 (scripts/cc-version.sh).
    let version = ipirig_kconfig::value(config, "CONFIG_CLANG_VERSION")
        .and_then(|version| version.parse::<u32>().ok())
        .map(|version| version / 10_000);
    let has = |program: String| env::split_paths(path).any(|dir| dir.join(&program).is_file());
    match version {
        Some(n) if has(format!("clang-{n}")) && has(format!("ld.lld-{n}")) => {
            Some(format!("{VARIABLE}=-{n}"))
        }
        _ => Some(format!("{VARIABLE}=1")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_version_that_built_the_kernel_is_taken_where_it_is_installed() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = "CONFIG_CC_IS_CLANG=y\nCONFIG_CLANG_VERSION=160006\n";
        let argument = |config, own| argument_with(config, own, dir.path().as_os_str());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(argument("CONFIG_CC_IS_GCC=y\n", Some("1")), None);
        assert_eq!(argument(config, None), some("LLVM=1"));
        fs::write(dir.path().join("clang-16"), "").expect("written");
        // A compiler without its linker builds nothing.
        assert_eq!(argument(config, None), some("LLVM=1"));
        fs::write(dir.path().join("ld.lld-16"), "").expect("written");
        assert_eq!(argument(config, None), some("LLVM=-16"));
        assert_eq!(
            argument(config, Some("/opt/llvm/bin/")),
            some("LLVM=/opt/llvm/bin/")
        );
        assert_eq!(argument("CONFIG_CC_IS_CLANG=y\n", None), some("LLVM=1"));
    }
}
