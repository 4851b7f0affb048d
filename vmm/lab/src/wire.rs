//! What the two halves say to each other: frames of one byte for the kind, four for the length
//! (little-endian), and as many as that says.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

/// The most that one frame carries, in bytes.
pub(crate) const LIMIT: usize = 1 << 20;

/// The name of the virtio port, under QEMU.
pub(crate) const PORT: &str = "ipirig.lab";

/// How often the host says that it is alive.
pub(crate) const PULSE: Duration = Duration::from_secs(1);

/// One thing said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Process 1 is there and starts the program.
    Ready,
    /// The host still runs programs: said every [`PULSE`] of its time.
    Alive,
    /// The program printed this.
    Stdout(Vec<u8>),
    /// The program printed this to standard error.
    Stderr(Vec<u8>),
    /// The program wrote a file here, of which this is the next part.
    File(FilePart),
    /// The program ended with this code.
    Exit(u8),
    /// The program could not be started, for this reason.
    Failed(String),
    /// To the host: send the program this signal.
    Signal(i32),
}

/// A part of a file, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilePart {
    pub(crate) path: PathBuf,
    /// Whether the file begins here.
    pub(crate) first: bool,
    pub(crate) content: Vec<u8>,
}

/// Bytes that are no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// No frame begins with this byte.
    #[error("no frame is of kind {0}")]
    Kind(u8),
    /// More than a frame can have.
    #[error("a frame of {0} bytes")]
    Length(u32),
    /// The content is not what the kind says.
    #[error("the content of a frame of kind {0} makes no sense")]
    Content(u8),
    /// It could not be read.
    #[error("reading failed")]
    Read(#[source] io::Error),
}

const READY: u8 = b'r';
const ALIVE: u8 = b'a';
const STDOUT: u8 = b'o';
const STDERR: u8 = b'e';
const FILE: u8 = b'f';
const EXIT: u8 = b'x';
const FAILED: u8 = b'!';
const SIGNAL: u8 = b's';

impl Frame {
    /// Writes it in one piece.
    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, content) = match self {
            Self::Ready => (READY, vec![]),
            Self::Alive => (ALIVE, vec![]),
            Self::Stdout(bytes) => (STDOUT, bytes.clone()),
            Self::Stderr(bytes) => (STDERR, bytes.clone()),
            Self::File(part) => (FILE, part.bytes()),
            Self::Exit(code) => (EXIT, vec![*code]),
            Self::Failed(reason) => (FAILED, reason.clone().into_bytes()),
            Self::Signal(number) => (SIGNAL, number.to_le_bytes().to_vec()),
        };
        let too_long = || io::Error::other(format!("a frame of {} bytes", content.len()));
        let length = u32::try_from(content.len()).map_err(|_| too_long())?;
        if content.len() > LIMIT {
            return Err(too_long());
        }
        let mut bytes = vec![kind];
        bytes.extend(length.to_le_bytes());
        bytes.extend(content);
        to.write_all(&bytes)?;
        to.flush()
    }

    /// Reads the next one; `None` at the end.
    pub(crate) fn read(from: &mut impl Read) -> Result<Option<Self>, FrameError> {
        let mut kind = [0];
        match from.read_exact(&mut kind) {
            Ok(()) => {}
            Err(error) if is_end(&error) => return Ok(None),
            Err(error) => return Err(FrameError::Read(error)),
        }
        let mut length = [0; 4];
        from.read_exact(&mut length).map_err(FrameError::Read)?;
        let length = u32::from_le_bytes(length);
        let size = usize::try_from(length)
            .ok()
            .filter(|size| *size <= LIMIT)
            .ok_or(FrameError::Length(length))?;
        let mut content = vec![0; size];
        from.read_exact(&mut content).map_err(FrameError::Read)?;
        Self::of(kind[0], content).map(Some)
    }

    fn of(kind: u8, content: Vec<u8>) -> Result<Self, FrameError> {
        let nonsense = || FrameError::Content(kind);
        Ok(match kind {
            READY if content.is_empty() => Self::Ready,
            ALIVE if content.is_empty() => Self::Alive,
            STDOUT => Self::Stdout(content),
            STDERR => Self::Stderr(content),
            FILE => Self::File(FilePart::of(&content).ok_or_else(nonsense)?),
            EXIT => match content[..] {
                [code] => Self::Exit(code),
                _ => return Err(nonsense()),
            },
            FAILED => Self::Failed(String::from_utf8(content).map_err(|_| nonsense())?),
            SIGNAL => {
                let bytes = <[u8; 4]>::try_from(&content[..]).map_err(|_| nonsense())?;
                Self::Signal(i32::from_le_bytes(bytes))
            }
            READY | ALIVE => return Err(nonsense()),
            _ => return Err(FrameError::Kind(kind)),
        })
    }
}

impl FilePart {
    /// Whether it is the first, the path, a NUL, the content.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.first)];
        bytes.extend(self.path.as_os_str().as_bytes());
        bytes.push(0);
        bytes.extend(&self.content);
        bytes
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first()?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        let (path, content) = rest.split_at_checked(end)?;
        Some(Self {
            path: OsString::from_vec(path.to_vec()).into(),
            first: *first != 0,
            content: content.get(1..)?.to_vec(),
        })
    }
}

/// Nobody is at the other side any more.
fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Frame> {
        vec![
            Frame::Ready,
            Frame::Alive,
            Frame::Stdout(vec![0, 255, b'\n']),
            Frame::Stderr(vec![]),
            Frame::File(FilePart {
                path: "/tmp/a b".into(),
                first: true,
                content: vec![1, 2, 3],
            }),
            Frame::Exit(130),
            Frame::Failed("no such file".to_owned()),
            Frame::Signal(2),
        ]
    }

    fn read_all(mut bytes: &[u8]) -> Result<Vec<Frame>, FrameError> {
        let mut frames = vec![];
        while let Some(frame) = Frame::read(&mut bytes)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn frames_are_read_as_they_were_written() {
        let mut bytes = vec![];
        for frame in all() {
            frame.write(&mut bytes).expect("written");
        }
        assert_eq!(read_all(&bytes).expect("read"), all());
    }

    #[test]
    fn frames_that_end_early_or_make_no_sense_are_errors() {
        let cases: [(&[u8], &str); 7] = [
            (b"z\0\0\0\0", "no frame is of kind 122"),
            (b"o\0\0\0\x7f", "a frame of 2130706432 bytes"),
            (b"o\x02\0\0\0a", "reading failed"),
            (b"o\x02\0", "reading failed"),
            (
                b"x\0\0\0\0",
                "the content of a frame of kind 120 makes no sense",
            ),
            (
                b"r\x01\0\0\0a",
                "the content of a frame of kind 114 makes no sense",
            ),
            (
                b"f\x01\0\0\0a",
                "the content of a frame of kind 102 makes no sense",
            ),
        ];
        for (bytes, message) in cases {
            let error = read_all(bytes).expect_err("an error");
            assert_eq!(error.to_string(), message, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_too_long_for_a_frame_is_not_written() {
        let mut bytes = vec![];
        let frame = Frame::Stdout(vec![0; LIMIT + 1]);
        assert!(frame.write(&mut bytes).is_err());
        assert!(bytes.is_empty());
    }
}
