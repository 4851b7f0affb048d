//! The CD that Bochs' host boots from and has as its root: the programs, their shared libraries and
//! other files, each where it is on this machine.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::LabError;

/// Where Debian has the boot loader.
const ISOLINUX: [&str; 2] = [
    "/usr/lib/ISOLINUX/isolinux.bin",
    "/usr/lib/syslinux/modules/bios/ldlinux.c32",
];
/// Directories that the host's file systems are mounted on before anything can be written.
const PLACES: [&str; 6] = ["dev", "proc", "run", "sys", "tmp", "root"];
/// What the dynamic loader and the C library look at.
const SYSTEM: [&str; 3] = ["/etc/ld.so.cache", "/etc/passwd", "/etc/group"];

/// What is on the CD besides programs.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    /// Programs; their shared libraries are added.
    pub(crate) programs: Vec<PathBuf>,
    /// Other files.
    pub(crate) files: Vec<PathBuf>,
    /// Empty directories, unless there are files in them.
    pub(crate) directories: BTreeSet<PathBuf>,
    /// The kernel that is booted.
    pub(crate) kernel: &'a Path,
    /// Its command line.
    pub(crate) words: &'a str,
}

/// Writes the CD to `to`. `scratch` is an empty directory.
pub(crate) fn write(contents: &Contents<'_>, scratch: &Path, to: &Path) -> Result<(), LabError> {
    let empty = scratch.join("empty");
    fs::create_dir(&empty).map_err(LabError::io(format!("make {}", empty.display())))?;
    let menu = scratch.join("isolinux.cfg");
    let text = format!(
        "DEFAULT lab\nPROMPT 0\nTIMEOUT 1\nLABEL lab\n KERNEL vmlinuz\n APPEND {}\n",
        contents.words
    );
    fs::write(&menu, text).map_err(LabError::io(format!("write {}", menu.display())))?;

    let mut files: BTreeSet<PathBuf> = contents.files.iter().cloned().collect();
    files.extend(SYSTEM.map(PathBuf::from));
    for program in &contents.programs {
        files.insert(program.clone());
        files.extend(libraries(program)?);
    }
    let mut grafts = Grafts::default();
    for place in PLACES {
        grafts.add(Path::new("/").join(place).as_path(), &empty);
    }
    for directory in &contents.directories {
        grafts.add(directory, &empty);
    }
    for file in files.iter().filter(|file| file.is_file()) {
        grafts.add(file, file);
    }
    grafts.add(Path::new("/isolinux/vmlinuz"), contents.kernel);
    grafts.add(Path::new("/isolinux/isolinux.cfg"), &menu);
    for part in ISOLINUX.map(Path::new) {
        let name = part.file_name().unwrap_or_default();
        grafts.add(&Path::new("/isolinux").join(name), part);
    }
    let list = scratch.join("grafts");
    fs::write(&list, &grafts.0).map_err(LabError::io(format!("write {}", list.display())))?;

    let mut command = Command::new("genisoimage");
    command
        // Rock Ridge, with directories as deep as they are, and links followed.
        .args([
            "-quiet",
            "-R",
            "-D",
            "-f",
            "-graft-points",
            "-b",
            "isolinux/isolinux.bin",
        ])
        .args([
            "-c",
            "isolinux/boot.cat",
            "-no-emul-boot",
            "-boot-load-size",
            "4",
        ])
        .args(["-boot-info-table", "-o"])
        .arg(to)
        .arg("-path-list")
        .arg(&list);
    run(command, "genisoimage").map(drop)
}

/// genisoimage's list: `PLACE=FILE` a line, with `\` before `=` and itself.
#[derive(Debug, Default)]
struct Grafts(Vec<u8>);

impl Grafts {
    fn add(&mut self, place: &Path, file: &Path) {
        for (path, end) in [(place, b'='), (file, b'\n')] {
            for &byte in path.as_os_str().as_bytes() {
                if matches!(byte, b'=' | b'\\') {
                    self.0.push(b'\\');
                }
                self.0.push(byte);
            }
            // A directory is grafted as what is in it.
            if end == b'=' && file.is_dir() {
                self.0.push(b'/');
            }
            self.0.push(end);
        }
    }
}

/// The shared libraries of a program, by the dynamic loader's own word. None for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, LabError> {
    let mut command = Command::new("ldd");
    command.arg(program);
    let Ok(output) = run(command, "ldd") else {
        // "not a dynamic executable"
        return Ok(vec![]);
    };
    Ok(named(&output))
}

/// The absolute paths in ldd's output.
fn named(output: &[u8]) -> Vec<PathBuf> {
    output
        .split(|byte| byte.is_ascii_whitespace())
        .filter(|word| word.starts_with(b"/"))
        .map(|word| OsString::from_vec(word.to_vec()).into())
        .collect()
}

fn run(mut command: Command, name: &'static str) -> Result<Vec<u8>, LabError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| LabError::Spawn {
            program: name.to_owned(),
            source,
        })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(LabError::Failed {
        program: name.to_owned(),
        output: said.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_an_equals_sign_is_quoted_for_genisoimage() {
        let mut grafts = Grafts::default();
        grafts.add(Path::new("/a=b"), Path::new("/c\\d"));
        assert_eq!(grafts.0, b"/a\\=b=/c\\\\d\n");
    }

    #[test]
    fn libraries_are_the_absolute_paths_that_ldd_prints() {
        let output =
            b"\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld.so (0x3)\n";
        assert_eq!(
            named(output),
            [
                PathBuf::from("/lib/libc.so.6"),
                PathBuf::from("/lib64/ld.so")
            ]
        );
    }

    #[test]
    fn a_program_of_this_machine_has_a_c_library() {
        let libraries = libraries(&std::env::current_exe().expect("a program")).expect("asked");
        let names: Vec<_> = libraries
            .iter()
            .filter_map(|path| path.file_name())
            .collect();
        assert!(names.iter().any(|name| *name == "libc.so.6"), "{names:?}");
    }
}
