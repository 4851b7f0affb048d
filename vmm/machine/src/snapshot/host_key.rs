//! What of a host decides how its guests run, and is no fact of KVM's: how KVM and the CPU are set up.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where Linux tells of itself. Tests have other places.
#[derive(Clone, Debug)]
pub(super) struct HostFiles {
    sys: PathBuf,
    proc: PathBuf,
}

impl Default for HostFiles {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            proc: "/proc".into(),
        }
    }
}

/// Modules of which parameters are looked at begin with this: kvm, kvm_intel, kvm_amd and others.
const MODULES: &str = "kvm";
/// Stands for a parameter that only root may read, or nobody.
const UNREADABLE: &str = "(unreadable)";

impl HostFiles {
    /// Everything, by name, in an order that does not depend on the file system's.
    pub(super) fn facts(&self) -> Vec<(String, String)> {
        let mut facts = self.module_parameters();
        facts.sort();
        facts.push(("microcode".to_owned(), self.microcode()));
        facts
    }

    /// `/sys/module/kvm*/parameters/*`: nested paging, the paravirtual clock and others change what a
    /// guest sees or what its instructions do.
    fn module_parameters(&self) -> Vec<(String, String)> {
        // Without a file there is no such parameter; one that vanishes meanwhile is none either.
        let entries = |path: &Path| -> Vec<PathBuf> {
            let entries = fs::read_dir(path).into_iter().flatten();
            entries.flatten().map(|entry| entry.path()).collect()
        };
        let name = |path: &Path| {
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        let mut found = Vec::new();
        for module in entries(&self.sys.join("module")) {
            let module_name = name(&module);
            if !module_name.starts_with(MODULES) {
                continue;
            }
            for parameter in entries(&module.join("parameters")) {
                let value = match fs::read(&parameter) {
                    Ok(value) => String::from_utf8_lossy(&value).trim_end().to_owned(),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(_) => UNREADABLE.to_owned(),
                };
                found.push((format!("{module_name}.{}", name(&parameter)), value));
            }
        }
        found
    }

    /// The microcode's revision as /proc/cpuinfo has it; empty where it has none.
    fn microcode(&self) -> String {
        let cpuinfo = fs::read_to_string(self.proc.join("cpuinfo")).unwrap_or_default();
        crate::host::cpuinfo_field(&cpuinfo, "microcode")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, HostFiles) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let files = HostFiles {
            sys: dir.path().join("sys"),
            proc: dir.path().join("proc"),
        };
        (dir, files)
    }

    fn facts(files: &[(&str, &str)]) -> Vec<(String, String)> {
        host(files).1.facts()
    }

    fn owned(facts: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = facts.iter().map(|&(a, b)| (a.to_owned(), b.to_owned()));
        owned.collect()
    }

    #[test]
    fn parameters_of_kvms_modules_and_the_microcode_are_found_in_order() {
        let found = facts(&[
            ("sys/module/kvm_amd/parameters/npt", "Y\n"),
            ("sys/module/kvm/parameters/tdp_mmu", "Y\n"),
            ("sys/module/kvm/parameters/halt_poll_ns", "200000\n"),
            ("sys/module/kvm/refcnt", "1\n"),
            ("sys/module/loop/parameters/max_loop", "8\n"),
            (
                "proc/cpuinfo",
                "processor\t: 0\nmicrocode\t: 0x2b000571\n\nprocessor\t: 1\nmicrocode\t: 0x1\n",
            ),
        ]);
        let expected = [
            ("kvm.halt_poll_ns", "200000"),
            ("kvm.tdp_mmu", "Y"),
            ("kvm_amd.npt", "Y"),
            ("microcode", "0x2b000571"),
        ];
        assert_eq!(found, owned(&expected));
    }

    #[test]
    fn a_parameter_that_cannot_be_read_and_a_host_without_any_are_facts_as_well() {
        let (dir, files) = host(&[]);
        assert_eq!(files.facts(), owned(&[("microcode", "")]));
        // A directory cannot be read as a file, whoever asks.
        fs::create_dir_all(dir.path().join("sys/module/kvm/parameters/secret")).unwrap();
        let expected = [("kvm.secret", UNREADABLE), ("microcode", "")];
        assert_eq!(files.facts(), owned(&expected));
    }
}
