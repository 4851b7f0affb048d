//! Functions that the compiler inlined, by a vmlinux's DWARF.

use std::fmt;
use std::path::Path;

use addr2line::Loader;

/// Most functions that are inlined into one another at one place.
const MAX_DEPTH: usize = 32;

/// What debug information says of inlining.
pub struct Inlined {
    /// None where there is no debug information, or none that can be read.
    loader: Option<Loader>,
}

impl Inlined {
    /// Of the vmlinux at `path`. One without debug information, and one that is damaged, say nothing.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        // First: opening a pipe would wait for a writer.
        let loader = path
            .is_file()
            .then(|| Loader::new(path).ok())
            .flatten()
            .filter(|loader| loader.get_section_range(b".debug_info").is_some());
        Self { loader }
    }

    /// The functions that were inlined at a link address, innermost first: those between it and the
    /// function that the symbol table has.
    #[must_use]
    pub fn at(&self, address: u64) -> Vec<String> {
        let mut names = Vec::new();
        let Some(mut frames) = self
            .loader
            .as_ref()
            .and_then(|loader| loader.find_frames(address).ok())
        else {
            return names;
        };
        while let Ok(Some(frame)) = frames.next() {
            let name = frame.function.and_then(|function| {
                let name = function.raw_name().ok()?;
                Some(name.into_owned())
            });
            let Some(name) = name.filter(|_| names.len() <= MAX_DEPTH) else {
                break;
            };
            names.push(name);
        }
        // The last is the function itself.
        names.pop();
        names
    }
}

impl fmt::Debug for Inlined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inlined")
            .field("known", &self.loader.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn outer(number: u64) -> u64 {
        inner(number)
    }

    #[inline(always)]
    fn inner(number: u64) -> u64 {
        std::hint::black_box(number).rotate_left(3)
    }

    #[test]
    fn what_is_no_file_with_debug_information_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlinux");
        assert_eq!(Inlined::open(&path).at(0), Vec::<String>::new());
        std::fs::write(&path, "no ELF file").unwrap();
        assert_eq!(Inlined::open(&path).at(0), Vec::<String>::new());
        assert_eq!(Inlined::open(dir.path()).at(0), Vec::<String>::new());
    }

    #[test]
    fn functions_inlined_into_this_test_are_found() {
        // This program's own debug information, which cargo makes for tests. It is linked at 0.
        assert_eq!(outer(1), 8);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let program = std::env::current_exe().unwrap();
        let line = maps
            .lines()
            .find(|line| line.ends_with(&*program.to_string_lossy()));
        let base = line.and_then(|line| line.split('-').next()).unwrap();
        let base = u64::from_str_radix(base, 16).unwrap();
        let start = outer as fn(u64) -> u64 as usize as u64 - base;
        let inlined = Inlined::open(&program);
        let found = (start..start + 128).find_map(|at| inlined.at(at).first().cloned());
        let found = found.unwrap_or_default();
        assert!(
            found.contains("inner") || found.contains("black_box"),
            "{found}"
        );
    }
}
