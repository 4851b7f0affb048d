use super::*;
use std::io::Write as _;

use crate::ErrorClass;

#[test]
fn in_an_emulated_host_nothing_is_built_but_what_is_there_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = Store::open(dir.path()).expect("opened");
    let key = || Ingredients::of("kernel", 1).key();
    let make =
        |work: &Work| fs::write(work.out.join("a"), "").map_err(StoreError::io("write", "a"));
    store.emulated = Some("svm".into());
    let error = store
        .slot("kernel", key(), &["a"], &(), make)
        .expect_err("not built");
    assert!(matches!(error, StoreError::InLab { .. }), "{error:?}");
    assert_eq!(error.class(), ErrorClass::Host);
    store.emulated = None;
    assert!(
        store
            .slot("kernel", key(), &["a"], &(), make)
            .expect("built")
            .fresh
    );
    store.emulated = Some("svm".into());
    assert!(
        !store
            .slot("kernel", key(), &["a"], &(), make)
            .expect("found")
            .fresh
    );
}

#[test]
fn in_an_emulated_host_what_is_being_built_outside_is_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = Store::open(dir.path()).expect("opened");
    let outside = dir.path().join("work/kernel-0");
    let pack = |store: &Store, recipe| {
        fs::create_dir_all(&outside).expect("created");
        let make =
            |work: &Work| fs::write(work.out.join("a"), "").map_err(StoreError::io("write", "a"));
        let key = Ingredients::of("initramfs", recipe).key();
        store
            .slot("initramfs", key, &["a"], &(), make)
            .expect("built");
        outside.exists()
    };
    // Its lock is held by nobody here, as it is there for a build outside.
    store.emulated = Some("svm".into());
    assert!(pack(&store, 1));
    store.emulated = None;
    assert!(!pack(&store, 2));
}

#[test]
fn slot_without_its_files_is_not_accepted() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("opened");
    let key = Ingredients::of("x", 1).key();
    let error = store
        .slot("x", key, &["a"], &(), |_| Ok::<_, StoreError>(()))
        .expect_err("nothing was made");
    assert!(error.to_string().contains("out/a: was not made"), "{error}");
    assert!(!dir.path().join("x").exists());
}

#[test]
fn cache_directory_that_make_cannot_use_is_refused_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["a b", "a:b", "a'b", "a#b", "a$b"] {
        let error = Store::open(&dir.path().join(name)).expect_err("refused");
        assert!(
            matches!(error, StoreError::AwkwardCacheDir { .. }),
            "{error:?}"
        );
        assert_eq!(error.class(), ErrorClass::Input);
    }
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
}

/// Keeps what is noted.
#[derive(Default)]
struct Notes(std::sync::Mutex<Vec<String>>);

impl Progress for Notes {
    fn stage(&self, _name: &str) {}
    fn note(&self, text: &str) {
        self.0.lock().expect("whole").push(text.to_owned());
    }
    fn step(&self, _done: u64, _total: Option<u64>) {}
}

/// Asks for the slot of a kernel with one file, which is "built" if it has to be. Whether it had, and what was noted.
fn ask(root: &Path) -> Result<(bool, Vec<String>), StoreError> {
    let notes = Notes::default();
    let store = Store::open(root)?;
    let make =
        |work: &Work| fs::write(work.out.join("a"), "built").map_err(StoreError::io("write", "a"));
    let key = Ingredients::of("kernel", 1).key();
    let slot = store.slot("kernel", key, &["a"], &notes, make)?;
    assert_eq!(fs::read(slot.dir.join("a")).expect("readable"), b"built");
    Ok((slot.fresh, notes.0.into_inner().expect("whole")))
}

fn slot_dir(root: &Path) -> PathBuf {
    let key = Ingredients::of("kernel", 1).key().to_string();
    root.join("kernel").join(key)
}

#[test]
fn a_slot_that_is_not_what_was_built_is_built_again_and_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path();
    let slot = slot_dir(root);
    assert_eq!(ask(root).expect("built"), (true, vec![]));
    // Twice: hashed, then known.
    for _ in 0..2 {
        assert_eq!(ask(root).expect("found"), (false, vec![]));
    }
    let again = |wrong: &str| {
        let note = format!("{wrong}: not using the kernel in {}", slot.display());
        assert_eq!(ask(root).expect("built"), (true, vec![note]), "{wrong}");
        assert_eq!(ask(root).expect("found"), (false, vec![]), "{wrong}");
    };
    // As long as it was, with the time that it had.
    let file = File::options()
        .write(true)
        .open(slot.join("a"))
        .expect("opened");
    let time = file
        .metadata()
        .and_then(|about| about.modified())
        .expect("a time");
    (&file).write_all(b"other").expect("written");
    file.set_modified(time).expect("set");
    again("a is not what was built");
    fs::write(slot.join("a"), "").expect("written");
    again("a is not what was built");
    fs::remove_file(slot.join(SUMS)).expect("removed");
    again("SHA256SUMS is missing");
    fs::remove_file(slot.join("a")).expect("removed");
    again("a is missing");
}

#[test]
fn a_cache_that_others_can_have_written_to_is_not_used() {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    let dir = tempfile::tempdir().expect("a directory");
    let root = &dir.path().join("cache");
    assert!(ask(root).expect("built").0);
    let stage = root.join("kernel");
    let slot = slot_dir(root);
    for place in [root, &stage, &slot, &slot.join("a")] {
        let about = fs::metadata(place).expect("there");
        let good = about.permissions();
        fs::set_permissions(place, Permissions::from_mode(0o777)).expect("set");
        let error = ask(root).expect_err("not believed");
        fs::set_permissions(place, good).expect("set");
        assert_eq!(error.to_string(), format!("not using {}", place.display()));
        assert_eq!(error.class(), ErrorClass::Input);
    }
    assert_eq!(ask(root).expect("found"), (false, vec![]));
    // Somebody else's directory in its place.
    fs::rename(&slot, dir.path().join("elsewhere")).expect("moved");
    symlink(dir.path().join("elsewhere"), &slot).expect("linked");
    let error = ask(root).expect_err("not believed");
    assert!(matches!(error, StoreError::NotTrusted { .. }), "{error:?}");
}

#[test]
fn slots_from_before_there_were_hashes_are_taken_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path();
    let slot = slot_dir(root);
    // What an earlier version left.
    make_dir(&slot).expect("made");
    fs::write(slot.join("a"), "built").expect("written");
    assert_eq!(ask(root).expect("taken"), (false, vec![]));
    assert_eq!(
        fs::read_to_string(root.join(FORMAT)).expect("readable"),
        VERSION
    );
    assert!(slot.join(SUMS).exists() && !slot.join(UNHASHED).exists());
    // From then on a slot has hashes.
    fs::remove_file(slot.join(SUMS)).expect("removed");
    assert!(ask(root).expect("built").0);
}

#[test]
fn files_that_were_hashed_are_known_until_something_about_them_changes() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path();
    assert!(ask(root).expect("built").0);
    let slot = slot_dir(root);
    let store = Store::open(root).expect("opened");
    let key = Ingredients::of("kernel", 1).key();
    let stamp = store.stamp(&format!("kernel-{key}"));
    let known = || stamp.fits(&slot, &["a"], &store.trust);
    assert!(!known());
    assert!(!ask(root).expect("found").0);
    assert!(known());
    // Without a change of what is in it.
    let mode = fs::metadata(slot.join("a")).expect("there").permissions();
    fs::set_permissions(slot.join("a"), mode).expect("set");
    assert!(!known());
}
