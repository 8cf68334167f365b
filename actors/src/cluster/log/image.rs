//! The replicated state in a file: snapshots of the log, and backups.
//!
//! ```text
//! "TROUPE" | format u16 | header length u32 | header | header's CRC-32 u32
//! chunk length u32 | chunk        … as the store's snapshots give them
//! 0 u32 | number of chunks u64 | SHA-256 of all before
//! ```
//! Numbers are little end first. A file that was cut off, grew or was changed anywhere is told by its end.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

use crate::store::replicated::SNAPSHOT_CHUNK_BYTES_MAX;

const MAGIC: &[u8; 6] = b"TROUPE";
const FORMAT: u16 = 1;
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// Why a file is no image.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageError {
    #[error("it cannot be read or written: {0}")]
    Io(#[from] io::Error),
    #[error("it does not begin as such a file does")]
    NoImage,
    #[error("it has format {0}, this troupe knows format {FORMAT}")]
    UnknownFormat(u16),
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

/// Writes an image.
pub(super) struct ImageWriter<W> {
    out: W,
    digest: Sha256,
    chunks: u64,
}

impl<W: Write> ImageWriter<W> {
    pub(super) fn begin(out: W, header: &[u8]) -> Result<Self, ImageError> {
        if header.len() > HEADER_BYTES_MAX {
            return Err(ImageError::Damaged("its header is too long"));
        }
        let mut writer = Self {
            out,
            digest: Sha256::new(),
            chunks: 0,
        };
        writer.put(MAGIC)?;
        writer.put(&FORMAT.to_le_bytes())?;
        writer.put(&length(header)?.to_le_bytes())?;
        writer.put(header)?;
        writer.put(&crc32fast::hash(header).to_le_bytes())?;
        Ok(writer)
    }

    pub(super) fn chunk(&mut self, chunk: &[u8]) -> Result<(), ImageError> {
        self.put(&length(chunk)?.to_le_bytes())?;
        self.put(chunk)?;
        self.chunks += 1;
        Ok(())
    }

    /// Writes the end, and gives back what it wrote to.
    pub(super) fn finish(mut self) -> Result<W, ImageError> {
        self.put(&0_u32.to_le_bytes())?;
        self.put(&self.chunks.to_le_bytes())?;
        let digest = self.digest.finalize_reset();
        self.out.write_all(&digest)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.out.write_all(bytes)
    }
}

fn length(bytes: &[u8]) -> Result<u32, ImageError> {
    u32::try_from(bytes.len()).map_err(|_| ImageError::Damaged("a part is too long"))
}

/// Reads an image.
pub(super) struct ImageReader<R> {
    input: R,
    digest: Sha256,
    header: Vec<u8>,
    chunks: u64,
}

impl<R: Read> ImageReader<R> {
    pub(super) fn begin(input: R) -> Result<Self, ImageError> {
        let mut reader = Self {
            input,
            digest: Sha256::new(),
            header: Vec::new(),
            chunks: 0,
        };
        if reader.take::<6>().map_err(|_| ImageError::NoImage)? != *MAGIC {
            return Err(ImageError::NoImage);
        }
        let format = u16::from_le_bytes(reader.take()?);
        if format != FORMAT {
            return Err(ImageError::UnknownFormat(format));
        }
        let header_bytes = u32::from_le_bytes(reader.take()?) as usize;
        if header_bytes > HEADER_BYTES_MAX {
            return Err(ImageError::Damaged("its header is too long"));
        }
        let header = reader.take_many(header_bytes)?;
        if u32::from_le_bytes(reader.take()?) != crc32fast::hash(&header) {
            return Err(ImageError::Damaged("its header's checksum is wrong"));
        }
        reader.header = header;
        Ok(reader)
    }

    pub(super) fn header(&self) -> &[u8] {
        &self.header
    }

    /// The next chunk; nothing after the last, once the end was found to be right.
    pub(super) fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, ImageError> {
        let bytes = u32::from_le_bytes(self.take()?) as usize;
        if bytes > SNAPSHOT_CHUNK_BYTES_MAX {
            return Err(ImageError::Damaged("a chunk is too long"));
        }
        if bytes > 0 {
            self.chunks += 1;
            return self.take_many(bytes).map(Some);
        }
        let chunks = u64::from_le_bytes(self.take()?);
        let found: [u8; 32] = self.digest.finalize_reset().into();
        let mut written = [0; 32];
        self.input.read_exact(&mut written)?;
        if chunks != self.chunks || written != found {
            return Err(ImageError::Damaged("its checksum is wrong"));
        }
        if self.input.read(&mut [0])? != 0 {
            return Err(ImageError::Damaged("something comes after its end"));
        }
        Ok(None)
    }

    /// Reads to the end, and says whether all is right.
    pub(super) fn verify(mut self) -> Result<(), ImageError> {
        while self.next_chunk()?.is_some() {}
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], ImageError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn take_many(&mut self, count: usize) -> Result<Vec<u8>, ImageError> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ImageError> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ImageError::Damaged("it is cut off"),
            _ => ImageError::Io(error),
        })?;
        self.digest.update(&*bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn image() -> Vec<u8> {
        let mut writer = ImageWriter::begin(Vec::new(), b"header").unwrap();
        writer.chunk(b"one").unwrap();
        writer.chunk(&[7; 1000]).unwrap();
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<(), ImageError> {
        ImageReader::begin(bytes)?.verify()
    }

    #[test]
    fn what_is_written_is_read() {
        let image = image();
        let mut reader = ImageReader::begin(image.as_slice()).unwrap();
        assert_eq!(reader.header(), b"header");
        assert_eq!(reader.next_chunk().unwrap().unwrap(), b"one");
        assert_eq!(reader.next_chunk().unwrap().unwrap(), [7; 1000]);
        assert_eq!(reader.next_chunk().unwrap(), None);
    }

    #[test]
    fn every_cut_every_flipped_bit_and_every_addition_is_found() {
        let image = image();
        for bytes in 0..image.len() {
            assert!(
                read(&image[..bytes]).is_err(),
                "cut after {bytes} bytes, unnoticed"
            );
        }
        for bit in 0..image.len() * 8 {
            let mut damaged = image.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged).is_err(), "bit {bit} was flipped unnoticed");
        }
        assert!(read(&[image.as_slice(), b"\0"].concat()).is_err());
    }
}
