//! The source in a user's git tree, as it is there now: what git knows of, with changes that are not committed.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::GuestError;
use ipirig_store::{Program, make_dir, remove_file};

/// Such a source, which has a name that goes with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GitTree {
    dir: PathBuf,
    /// git's name of the tree object.
    id: String,
}

impl GitTree {
    /// The source in `dir`. Writes objects into its repository, nothing else; its index is only read. Needs the
    /// lock `git`, as `log` and what is beside it are written.
    pub(crate) fn of(dir: &Path, log: &Path) -> Result<Self, GuestError> {
        let index = log.with_extension("index");
        remove_file(&index)?;
        let theirs = ask(
            git(dir, None).args(["rev-parse", "--git-path", "index"]),
            log,
        )?;
        let theirs = dir.join(theirs);
        match fs::copy(&theirs, &index) {
            Ok(_) => {}
            // Of a repository in which nothing was ever added.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(GuestError::io("read", theirs)(error)),
        }
        let git = || git(dir, Some(&index));
        ask(git().args(["add", "--update"]), log)?;
        let id = ask(git().arg("write-tree"), log)?;
        let dir = dir.to_owned();
        Ok(Self { dir, id })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Writes its files into `linux`.
    pub(crate) fn check_out(&self, linux: &Path, log: &Path) -> Result<(), GuestError> {
        make_dir(linux)?;
        let index = linux.with_extension("index");
        let git = || git(&self.dir, Some(&index));
        ask(git().args(["read-tree", &self.id]), log)?;
        let prefix = format!("--prefix={}/", linux.display());
        ask(git().args(["checkout-index", "--all", &prefix]), log)?;
        Ok(())
    }
}

fn git(dir: &Path, index: Option<&Path>) -> Program {
    let git = Program::new("git").dir(dir);
    match index {
        Some(index) => git.env("GIT_INDEX_FILE", index),
        None => git,
    }
}

/// Runs it. The last line that it printed.
fn ask(git: Program, log: &Path) -> Result<String, GuestError> {
    let mut last = String::new();
    git.run("asking git for the source", log, |line| {
        line.clone_into(&mut last);
    })?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_tree_is_known_by_what_is_in_it_and_checked_out_without_what_git_does_not_know() {
        let dir = tempfile::tempdir().expect("a directory");
        let source = dir.path().join("linux");
        make_dir(&source.join("kernel")).expect("made");
        let git = |args: &[&str]| {
            let status = Command::new("git")
                .arg("-C")
                .arg(&source)
                .args(args)
                .status();
            assert!(status.expect("git").success(), "{args:?}");
        };
        let write = |name: &str, text: &str| fs::write(source.join(name), text).expect("written");
        let log = dir.path().join("log");
        let tree = || GitTree::of(&source, &log);
        git(&["init", "--quiet"]);
        write("Makefile", "VERSION = 6\n");
        write("kernel/fork.c", "int fork;\n");
        git(&["add", "."]);
        let first = tree().expect("found");
        write("kernel/fork.o", "an object");
        assert_eq!(tree().expect("found"), first);
        // Changed, and not even added.
        write("kernel/fork.c", "int fork, two;\n");
        let second = tree().expect("found");
        assert_ne!(second.id(), first.id());

        let out = dir.path().join("out");
        second.check_out(&out, &log).expect("checked out");
        let read = |name: &str| fs::read_to_string(out.join(name)).ok();
        assert_eq!(read("kernel/fork.c").as_deref(), Some("int fork, two;\n"));
        assert_eq!(read("Makefile").as_deref(), Some("VERSION = 6\n"));
        assert_eq!(read("kernel/fork.o"), None);
        // What the user has staged is as it was: nothing of the change.
        let staged = ["diff", "--quiet", "--cached", first.id()];
        git(&staged);

        let error = GitTree::of(dir.path(), &log).expect_err("no repository");
        assert!(error.to_string().contains("asking git"), "{error}");
    }
}
