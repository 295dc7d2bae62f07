// SPDX-License-Identifier: GPL-2.0
//! The outer form of a recording: a magic number, then frames with a length and a checksum each.
//!
//! A frame is read only if it is whole, so whatever has happened to a file, all frames before the
//! damage are good, and its place is known.

use std::io::{self, Read, Write};

use thiserror::Error;

/// First bytes of each recording. The last one is the version of the format.
pub const MAGIC: [u8; 12] = *b"kvm-mmio\r\n\0\x06";

/// The first version that this program reads. Later ones have more kinds of frames.
const OLDEST: u8 = 2;

/// Length and checksum, 32 bits each, little endian.
const HEAD: usize = 8;

/// Longer frames are not written; a length above this is damage.
const MAX_PAYLOAD: u32 = 1 << 28;

/// What is wrong with a file.
#[derive(Debug, Error)]
pub enum Fault {
    #[error("this is no recording of kvm-mmio")]
    Magic,
    #[error("the format is version {0}, this program knows {OLDEST} to {newest}", newest = MAGIC[11])]
    Version(u8),
    #[error("the file ends in the middle of a frame")]
    Truncated,
    #[error("the file ends without an end frame, as its writer was killed or the file is cut off")]
    NoEnd,
    #[error("there is something behind the end frame")]
    Trailing,
    #[error("a frame says that it has {0} bytes")]
    Length(u32),
    #[error("a frame has checksum {computed:#010x}, and says {stored:#010x}")]
    Checksum { stored: u32, computed: u32 },
    #[error("a frame cannot be understood: {0}")]
    Content(String),
    #[error("reading failed: {0}")]
    Io(#[from] io::Error),
}

/// What is wrong with a file, and where.
#[derive(Debug, Error)]
#[error("damaged at byte {offset}: {fault}")]
pub struct Damage {
    /// First byte of the frame that is not good.
    pub offset: u64,
    pub fault: Fault,
}

/// Of the length too: a wrong length must not make another part of the file a good frame.
fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(payload);
    hasher.finalize()
}

/// Writes frames.
pub struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&MAGIC)?;
        Ok(Self { out })
    }

    /// Writes a frame, down to the file. Returns its size in bytes.
    pub fn write(&mut self, payload: &[u8]) -> io::Result<u64> {
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|length| *length <= MAX_PAYLOAD)
            .ok_or_else(|| io::Error::other("a frame of more than 256 MiB"))?
            .to_le_bytes();
        self.out.write_all(&length)?;
        self.out
            .write_all(&checksum(length, payload).to_le_bytes())?;
        self.out.write_all(payload)?;
        self.out.flush()?;
        Ok((HEAD + payload.len()) as u64)
    }
}

/// Reads frames.
pub struct Reader<R> {
    input: R,
    version: u8,
    /// First byte of the next frame.
    offset: u64,
}

impl<R: Read> Reader<R> {
    pub fn new(mut input: R) -> Result<Self, Damage> {
        let at_start = |fault| Damage { offset: 0, fault };
        let magic = read_up_to(&mut input, MAGIC.len()).map_err(|error| at_start(error.into()))?;
        let (&version, name) = magic.split_last().ok_or(at_start(Fault::Magic))?;
        if name != &MAGIC[..MAGIC.len() - 1] {
            return Err(at_start(Fault::Magic));
        }
        if !(OLDEST..=MAGIC[MAGIC.len() - 1]).contains(&version) {
            return Err(at_start(Fault::Version(version)));
        }
        Ok(Self {
            input,
            version,
            offset: MAGIC.len() as u64,
        })
    }

    /// That of the format.
    pub fn version(&self) -> u8 {
        self.version
    }

    /// Where the next frame begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next frame; None at the end of the file.
    pub fn read(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let head = read_up_to(&mut self.input, HEAD)?;
        if head.is_empty() {
            return Ok(None);
        }
        let head: [u8; HEAD] = head.try_into().map_err(|_| Fault::Truncated)?;
        let [a, b, c, d, stored @ ..] = head;
        let (length, stored) = ([a, b, c, d], u32::from_le_bytes(stored));
        let size = u32::from_le_bytes(length);
        if size > MAX_PAYLOAD {
            return Err(Fault::Length(size));
        }
        let payload = read_up_to(&mut self.input, size as usize)?;
        if payload.len() < size as usize {
            return Err(Fault::Truncated);
        }
        let computed = checksum(length, &payload);
        if stored != computed {
            return Err(Fault::Checksum { stored, computed });
        }
        self.offset += (HEAD + payload.len()) as u64;
        Ok(Some(payload))
    }
}

/// Reads `size` bytes, or less at the end of the file. Takes memory only for what is there.
fn read_up_to(input: impl Read, size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(size as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes).unwrap();
        for payload in payloads {
            writer.write(payload).unwrap();
        }
        bytes
    }

    /// The good frames, and where reading ended.
    fn read_all(bytes: &[u8]) -> (Vec<Vec<u8>>, u64, Option<Fault>) {
        let mut reader = match Reader::new(bytes) {
            Ok(reader) => reader,
            Err(damage) => return (Vec::new(), damage.offset, Some(damage.fault)),
        };
        let mut payloads = Vec::new();
        loop {
            match reader.read() {
                Ok(Some(payload)) => payloads.push(payload),
                Ok(None) => return (payloads, reader.offset(), None),
                Err(fault) => return (payloads, reader.offset(), Some(fault)),
            }
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = file(&[]);
        bytes[11] = 1;
        let (_, _, fault) = read_all(&bytes);
        let message = fault.unwrap().to_string();
        assert_eq!(
            message,
            "the format is version 1, this program knows 2 to 6"
        );
    }

    proptest! {
        #[test]
        fn frames_come_back(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let bytes = file(&payloads);
            let (read, end, fault) = read_all(&bytes);
            prop_assert!(fault.is_none());
            prop_assert_eq!(read, payloads);
            prop_assert_eq!(end, bytes.len() as u64);
        }

        /// Cut off anywhere: each frame that is whole is read, and the offset is that of the next.
        #[test]
        fn truncation(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8), cut in any::<prop::sample::Index>()) {
            let bytes = file(&payloads);
            let cut = cut.index(bytes.len());
            let (read, offset, fault) = read_all(&bytes[..cut]);
            let whole = (0..=payloads.len()).rev().find(|n| file(&payloads[..*n]).len() <= cut);
            let Some(whole) = whole else {
                prop_assert!(matches!(fault, Some(Fault::Magic)));
                return Ok(());
            };
            let boundary = file(&payloads[..whole]).len();
            prop_assert_eq!(read, &payloads[..whole]);
            prop_assert_eq!(offset, boundary as u64);
            prop_assert_eq!(matches!(fault, Some(Fault::Truncated)), cut != boundary);
        }

        /// One bit flipped anywhere: the frames before it are read, and no frame that was not written.
        #[test]
        fn corruption(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..8), place in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = file(&payloads);
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            // The same frames, of a version before.
            prop_assume!(place != MAGIC.len() - 1 || !(OLDEST..MAGIC[11]).contains(&bytes[11]));
            let (read, offset, fault) = read_all(&bytes);
            let before = (0..=payloads.len()).rev().find(|n| file(&payloads[..*n]).len() <= place);
            let good = before.unwrap_or(0);
            prop_assert!(fault.is_some());
            prop_assert_eq!(read, &payloads[..good]);
            let boundary = before.map_or(0, |n| file(&payloads[..n]).len());
            prop_assert_eq!(offset, boundary as u64);
        }

        #[test]
        fn anything_behind_the_magic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut file = MAGIC.to_vec();
            file.extend(bytes);
            read_all(&file);
        }
    }
}
