use super::*;
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
