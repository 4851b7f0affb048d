//! What a snapshot is of: everything that decides how a machine comes to be what it is when its guest
//! is ready, so that one made of the same is the same.

use std::fs::File;
use std::io;
use std::path::Path;

use blake3::Hasher;

use super::SnapshotError;
use super::host_key::HostFiles;
use crate::config::Config;
use crate::cpuid;
use crate::host::Host;
use crate::machine::{MachineError, ResolvedConfig};

/// The program that runs, also where its file has been replaced since (proc(5)).
const PROGRAM: &str = "/proc/self/exe";

/// The key of the snapshot of a machine of `config` on this host, in hexadecimal digits: of the
/// contents of kernel and initramfs, the command line, roles, memory and APIC, of what this host's KVM
/// offers and lacks and how it is set up, of the host's kernel and microcode, and of this very program.
///
/// # Errors
/// A file cannot be read, or there can be no such machine.
pub fn snapshot_key(host: &Host, config: &Config) -> Result<String, MachineError> {
    key(host, config, &HostFiles::default())
}

fn key(host: &Host, config: &Config, files: &HostFiles) -> Result<String, MachineError> {
    let shape = ResolvedConfig::new(host, config)?;
    let facts = host.facts();
    let mut hasher = Hasher::new();
    let mut part = |name: &str, bytes: &[u8]| {
        // Lengths first: two parts never read as another two.
        for bytes in [name.as_bytes(), bytes] {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
    };
    for (name, path) in [
        ("program", Path::new(PROGRAM)),
        ("kernel", &config.kernel),
        ("initramfs", &config.initramfs),
    ] {
        part(name, &file_hash(path).map_err(SnapshotError::Read)?);
    }
    part("command line", shape.cmdline.as_bytes());
    part("roles", format!("{:?}", config.roles).as_bytes());
    part("memory", &config.memory_mib.to_le_bytes());
    part("CPU", facts.vendor.as_bytes());
    part("CPU model", facts.model.as_bytes());
    part("host kernel", facts.kernel.as_bytes());
    for (name, value) in files.facts() {
        part(&name, value.as_bytes());
    }
    part("TSC", &facts.tsc_khz.to_le_bytes());
    part("policy", format!("{:?}", shape.policy).as_bytes());
    for remedy in &host.remedies {
        part("remedy", remedy.text.as_bytes());
    }
    let table = cpuid::table(&host.supported, &shape.policy, 0)?;
    part("CPUID", format!("{:?}", table.as_slice()).as_bytes());
    Ok(hasher.finalize().to_string())
}

fn file_hash(path: &Path) -> io::Result<[u8; 32]> {
    let mut hasher = Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(*hasher.finalize().as_bytes())
}
