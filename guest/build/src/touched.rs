//! Which files a patch names.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// The files that `patch -p1` may change, create or remove for this patch. Names more rather than
/// fewer: a removed line that begins with `-- ` looks like a file name, and both names of a file
/// that has two count.
///
/// `None` when that cannot be told from a plain unified diff: names in quotes, renames and copies,
/// binary patches, context diffs and ed scripts.
pub(crate) fn files(patch: &str) -> Option<BTreeSet<PathBuf>> {
    // See "Unified Format" and "Detailed Unified" in diffutils' manual; the others are git's.
    const STRANGE: [&str; 9] = [
        "*** ",
        "--- \"",
        "+++ \"",
        "rename ",
        "copy ",
        "old mode ",
        "GIT binary patch",
        "Index: ",
        "Prereq: ",
    ];
    let mut files = BTreeSet::new();
    let mut hunks = false;
    for line in patch.lines() {
        if STRANGE.iter().any(|start| line.starts_with(start)) {
            return None;
        }
        hunks |= line.starts_with("@@ -");
        let name = line.strip_prefix("--- ").or(line.strip_prefix("+++ "));
        if let Some(name) = name {
            let name = name.split('\t').next().unwrap_or(name).trim_end();
            files.extend(stripped(Path::new(name)));
        }
    }
    (hunks && !files.is_empty()).then_some(files)
}

/// The name without its first part. `patch` refuses names that lead out of the tree.
fn stripped(name: &Path) -> Option<PathBuf> {
    let mut parts = name.components();
    let plain = |part| matches!(part, Component::Normal(_));
    let rest = parts.next().filter(|first| plain(*first)).map(|_| parts)?;
    let plain = rest.clone().next().is_some() && rest.clone().all(plain);
    plain.then(|| rest.as_path().to_owned())
}

/// Whether a built tree may stay when this file changes. After a change to Kconfig the
/// configuration is to be made anew, from the fragments. The other directories hold what builds
/// the kernel; not every result is made again when that changes.
pub(crate) fn spares_the_tree(file: &Path) -> bool {
    let kconfig = file
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("Kconfig"));
    !kconfig && !file.starts_with("scripts") && !file.starts_with("tools")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(patch: &str) -> Option<Vec<String>> {
        let files = files(patch)?;
        Some(files.iter().map(|f| f.display().to_string()).collect())
    }

    #[test]
    fn changed_created_and_removed_files_are_named() {
        let patch = "Subject: x\n---\n a.c | 2 +-\n\ndiff --git a/a.c b/a.c\nindex 1..2 100644\n\
                     --- a/a.c\t2024-01-01\n+++ b/a.c\n@@ -1 +1 @@\n-a\n+b\n\
                     --- /dev/null\n+++ b/dir/new.h\n@@ -0,0 +1 @@\n+a\n\
                     --- a/gone.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n-- \n2.39\n";
        let expected = ["a.c", "dir/new.h", "gone.c"].map(str::to_owned);
        assert_eq!(names(patch), Some(expected.to_vec()));
    }

    #[test]
    fn names_that_lead_out_of_the_tree_are_left_out() {
        let patch = "--- a/../../x\n+++ /a/x\n--- a/..\n+++ x\n--- a/y\n+++ b/y\n@@ -1 +1 @@\n";
        assert_eq!(names(patch), Some(vec!["y".to_owned()]));
    }

    #[test]
    fn patch_that_is_no_plain_unified_diff_is_not_judged() {
        let plain = "--- a/y\n+++ b/y\n@@ -1 +1 @@\n";
        assert!(names(plain).is_some());
        for line in [
            "rename from a",
            "copy to b",
            "old mode 100644",
            "GIT binary patch",
            "--- \"a/\\t\"",
            "*** a/y",
            "Index: z",
        ] {
            assert_eq!(names(&format!("{plain}{line}\n")), None, "{line}");
        }
        assert_eq!(names(""), None);
        assert_eq!(names("--- a/y\n+++ b/y\n"), None);
    }

    #[test]
    fn configuration_and_build_tools_need_a_fresh_tree() {
        for file in [
            "arch/x86/Kconfig",
            "arch/x86/Kconfig.debug",
            "scripts/link-vmlinux.sh",
            "tools/objtool/check.c",
        ] {
            assert!(!spares_the_tree(Path::new(file)), "{file}");
        }
        for file in ["arch/x86/entry/calling.h", "mm/Makefile", "a/scripts/x.c"] {
            assert!(spares_the_tree(Path::new(file)), "{file}");
        }
    }
}
