use std::process::Command;

use proptest::prelude::*;

use ipirig_store::{Ingredients, StoreError};

use super::*;

fn open(root: &Path) -> Tree {
    let store = Store::open(root).expect("opened");
    let key = Ingredients::of("tree", 1).key();
    Tree::open(&store, &key, &(), |work| {
        let linux = linux(&work.scratch);
        fs::create_dir_all(linux.join("dir")).expect("created");
        fs::write(linux.join("a"), "old a").expect("written");
        fs::write(linux.join("dir/b"), "old b").expect("written");
        Ok(())
    })
    .expect("opened")
}

/// Every file of the tree with its content, and the directories.
fn listing(tree: &Tree) -> Vec<(PathBuf, Option<String>)> {
    let (mut list, mut dirs) = (Vec::new(), vec![tree.linux()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path.clone());
            }
            let text = fs::read_to_string(&path).ok();
            list.push((path, text));
        }
    }
    list.sort();
    list
}

fn files(names: &[&str]) -> BTreeSet<PathBuf> {
    names.iter().map(PathBuf::from).collect()
}

/// Changes, removes and adds files, and leaves rejects.
fn change(linux: &Path) {
    fs::write(linux.join("a"), "new a").expect("written");
    fs::write(linux.join("a.rej"), "rejects").expect("written");
    fs::remove_dir_all(linux.join("dir")).expect("removed");
    fs::create_dir_all(linux.join("x/y")).expect("created");
    fs::write(linux.join("x/y/c"), "new c").expect("written");
    fs::write(linux.join("x/y/c.o"), "object").expect("written");
    fs::write(linux.join("d"), "new d").expect("written");
}

const CHANGED: [&str; 5] = ["a", "dir/b", "x/y/c", "d", "never"];

fn modified(tree: &Tree, file: &str) -> std::time::SystemTime {
    let meta = fs::metadata(tree.linux().join(file)).expect("there");
    meta.modified().expect("known")
}

#[test]
fn tree_is_as_it_was_after_changes_and_what_was_put_back_is_newer() {
    let dir = tempfile::tempdir().expect("a directory");
    let tree = open(dir.path());
    let before = listing(&tree);
    let mut built = None;
    tree.with_changes(&files(&CHANGED), &(), |linux| {
        change(linux);
        fs::write(linux.join("a.o"), "object").expect("written");
        built = Some(modified(&tree, "a.o"));
        assert_ne!(listing(&tree), before);
        Ok(())
    })
    .expect("done");
    fs::remove_file(tree.linux().join("a.o")).expect("there");
    assert_eq!(listing(&tree), before);
    assert!(Some(modified(&tree, "a")) > built);
    assert!(Some(modified(&tree, "dir/b")) > built);
    assert!(!tree.journal().exists() && !tree.saved().exists());
}

#[test]
fn changes_that_fail_are_undone_and_the_failure_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let tree = open(dir.path());
    let before = listing(&tree);
    let error = tree
        .with_changes(&files(&CHANGED), &(), |linux| {
            change(linux);
            let what = "changing".to_owned();
            Err(StoreError::Interrupted { what }.into())
        })
        .expect_err("told");
    assert!(
        matches!(error, GuestError::Store(StoreError::Interrupted { .. })),
        "{error:?}"
    );
    assert_eq!(listing(&tree), before);
}

#[test]
fn changes_of_a_killed_run_are_undone_by_the_next() {
    let dir = tempfile::tempdir().expect("a directory");
    let tree = open(dir.path());
    let before = listing(&tree);
    tree.save(&files(&CHANGED)).expect("saved");
    change(&tree.linux());
    assert_ne!(listing(&tree), before);
    drop(tree);
    assert_eq!(listing(&open(dir.path())), before);
}

#[test]
fn undoing_may_be_interrupted_anywhere_and_done_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let tree = open(dir.path());
    let before = listing(&tree);
    // A run that was killed before it had written its journal has changed nothing.
    fs::create_dir_all(tree.saved()).expect("created");
    fs::write(tree.saved().join("0"), "half").expect("written");
    tree.undo().expect("nothing to do");
    assert_eq!(listing(&tree), before);
    // One that was killed while it undid.
    tree.save(&files(&CHANGED)).expect("saved");
    change(&tree.linux());
    fs::remove_file(tree.linux().join("d")).expect("there");
    fs::write(tree.linux().join("a"), "ol").expect("written");
    tree.undo().expect("undone");
    assert_eq!(listing(&tree), before);
}

#[test]
fn tree_that_cannot_be_put_back_is_made_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let tree = open(dir.path());
    let before = listing(&tree);
    // A killed run whose journal cannot be read.
    change(&tree.linux());
    fs::write(tree.journal(), "{").expect("written");
    drop(tree);
    let tree = open(dir.path());
    assert_eq!(listing(&tree), before);
    // A directory where a file was.
    tree.with_changes(&files(&["a"]), &(), |linux| {
        fs::remove_file(linux.join("a")).expect("removed");
        fs::create_dir_all(linux.join("a/b")).expect("created");
        Ok(())
    })
    .expect("what was made is good");
    drop(tree);
    assert_eq!(listing(&open(dir.path())), before);
}

#[test]
fn journal_names_the_topmost_directory_that_was_not_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let tree = open(dir.path());
    tree.save(&files(&["a", "a/b", "dir", "dir/b", "dir/x/y", "z"]))
        .expect("saved");
    let text = fs::read(tree.journal()).expect("read");
    let expected = Journal {
        saved: vec!["a".into(), "dir/b".into()],
        absent: files(&["dir/x", "z"]),
    };
    let journal: Journal = serde_json::from_slice(&text).expect("parsed");
    assert_eq!(journal, expected);
}

#[test]
fn process_in_the_tree_is_waited_for_and_then_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let tree = open(dir.path());
    assert_eq!(someone_in(&tree.linux()), None);
    let mut sleep = Command::new("sleep")
        .arg("60")
        .current_dir(tree.linux().join("dir"))
        .spawn()
        .expect("started");
    let error = wait_for_strays(&tree.linux(), Duration::ZERO, &()).expect_err("there");
    let waited = thread::scope(|scope| {
        let waiting = scope.spawn(|| wait_for_strays(&tree.linux(), STRAYS, &()));
        sleep.kill().expect("killed");
        sleep.wait().expect("ended");
        waiting.join().expect("not panicked")
    });
    assert_eq!(
        error.to_string(),
        format!(
            "process {} is at work in {}: end it, then try again",
            sleep.id(),
            tree.linux().display()
        )
    );
    waited.expect("gone");
}

/// What a patch or a build does to a file.
#[derive(Debug, Clone)]
enum Step {
    Write(&'static str, String),
    Remove(&'static str),
}

fn step() -> impl Strategy<Value = Step> {
    let names = ["a", "a.rej", "dir/b", "dir/c", "x", "x/y/d", "x/y/e", "z/f"];
    let name = || prop::sample::select(names.to_vec());
    prop_oneof![
        (name(), "[a-z]{0,3}").prop_map(|(name, text)| Step::Write(name, text)),
        name().prop_map(Step::Remove),
    ]
}

impl Step {
    /// What is not possible, as a file in a file, is not done.
    fn go(&self, linux: &Path) {
        match self {
            Self::Write(name, text) => {
                let path = linux.join(name);
                let _ = fs::create_dir_all(path.parent().expect("a parent"));
                let _ = fs::write(path, text);
            }
            Self::Remove(name) => {
                let path = linux.join(name);
                let _ = fs::remove_file(&path);
                // As `patch` does, when it was the last one.
                let _ = fs::remove_dir(path.parent().expect("a parent"));
            }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Write(name, _) | Self::Remove(name) => name,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_changes_are_undone_and_what_was_there_is_newer(
        steps in prop::collection::vec(step(), 1..10),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = open(dir.path());
        let before = listing(&tree);
        let names: Vec<_> = steps.iter().map(Step::name).collect();
        let object = dir.path().join("object");
        tree.with_changes(&files(&names), &(), |linux| {
            steps.iter().for_each(|step| step.go(linux));
            fs::write(&object, "").expect("written");
            Ok(())
        })
        .expect("done");
        prop_assert_eq!(listing(&tree), before);
        let built = fs::metadata(&object).expect("there").modified().expect("known");
        for name in names {
            if tree.linux().join(name).is_file() {
                prop_assert!(modified(&tree, name) > built, "{}", name);
            }
        }
    }
}
