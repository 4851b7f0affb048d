//! What is removed from the cache: builds that were killed, and what nobody uses any more.

use std::fs;
use std::io;
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use ipirig_terminal::tidy;

use super::Store;
use crate::StoreError;

/// How the names of directories under `work` begin that only wait for their removal.
const TRASH: &str = "trash-";

impl Store {
    /// Removes what builds left that were killed. Failing at that must not stop anything.
    pub(super) fn sweep(&self) {
        // In an emulated host the locks of builds outside it are free.
        if self.emulated.is_some() {
            return;
        }
        self.discard_unlocked(&self.root.join("work"), "");
        self.discard_parts(&self.root.join("verified"));
    }

    /// Removes what was being written in `dir` when somebody was killed. Whoever is writing it now does without.
    fn discard_parts(&self, dir: &Path) {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "part")) {
            // Tried again the next time.
            let _ = fs::remove_file(entry.path());
        }
    }

    /// Discards each entry of `dir` that nobody works in. Its lock is called like it, after
    /// `prefix`.
    pub(super) fn discard_unlocked(&self, dir: &Path, prefix: &str) {
        let Ok(entries) = fs::read_dir(dir) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(TRASH) {
                remove_behind(&entry.path());
                continue;
            }
            // Held until the end of the iteration: nobody may start a build in it meanwhile.
            let Ok((lock, _)) = self.lock_file(&format!("{prefix}{name}")) else {
                continue;
            };
            if lock.try_lock().is_ok() {
                // Tried again at the next build.
                let _ = self.discard(&entry.path());
            }
        }
    }

    /// Gets `path` out of the way at once and removes it without waiting: a kernel tree has 85 000
    /// files, which takes minutes where each is discarded on its own (ext4 mounted with `discard`
    /// and without a journal).
    pub(super) fn discard(&self, path: &Path) -> Result<(), StoreError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let trash = self
            .root
            .join("work")
            .join(format!("{TRASH}{}-{number}", process::id()));
        match fs::rename(path, &trash) {
            Ok(()) => remove_behind(&trash),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("remove", path)(error)),
        }
        Ok(())
    }
}

/// Removes `trash` with a program that goes on when this one ends. What it does not manage, the
/// next build tries again.
fn remove_behind(trash: &Path) {
    if let Some(mut rm) = tidy::remove_behind(trash) {
        // Only so that it does not stay a zombie.
        let _ = thread::Builder::new().spawn(move || rm.wait());
    }
}
