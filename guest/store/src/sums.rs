//! What a finished slot has in it: `SHA256SUMS` in the format of sha256sum(1), which can check it as well.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::StoreError;
use crate::trust::Trust;

/// The file's name.
pub(crate) const SUMS: &str = "SHA256SUMS";

/// What is in a slot that was built before slots had hashes, instead of [`SUMS`].
pub(crate) const UNHASHED: &str = "unhashed";

/// A kernel with the headers for modules has 7000 files, with a hundred bytes each.
const BYTES_MAX: u64 = 16 << 20;

/// The digits of a hash.
const DIGITS: usize = 64;

/// Hashes by path below the slot.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums(BTreeMap<String, String>);

/// What a slot's files are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// What was built.
    Built,
    /// Something else, or they are not there: what is wrong, as in "vmlinux is not what was built".
    Other(String),
}

impl Sums {
    /// Takes `dir` as it is: hashes each file, and takes from group and others the right to write, whatever the umask
    /// was. The list comes last, and is on the disk before this returns.
    pub(crate) fn seal(dir: &Path) -> Result<(), StoreError> {
        let mut sums = Self::default();
        for Entry { path, kind } in below(dir)? {
            let whole = dir.join(&path);
            if kind == Kind::Link {
                continue;
            }
            let about = fs::symlink_metadata(&whole).map_err(StoreError::io("read", &whole))?;
            let mode = about.permissions().mode() & 0o7777;
            if mode & 0o022 != 0 {
                fs::set_permissions(&whole, Permissions::from_mode(mode & !0o022))
                    .map_err(StoreError::io("change the mode of", &whole))?;
            }
            if kind == Kind::File {
                let hashed = File::open(&whole).and_then(|file| hash(&file));
                let hash = hashed.map_err(StoreError::io("read", &whole))?;
                sums.0.insert(path, hash);
            }
        }
        let list = dir.join(SUMS);
        let failed = || StoreError::io("write", &list);
        let mut file = File::create(&list).map_err(failed())?;
        file.write_all(sums.text().as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed())?;
        fs::set_permissions(&list, Permissions::from_mode(0o644)).map_err(failed())
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (path, hash) in &self.0 {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{hash}  {path}");
        }
        text
    }

    /// `None`: this is no such list, or not all of it.
    fn parse(text: &str) -> Option<Self> {
        if !text.ends_with('\n') {
            return None;
        }
        let one = |line: &str| {
            let (hash, path) = line.split_once("  ")?;
            let plain = hash.len() == DIGITS && hash.bytes().all(|b| b.is_ascii_hexdigit());
            let below = Path::new(path)
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            (plain && below && !path.is_empty()).then(|| (path.to_owned(), hash.to_owned()))
        };
        text.lines().map(one).collect::<Option<_>>().map(Self)
    }

    /// Looks at `files` of `dir`: that they are what was hashed.
    ///
    /// # Errors
    /// [`StoreError::NotTrusted`], [`StoreError::Io`].
    pub(crate) fn check(dir: &Path, files: &[&str], trust: &Trust) -> Result<Found, StoreError> {
        let sums = match Self::read(dir, trust)? {
            Ok(sums) => sums,
            Err(wrong) => return Ok(Found::Other(wrong)),
        };
        for &name in files {
            if let Found::Other(wrong) = sums.check_one(dir, name, trust)? {
                return Ok(Found::Other(wrong));
            }
        }
        Ok(Found::Built)
    }

    /// As [`check`](Self::check), of all that was hashed: nothing is missing, and nothing came.
    ///
    /// # Errors
    /// [`StoreError::NotTrusted`], [`StoreError::Io`].
    pub(crate) fn check_all(dir: &Path, trust: &Trust) -> Result<Found, StoreError> {
        let sums = match Self::read(dir, trust)? {
            Ok(sums) => sums,
            Err(wrong) => return Ok(Found::Other(wrong)),
        };
        let mut seen = 0;
        for Entry { path, kind } in below(dir)? {
            let whole = dir.join(&path);
            match kind {
                Kind::Directory => trusted(&whole, trust.directory(&whole))?,
                Kind::Link if leads_below(&path, &whole)? => {}
                Kind::Link => return Ok(Found::Other(format!("{path} leads out of it"))),
                Kind::File if !sums.0.contains_key(&path) => {
                    return Ok(Found::Other(format!("{path} was put there")));
                }
                Kind::File => {
                    if let Found::Other(wrong) = sums.check_one(dir, &path, trust)? {
                        return Ok(Found::Other(wrong));
                    }
                    seen += 1;
                }
            }
        }
        if seen == sums.0.len() {
            return Ok(Found::Built);
        }
        Ok(Found::Other("a file is missing".to_owned()))
    }

    fn read(dir: &Path, trust: &Trust) -> Result<Result<Self, String>, StoreError> {
        let path = dir.join(SUMS);
        let Some(file) = open(&path, trust)? else {
            return Ok(Err(format!("{SUMS} is missing")));
        };
        let mut text = String::new();
        match file.take(BYTES_MAX).read_to_string(&mut text) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            read => {
                read.map_err(StoreError::io("read", &path))?;
            }
        }
        Ok(Self::parse(&text).ok_or_else(|| format!("{SUMS} is damaged")))
    }

    fn check_one(&self, dir: &Path, name: &str, trust: &Trust) -> Result<Found, StoreError> {
        let Some(expected) = self.0.get(name) else {
            return Ok(Found::Other(format!("{name} has no hash")));
        };
        let path = dir.join(name);
        let Some(file) = open(&path, trust)? else {
            return Ok(Found::Other(format!("{name} is missing")));
        };
        let found = hash(&file).map_err(StoreError::io("read", &path))?;
        if found == *expected {
            return Ok(Found::Built);
        }
        Ok(Found::Other(format!("{name} is not what was built")))
    }
}

/// The SHA-256 of what is in `file`, as lower-case hex.
pub(crate) fn hash(file: &File) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 1 << 16];
    let mut from = file;
    loop {
        match from.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => hasher.update(piece.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A file in the cache that is believed. `None`: it is not there.
pub(crate) fn open(path: &Path, trust: &Trust) -> Result<Option<File>, StoreError> {
    match trust.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => trusted(path, opened).map(Some),
    }
}

/// What was opened, if it is believed.
pub(crate) fn trusted<T>(
    path: &Path,
    opened: io::Result<Result<T, crate::Distrust>>,
) -> Result<T, StoreError> {
    opened
        .map_err(StoreError::io("open", path))?
        .map_err(|source| StoreError::NotTrusted {
            path: path.to_owned(),
            source,
        })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Link,
}

struct Entry {
    /// Below the slot.
    path: String,
    kind: Kind,
}

/// All that is below `dir`, but for the list itself and the mark in its place. What is neither file, directory nor link is an error.
fn below(dir: &Path) -> Result<Vec<Entry>, StoreError> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).map_err(StoreError::io("list", &at))? {
            let entry = entry.map_err(StoreError::io("list", &at))?;
            let whole = entry.path();
            let about = entry.file_type().map_err(StoreError::io("read", &whole))?;
            let strange = |why: &str| StoreError::io("keep", &whole)(io::Error::other(why));
            let kind = if about.is_dir() {
                left.push(whole.clone());
                Kind::Directory
            } else if about.is_symlink() {
                Kind::Link
            } else if about.is_file() {
                Kind::File
            } else {
                return Err(strange("it is neither a file nor a directory"));
            };
            let path = whole.strip_prefix(dir).ok().and_then(Path::to_str);
            // sha256sum writes such names in another way.
            let path = path.filter(|path| !path.contains(['\n', '\\']));
            let path = path.ok_or_else(|| strange("a name like this is not kept"))?;
            if ![SUMS, UNHASHED].contains(&path) {
                let path = path.to_owned();
                found.push(Entry { path, kind });
            }
        }
    }
    Ok(found)
}

/// Whether a link at `path` below a slot leads to a place below it. What is there was hashed.
fn leads_below(path: &str, whole: &Path) -> Result<bool, StoreError> {
    let target = fs::read_link(whole).map_err(StoreError::io("read", whole))?;
    let mut at = PathBuf::from(path);
    at.pop();
    for part in target.components() {
        match part {
            Component::Normal(name) => at.push(name),
            Component::CurDir => {}
            Component::ParentDir if at.pop() => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
