//! What is to be run in the emulated host: written outside, read by its process 1.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::LabError;

/// A program with all that it sees of its caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The program: an absolute path.
    program: Bytes,
    arguments: Vec<Bytes>,
    environment: Vec<(Bytes, Bytes)>,
    directory: Bytes,
    /// Standard output and standard error are terminals outside.
    pub(crate) terminals: Terminals,
}

/// Which of the caller's streams are terminals, and how large theirs is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Terminals {
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    /// In characters; 0 where it is not known.
    pub(crate) rows: u16,
    pub(crate) columns: u16,
}

/// A string of the operating system: any bytes but NUL. JSON has only text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Bytes(Vec<u8>);

impl From<OsString> for Bytes {
    fn from(text: OsString) -> Self {
        Self(text.into_vec())
    }
}

impl From<&Bytes> for OsString {
    fn from(bytes: &Bytes) -> Self {
        Self::from_vec(bytes.0.clone())
    }
}

impl Job {
    /// `program` (an absolute path) with `arguments`, in this process's directory and environment,
    /// with terminals where this process has them.
    ///
    /// # Errors
    /// There is no current directory.
    pub fn here(program: PathBuf, arguments: Vec<OsString>) -> std::io::Result<Self> {
        let directory = std::env::current_dir()?;
        let mut environment: Vec<_> = std::env::vars_os()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        // The order is the operating system's whim.
        environment.sort_by(|(a, _): &(Bytes, Bytes), (b, _)| a.0.cmp(&b.0));
        Ok(Self {
            program: program.into_os_string().into(),
            arguments: arguments.into_iter().map(Bytes::from).collect(),
            environment,
            directory: directory.into_os_string().into(),
            terminals: Terminals::here(),
        })
    }

    /// Writes it to a file in `dir`, for process 1.
    pub(crate) fn write(&self, dir: &Path) -> Result<PathBuf, LabError> {
        let path = dir.join("job.json");
        let text = serde_json::to_vec(self).map_err(|error| LabError::Io {
            what: "write down what to run".to_owned(),
            source: error.into(),
        })?;
        fs::write(&path, text).map_err(LabError::io(format!("write {}", path.display())))?;
        Ok(path)
    }

    pub(crate) fn program(&self) -> PathBuf {
        OsString::from(&self.program).into()
    }

    pub(crate) fn directory(&self) -> PathBuf {
        OsString::from(&self.directory).into()
    }

    pub(crate) fn arguments(&self) -> impl Iterator<Item = OsString> {
        self.arguments.iter().map(OsString::from)
    }

    pub(crate) fn environment(&self) -> impl Iterator<Item = (OsString, OsString)> {
        self.environment
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
    }

    /// Sets a variable of the program's environment.
    pub fn set(&mut self, name: &str, value: &str) {
        let bytes = |text: &str| Bytes(text.as_bytes().to_vec());
        self.environment
            .retain(|(known, _)| known.0 != name.as_bytes());
        self.environment.push((bytes(name), bytes(value)));
    }

    /// All paths that arguments may be meant as, whether there is anything or not.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let directory = self.directory();
        self.arguments()
            .flat_map(|argument| {
                // `--kernel=FILE`, and `--file HOST:GUEST`.
                let bytes = argument.as_bytes();
                let value = bytes.split(|b| *b == b'=').next_back().unwrap_or(bytes);
                let first = value.split(|b| *b == b':').next().unwrap_or(value);
                [bytes, value, first].map(|path| directory.join(OsString::from_vec(path.to_vec())))
            })
            .collect()
    }

    /// Arguments that are paths of files here.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut paths = self.paths();
        paths.retain(|path| path.is_file());
        paths
    }

    /// Directories that the program may write to: its own, and those of paths among its arguments.
    pub(crate) fn directories(&self) -> BTreeSet<PathBuf> {
        let paths = self.paths().into_iter().filter_map(|path| {
            let parent = path.parent()?.to_owned();
            [path, parent].into_iter().find(|path| path.is_dir())
        });
        paths.chain([self.directory()]).collect()
    }
}

impl Terminals {
    fn here() -> Self {
        use std::io::IsTerminal;
        let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
        let size = rustix::termios::tcgetwinsize(&stdout)
            .or_else(|_| rustix::termios::tcgetwinsize(&stderr));
        let (rows, columns) = size.map_or((0, 0), |size| (size.ws_row, size.ws_col));
        Self {
            stdout: stdout.is_terminal(),
            stderr: stderr.is_terminal(),
            rows,
            columns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(arguments: &[&str]) -> Job {
        let arguments = arguments.iter().map(OsString::from).collect();
        Job::here("/bin/true".into(), arguments).expect("a current directory")
    }

    #[test]
    fn a_job_is_read_as_it_was_written_whatever_its_bytes() {
        let mut job = job(&["a b", "--x=\"y\""]);
        job.arguments.push(Bytes(vec![0xff, b'\n', 0x80]));
        let text = serde_json::to_vec(&job).expect("written");
        assert_eq!(serde_json::from_slice::<Job>(&text).expect("read"), job);
    }

    #[test]
    fn a_variable_that_is_set_replaces_the_callers() {
        let mut job = job(&[]);
        job.set("HOME", "/a");
        job.set("HOME", "/b");
        let homes: Vec<_> = job
            .environment()
            .filter(|(name, _)| name == "HOME")
            .collect();
        assert_eq!(homes, [("HOME".into(), "/b".into())]);
    }

    #[test]
    fn files_are_found_among_arguments_however_they_are_given() {
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/src/job.rs");
        let job = job(&[
            "run",
            "src/lib.rs",
            &format!("--kernel={here}"),
            &format!("{here}:/bin/x"),
            "no/such/file",
        ]);
        let dir = std::env::current_dir().expect("a current directory");
        assert_eq!(
            job.files(),
            [
                dir.join("src/lib.rs"),
                dir.join("src/lib.rs"),
                dir.join("src/lib.rs"),
                here.into(),
                here.into(),
                here.into(),
            ]
        );
    }

    #[test]
    fn directories_are_those_that_results_can_be_written_to() {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let job = job(&[
            "run",
            &format!("--json={source}/out.json"),
            "--html",
            "none/out.html",
            "/etc",
        ]);
        let dir = std::env::current_dir().expect("a current directory");
        assert_eq!(
            job.directories(),
            [dir, source.into(), "/etc".into()].into()
        );
    }
}
