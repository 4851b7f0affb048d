//! What the program has written, for the outer half.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::port::Port;
use super::{InitError, failed};
use crate::job::Job;
use crate::wire::{FilePart, Frame, LIMIT};

/// Sends the files that the program has written, in the order of their names.
pub(super) fn send(changes: &Path, job: &Job, port: &Port) -> Result<(), InitError> {
    let mut directories = vec![changes.to_owned()];
    let mut files = vec![];
    while let Some(directory) = directories.pop() {
        let list = || failed(format!("list {}", directory.display()));
        for entry in fs::read_dir(&directory).map_err(list())? {
            let entry = entry.map_err(list())?;
            let kind = entry.file_type().map_err(list())?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    let asked: BTreeSet<PathBuf> = job.paths().into_iter().collect();
    for file in files {
        let Ok(inside) = file.strip_prefix(changes) else {
            continue;
        };
        let outside = Path::new("/").join(inside);
        if PRIVATE.iter().any(|dir| inside.starts_with(dir)) && !asked.contains(&outside) {
            continue;
        }
        send_file(&file, &outside, port).map_err(failed(format!("read {}", file.display())))?;
    }
    Ok(())
}

/// What is written here is of no use outside, unless an argument names it.
const PRIVATE: [&str; 5] = ["proc", "sys", "dev", "run", "tmp"];

fn send_file(file: &Path, outside: &Path, port: &Port) -> io::Result<()> {
    let mut content = File::open(file)?;
    // The path is in each frame too.
    let mut buffer = vec![0; LIMIT / 2];
    let mut first = true;
    loop {
        let length = content.read(&mut buffer)?;
        if length == 0 && !first {
            return Ok(());
        }
        port.send(&Frame::File(FilePart {
            path: outside.to_owned(),
            first,
            content: buffer.get(..length).unwrap_or_default().to_vec(),
        }));
        first = false;
    }
}
