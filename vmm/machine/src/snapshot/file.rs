//! Writing a snapshot's file, and looking one through.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use blake3::{Hash, Hasher};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::index::{Index, PAGE, Part, Section};
use super::{SavedMachine, SnapshotError};
use crate::memory::{self, MailboxMemory};

/// First bytes of each snapshot.
const MAGIC: &[u8; 15] = b"ipirig snapshot";
/// The format's version: to be raised with each change of what is in the file. 2: the XSAVE area is as
/// long as KVM says, and the TSC's frequency is there.
const VERSION: u8 = 2;
/// Magic and version, then where the index begins, how long it is, and its hash. The rest of the page is zero.
const HEADER: usize = 16 + 8 + 8 + 32;
/// Memory is looked at and left out in pieces of this size: few enough mappings, and still most of
/// what is zero.
const PIECE: usize = 64 << 10;
/// An index of the largest machine is a fraction of this.
const INDEX_MAX: u64 = 16 << 20;

/// Writes a snapshot to an empty file.
pub(crate) fn write(
    file: &mut File,
    key: &str,
    state: &SavedMachine,
    mailbox: &MailboxMemory,
    ram: &GuestMemoryMmap,
) -> io::Result<()> {
    file.seek(SeekFrom::Start(PAGE))?;
    let mut state = serde_json::to_vec(state).map_err(io::Error::other)?;
    // JSON may end in spaces.
    state.resize(state.len().next_multiple_of(PAGE as usize), b' ');
    let state = append(file, &state)?;
    let mailbox = append(file, &mailbox.bytes())?;
    let (memory, memory_hash) = append_memory(file, ram)?;
    let index = Index {
        key: key.to_owned(),
        state,
        mailbox,
        memory_bytes: memory::bytes(ram),
        memory,
        memory_hash,
    };
    let index = serde_json::to_vec(&index).map_err(io::Error::other)?;
    let at = file.stream_position()?;
    file.write_all(&index)?;

    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(MAGIC);
    header.push(VERSION);
    header.extend_from_slice(&at.to_le_bytes());
    header.extend_from_slice(&(index.len() as u64).to_le_bytes());
    header.extend_from_slice(blake3::hash(&index).as_bytes());
    header.resize(PAGE as usize, 0);
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&header)
}

fn append(file: &mut File, bytes: &[u8]) -> io::Result<Section> {
    let offset = file.stream_position()?;
    file.write_all(bytes)?;
    Ok(Section {
        offset,
        bytes: bytes.len() as u64,
        hash: blake3::hash(bytes).to_string(),
    })
}

fn append_memory(file: &mut File, ram: &GuestMemoryMmap) -> io::Result<(Vec<Part>, String)> {
    let end = memory::bytes(ram);
    let mut parts: Vec<Part> = Vec::new();
    let mut hasher = Hasher::new();
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < end {
        let bytes = (end - at).min(PIECE as u64);
        let piece = piece.get_mut(..bytes as usize).unwrap_or_default();
        ram.read_slice(piece, GuestAddress(at))
            .map_err(io::Error::other)?;
        if piece.iter().any(|&byte| byte != 0) {
            match parts.last_mut() {
                Some(part) if part.at + part.bytes == at => part.bytes += bytes,
                _ => parts.push(Part {
                    at,
                    bytes,
                    offset: file.stream_position()?,
                }),
            }
            hasher.update(piece);
            file.write_all(piece)?;
        }
        at += bytes;
    }
    Ok((parts, hasher.finalize().to_string()))
}

/// A copy of `file` in memory that nobody can change any more.
pub(super) fn copy(mut file: &File) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut copy = File::from(memfd_create("ipirig-snapshot", flags)?);
    file.seek(SeekFrom::Start(0))?;
    io::copy(&mut file, &mut copy)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&copy, seals)?;
    Ok(copy)
}

/// Looks `file` through, but for the sections, of which [`section`] does.
pub(super) fn check(file: &File, key: &str) -> Result<Index, SnapshotError> {
    const HEAD: SnapshotError = SnapshotError::Damaged("its header is none");
    let length = file.metadata().map_err(SnapshotError::Read)?.len();
    if length < PAGE {
        return Err(SnapshotError::Damaged("it is cut short"));
    }
    let header = bytes(file, 0, PAGE)?;
    let (magic, rest) = header.split_first_chunk::<15>().ok_or(HEAD)?;
    let (&found, rest) = rest.split_first().ok_or(HEAD)?;
    if magic != MAGIC {
        return Err(HEAD);
    }
    if found != VERSION {
        let read = VERSION;
        return Err(SnapshotError::Version { found, read });
    }
    let (at, rest) = rest.split_first_chunk::<8>().ok_or(HEAD)?;
    let (size, rest) = rest.split_first_chunk::<8>().ok_or(HEAD)?;
    let (hash, rest) = rest.split_first_chunk::<32>().ok_or(HEAD)?;
    if rest.iter().any(|&byte| byte != 0) {
        return Err(HEAD);
    }
    let (at, size) = (u64::from_le_bytes(*at), u64::from_le_bytes(*size));
    if at.checked_add(size) != Some(length) {
        return Err(SnapshotError::Damaged("it is cut short"));
    }
    if size > INDEX_MAX {
        return Err(HEAD);
    }
    let index = bytes(file, at, size)?;
    if blake3::hash(&index) != Hash::from_bytes(*hash) {
        return Err(SnapshotError::Damaged("its index is not what was written"));
    }
    let index: Index = serde_json::from_slice(&index)
        .map_err(|_| SnapshotError::Damaged("its index is no index"))?;
    if index.key != key {
        return Err(SnapshotError::Misfit("it is that of another machine"));
    }
    index.check(PAGE, at)?;
    check_memory(file, &index)?;
    Ok(index)
}

fn check_memory(mut file: &File, index: &Index) -> Result<(), SnapshotError> {
    let Some(first) = index.memory.first() else {
        return Err(SnapshotError::Damaged("it has no memory"));
    };
    // The parts lie one after the other.
    let total = index.memory.iter().map(|part| part.bytes).sum();
    file.seek(SeekFrom::Start(first.offset))
        .map_err(SnapshotError::Read)?;
    let mut hasher = Hasher::new();
    let copied = io::copy(&mut file.take(total), &mut hasher).map_err(SnapshotError::Read)?;
    if copied != total || hasher.finalize().to_string() != index.memory_hash {
        return Err(SnapshotError::Damaged("its memory is not what was written"));
    }
    Ok(())
}

/// The bytes of a section that are what was written.
pub(super) fn section(file: &File, section: &Section) -> Result<Vec<u8>, SnapshotError> {
    let bytes = bytes(file, section.offset, section.bytes)?;
    if blake3::hash(&bytes).to_string() != section.hash {
        return Err(SnapshotError::Damaged("a part is not what was written"));
    }
    Ok(bytes)
}

/// Bytes that are within the file, as has been checked.
fn bytes(file: &File, offset: u64, bytes: u64) -> Result<Vec<u8>, SnapshotError> {
    let mut buffer = vec![0; usize::try_from(bytes).unwrap_or_default()];
    file.read_exact_at(&mut buffer, offset)
        .map_err(SnapshotError::Read)?;
    Ok(buffer)
}
