//! The stages from end to end, on a kernel of a few lines.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::configuration::Configuration;
use crate::fake::{Fake, RecordedProgress, patch};
use crate::patches::Patches;
use crate::{ErrorClass, Flavour, GuestError, Rejection, module};
use ipirig_store::{Ingredients, StoreError};

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("readable")
}

#[test]
fn kernel_is_built_once_and_then_found() {
    let fake = Fake::new();
    let heard = RecordedProgress::default();
    let kernel = fake.build_with(&heard).expect("built");
    assert!(kernel.fresh);
    assert_eq!(
        heard.lines(),
        [
            "unpacking linux 6.12.0-1",
            "patching linux 6.12.0-1",
            "0 of Some(0)",
            "configuring linux 6.12.0-1",
            "building linux 6.12.0-1",
            "1 of Some(1130)",
            "2 of Some(1130)",
        ]
    );
    assert_eq!(kernel.manifest.release, "6.12.0");
    assert_eq!(kernel.manifest.package, "6.12.0-1");
    assert_eq!(kernel.manifest.compiler, "fake gcc 1.0");
    assert!(read(&kernel.config()).contains("CONFIG_A=y"));
    assert_eq!(read(&kernel.system_map()), "symbols\n");
    assert!(read(&kernel.log()).contains("+ make -j"));
    assert_eq!(fake.list("work"), Vec::<String>::new());

    let heard = RecordedProgress::default();
    let again = fake.build_with(&heard).expect("found");
    assert!(!again.fresh);
    assert_eq!(
        (again.vmlinux(), heard.lines()),
        (kernel.vmlinux(), Vec::new())
    );
}

#[test]
fn later_build_is_measured_against_an_earlier_one() {
    let fake = Fake::new();
    fake.build().expect("built");
    fake.write("kernel/config/base.config", "CONFIG_B=y\n");
    let heard = RecordedProgress::default();
    fake.build_with(&heard).expect("built");
    assert!(
        heard.lines().contains(&"1 of Some(2)".to_owned()),
        "{:?}",
        heard.lines()
    );
}

#[test]
fn key_changes_with_each_input_and_with_nothing_else() {
    let mut fake = Fake::new();
    fake.write("kernel/patches/6.12/a.patch", &patch(":", "true"));
    fake.write("kernel/patches/6.12/b.patch", &patch("true", ": b"));
    fake.write("kernel/patches/6.12/series", "a.patch\n");
    let mut keys = vec![fake.build().expect("built").key];

    fake.write(
        "kernel/patches/6.12/series",
        "# first\na.patch # then none\n\n",
    );
    fake.write("kernel/config/README.md", "read me");
    fake.request.jobs = NonZeroUsize::new(1);
    fake.request.update = true;
    assert_eq!(fake.build().expect("found").key, keys[0]);

    fake.write("kernel/patches/6.12/series", "a.patch\nb.patch\n");
    keys.push(fake.build().expect("built").key);
    fake.write("kernel/patches/6.12/b.patch", &patch("true", ": c"));
    keys.push(fake.build().expect("built").key);
    fake.request.extra_patches = vec![fake.write_extra("x.patch", &patch(": c", ": d"))];
    keys.push(fake.build().expect("built").key);
    fake.write("kernel/config/base.config", "CONFIG_A=n\n");
    keys.push(fake.build().expect("built").key);
    fake.write("kernel/config/more.config", "CONFIG_B=y\n");
    keys.push(fake.build().expect("built").key);
    fake.source.package = "6.12.1-1".to_owned();
    keys.push(fake.build().expect("built").key);
    fake.repack();
    keys.push(fake.build().expect("built").key);

    let count = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), count);
}

#[test]
fn key_of_the_fast_kernel_is_made_as_before_there_were_flavours() {
    let fake = Fake::new();
    fake.write("kernel/config/fast.config", "CONFIG_B=y\n");
    fake.write("kernel/patches/6.12/a.patch", &patch(":", "true"));
    fake.write("kernel/patches/6.12/series", "a.patch\n");
    let key = fake.build().expect("built").key;

    let series = fake.places.guest.join("kernel/patches/6.12");
    let patches = Patches::series(&series).expect("read").key().expect("read");
    let mut ingredients = Ingredients::of("kernel", 1);
    ingredients.add("package", "6.12.0-1");
    ingredients.add("sha256", &fake.source.sha256);
    ingredients.add("patches", &patches.to_string());
    ingredients.add("config", "CONFIG_A=y\n\nCONFIG_B=y\n\n");
    assert_eq!(key, ingredients.key().to_string());

    fake.write("kernel/config/tracing.config", "CONFIG_C=y\n");
    let again = fake.build().expect("found");
    assert_eq!((again.key, again.fresh), (key, false));
}

#[test]
fn flavours_are_kernels_of_their_own_with_their_own_configuration() {
    let mut fake = Fake::new();
    fake.write(
        "kernel/config/tracing.config",
        "# CONFIG_A is not set\nCONFIG_T=y\n",
    );
    let fast = fake.build().expect("built");
    fake.request.flavour = Flavour::Tracing;
    let heard = RecordedProgress::default();
    let tracing = fake.build_with(&heard).expect("built");
    assert!(tracing.fresh);
    assert_ne!(tracing.key, fast.key);
    assert!(!read(&fast.config()).contains("CONFIG_T"));
    assert!(read(&tracing.config()).contains("# CONFIG_A is not set\nCONFIG_T=y\n"));
    // Not measured against the other flavour, which takes other steps.
    let lines = heard.lines();
    let building = "building linux 6.12.0-1 (tracing)";
    let at = lines.iter().position(|line| line == building);
    let steps = format!(
        "1 of Some({})",
        Configuration::from(Flavour::Tracing).usual_steps()
    );
    assert_eq!(
        at.and_then(|at| lines.get(at + 1)),
        Some(&steps),
        "{lines:?}"
    );

    let modules = [&fast, &tracing].map(|kernel| {
        module::build(&fake.store, &fake.places, &kernel.headers(), &()).expect("built")
    });
    assert_ne!(modules[0].key, modules[1].key);
    assert!(!fake.build().expect("found").fresh);
    // A change of what only tracing has is none for fast.
    fake.write("kernel/config/tracing.config", "CONFIG_T=m\n");
    assert_ne!(fake.build().expect("built").key, tracing.key);
    fake.request.flavour = Flavour::Fast;
    assert_eq!(fake.build().expect("found").key, fast.key);
}

#[test]
fn option_of_a_flavour_that_kconfig_drops_is_named_for_that_flavour_alone() {
    let mut fake = Fake::new();
    fake.write("kernel/config/tracing.config", "CONFIG_UNKNOWN=y\n");
    fake.build().expect("built");
    fake.request.flavour = Flavour::Tracing;
    let error = fake.build().expect_err("dropped");
    let GuestError::Config { lost, .. } = error else {
        panic!("{error:?}")
    };
    let lost: Vec<_> = lost.iter().map(ToString::to_string).collect();
    assert_eq!(lost, ["CONFIG_UNKNOWN (wanted y, is not set)"]);
}

#[test]
fn manifest_from_before_there_were_flavours_is_one_of_a_fast_kernel() {
    let fake = Fake::new();
    let kernel = fake.build().expect("built");
    let path = kernel.config().with_file_name("manifest.json");
    let manifest = read(&path);
    let old = manifest.replace("  \"flavour\": \"fast\",\n", "");
    assert_ne!(old, manifest);
    fs::write(&path, old).expect("written");
    // There were no hashes either.
    let [hashes, none] = ipirig_store::MARKS.map(|mark| path.with_file_name(mark));
    fs::rename(hashes, none).expect("renamed");
    assert!(!fake.build().expect("found").fresh);
    fake.write("kernel/config/base.config", "CONFIG_B=y\n");
    let heard = RecordedProgress::default();
    fake.build_with(&heard).expect("built");
    let lines = heard.lines();
    assert!(lines.contains(&"1 of Some(2)".to_owned()), "{lines:?}");
}

#[test]
fn series_hash_changes_with_the_patches_alone() {
    let mut fake = Fake::new();
    let plain = fake.build().expect("built").manifest.series;
    assert_eq!(plain.len(), 12);
    fake.write("kernel/config/base.config", "CONFIG_B=y\n");
    assert_eq!(fake.build().expect("built").manifest.series, plain);
    fake.request.extra_patches = vec![fake.write_extra("x.patch", &patch(":", "true"))];
    assert_ne!(fake.build().expect("built").manifest.series, plain);
}

#[test]
fn patches_are_applied_in_the_order_of_the_series_then_the_extra_ones() {
    let mut fake = Fake::new();
    fake.write("kernel/patches/6.12/b.patch", &patch(":", ": first"));
    fake.write("kernel/patches/6.12/a.patch", &patch(": first", ": second"));
    fake.write("kernel/patches/6.12/series", "b.patch\na.patch\n");
    fake.request.extra_patches = vec![fake.write_extra("x.patch", &patch(": second", ": third"))];
    let kernel = fake.build().expect("built");
    assert!(read(&kernel.vmlinux()).ends_with("\n: third\n"));
}

#[test]
fn patch_that_does_not_apply_is_shown_with_file_hunk_and_version() {
    let fake = Fake::new();
    let text = patch("true", "false");
    let missing = "--- a/gone.c\n+++ b/gone.c\n@@ -1 +1 @@\n-a\n+b\n";
    fake.write("kernel/patches/6.12/a.patch", &format!("{text}{missing}"));
    fake.write("kernel/patches/6.12/series", "a.patch\n");
    let error = fake.build().expect_err("does not apply");
    assert_eq!(error.class(), ErrorClass::Input);
    let text = error.to_string();
    let GuestError::Patch(failure) = error else {
        panic!("{error:?}")
    };
    assert_eq!(
        failure.rejections,
        [
            Rejection::Hunk {
                file: "main.sh".to_owned(),
                number: 1
            },
            Rejection::NoFile {
                file: "gone.c".to_owned()
            },
        ]
    );
    let patch = fake.places.guest.join("kernel/patches/6.12/a.patch");
    let first = format!(
        "{} does not apply to linux 6.12.0-1: main.sh hunk 1, gone.c is not in the tree\n",
        patch.display()
    );
    assert!(text.starts_with(&first), "{text}");
    assert!(text.contains("\n-true\n+false"), "{text}");
    assert_eq!(fake.list("kernel"), Vec::<String>::new());
    assert_eq!(fake.list("work"), Vec::<String>::new());
}

#[test]
fn patch_that_is_applied_already_is_said_to_be() {
    let mut fake = Fake::new();
    let once = fake.write_extra("x.patch", &patch(":", "true"));
    fake.request.extra_patches = vec![once.clone(), once];
    let error = fake.build().expect_err("does not apply twice");
    let GuestError::Patch(failure) = error else {
        panic!("{error:?}")
    };
    assert_eq!(
        failure.rejections,
        [Rejection::Applied {
            file: "main.sh".to_owned()
        }]
    );
}

#[test]
fn patch_may_move_but_its_context_must_match() {
    let mut fake = Fake::new();
    let moved = patch(":", "true").replace("@@ -3,4 +3,4 @@", "@@ -1,4 +1,4 @@");
    fake.request.extra_patches = vec![fake.write_extra("moved.patch", &moved)];
    fake.build().expect("applies with an offset");
    let fuzzy = patch(":", "true").replace("# three", "# 3");
    fake.request.extra_patches = vec![fake.write_extra("fuzzy.patch", &fuzzy)];
    let error = fake.build().expect_err("would need fuzz");
    assert!(matches!(error, GuestError::Patch(_)), "{error:?}");
}

#[test]
fn bad_series_is_refused_with_its_line() {
    let fake = Fake::new();
    fake.write("kernel/patches/6.12/a.patch", &patch(":", "true"));
    let dir = fake.places.guest.join("kernel/patches/6.12");
    let dir = dir.display();
    let cases = [
        (
            "\nb.patch\n",
            format!("{dir}/series:2: there is no b.patch in {dir}"),
        ),
        (
            "a.patch\na.patch",
            format!("{dir}/series:2: a.patch is listed twice"),
        ),
        (
            "a.patch -p0",
            format!("{dir}/series:1: `a.patch -p0` is not the plain name of a patch in {dir}"),
        ),
        (
            "../a.patch",
            format!("{dir}/series:1: `../a.patch` is not the plain name of a patch in {dir}"),
        ),
    ];
    for (series, expected) in cases {
        fake.write("kernel/patches/6.12/series", series);
        assert_eq!(fake.build().expect_err("refused").to_string(), expected);
    }
}

#[test]
fn option_that_kconfig_drops_is_named() {
    let fake = Fake::new();
    fake.write("kernel/config/more.config", "CONFIG_UNKNOWN=y\n");
    let error = fake.build().expect_err("dropped");
    assert_eq!(
        error.to_string(),
        format!(
            "linux 6.12.0-1 does not take 1 of the options in {}: \
             CONFIG_UNKNOWN (wanted y, is not set)",
            fake.places.guest.join("kernel/config").display()
        )
    );
    assert_eq!(fake.list("kernel"), Vec::<String>::new());
}

#[test]
fn failed_build_leaves_its_log_and_nothing_else() {
    let mut fake = Fake::new();
    let script = patch(":", "echo 'main.c:1: error: no'; exit 1");
    fake.request.extra_patches = vec![fake.write_extra("x.patch", &script)];
    let error = fake.build().expect_err("fails");
    assert_eq!(error.class(), ErrorClass::Build);
    let GuestError::Store(StoreError::Failed { log, excerpt, .. }) = &error else {
        panic!("{error:?}")
    };
    assert!(excerpt.contains("main.c:1: error: no"), "{excerpt}");
    assert!(read(log).contains("main.c:1: error: no"));
    assert_eq!(fake.list("kernel"), Vec::<String>::new());
    assert_eq!(fake.list("work"), Vec::<String>::new());
}

#[test]
fn interrupted_build_leaves_no_result() {
    let mut fake = Fake::new();
    // What Ctrl-C does to every process of the group: the shell's parent is make.
    let script = patch(":", "kill -INT $PPID; sleep 5");
    fake.request.extra_patches = vec![fake.write_extra("x.patch", &script)];
    let error = fake.build().expect_err("killed");
    assert_eq!(error.class(), ErrorClass::Interrupt);
    assert_eq!(error.to_string(), "interrupted while building the kernel");
    assert_eq!(fake.list("kernel"), Vec::<String>::new());
}

#[test]
fn leftovers_of_a_killed_build_are_removed_by_the_next() {
    let fake = Fake::new();
    let dead = fake.places.cache.join("work/kernel-dead/out");
    fs::create_dir_all(&dead).expect("created");
    fs::write(dead.join("vmlinux"), "half").expect("written");
    let alive = fake.places.cache.join("work/kernel-alive/out");
    fs::create_dir_all(alive).expect("created");
    let _lock = fake
        .store
        .lock("kernel-alive", "kernel", &())
        .expect("locked");
    let trash = fake.places.cache.join("work/trash-1-0");
    fs::create_dir_all(trash.join("linux")).expect("created");
    fake.build().expect("built");
    assert_eq!(fake.list("work"), ["kernel-alive"]);
    // The rest goes in its own time.
    let work = fake.places.cache.join("work");
    let deadline = Instant::now() + Duration::from_secs(30);
    while fs::read_dir(&work).expect("listed").count() > 1 {
        assert!(
            Instant::now() < deadline,
            "still there: {:?}",
            fs::read_dir(&work)
        );
        // The thread that removes it is nobody's to join.
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn slot_that_lost_a_file_is_built_again() {
    let fake = Fake::new();
    let kernel = fake.build().expect("built");
    fs::remove_file(kernel.vmlinux()).expect("removed");
    let again = fake.build().expect("built");
    assert!(again.fresh);
    assert!(again.vmlinux().exists());
}

#[test]
fn two_builds_at_once_make_one_kernel_and_the_second_says_that_it_waits() {
    let mut fake = Fake::new();
    let script = patch(":", "sleep 1");
    fake.request.extra_patches = vec![fake.write_extra("x.patch", &script)];
    let (one, two) = (RecordedProgress::default(), RecordedProgress::default());
    let fresh = thread::scope(|scope| {
        let builds = [&one, &two].map(|heard| {
            let fake = &fake;
            scope.spawn(move || fake.build_with(heard).expect("built").fresh)
        });
        builds.map(|build| build.join().expect("not panicked"))
    });
    assert_ne!(fresh[0], fresh[1]);
    let waiting = if fresh[0] { &two } else { &one };
    assert_eq!(
        waiting.lines(),
        ["note: another ipirig is at work on the kernel; waiting for it"]
    );
}

#[test]
fn module_is_built_against_the_kernel_and_again_when_either_changes() {
    let fake = Fake::new();
    let build = || {
        let kernel = fake.build().expect("built");
        module::build(&fake.store, &fake.places, &kernel.headers(), &()).expect("built")
    };
    let first = build();
    assert!(first.fresh);
    assert_eq!(read(&first.path), "versions\nmodule\n");
    assert_eq!((build().path, build().fresh), (first.path.clone(), false));
    fake.write("module/ipirig.ko", "from a build by hand");
    assert_eq!(build().key, first.key);
    fake.write("module/ipirig.c", "other\n");
    let other = build();
    assert_eq!(read(&other.path), "versions\nother\n");
    fake.write("kernel/config/base.config", "CONFIG_B=y\n");
    assert_ne!(build().key, other.key);
    // Nothing was written next to the sources.
    assert_eq!(
        fs::read_dir(fake.places.guest.join("module"))
            .expect("listed")
            .count(),
        3
    );
}
