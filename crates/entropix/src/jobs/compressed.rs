//! Compressed inputs, opened by their ending and read as a stream: memory does not depend on what they unpack to.

use ruzstd::decoding::StreamingDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// Bytes read ahead of a line.
const BUFFER_BYTES: usize = 1 << 16;

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// Not at all.
    Plain,
    /// `.gz`
    Gzip,
    /// `.zst`, `.zstd`
    Zstd,
    /// `.parquet`: no packed text, but rows; see [`super::parquet`].
    Parquet,
}

impl Packing {
    /// What the ending of `path` says.
    pub(super) fn of(path: &Path) -> Self {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("gz") => Packing::Gzip,
            Some("zst" | "zstd") => Packing::Zstd,
            _ if super::parquet::is_parquet(path) => Packing::Parquet,
            _ => Packing::Plain,
        }
    }

    /// What `file` holds, unpacked.
    pub(super) fn reader(self, file: File) -> Box<dyn BufRead> {
        let file = BufReader::with_capacity(BUFFER_BYTES, file);
        match self {
            Packing::Plain | Packing::Parquet => Box::new(file),
            Packing::Gzip => {
                let unpacked = flate2::bufread::MultiGzDecoder::new(file);
                Box::new(BufReader::with_capacity(BUFFER_BYTES, unpacked))
            }
            Packing::Zstd => {
                let unpacked = ZstdFrames(Frame::Between(file));
                Box::new(BufReader::with_capacity(BUFFER_BYTES, unpacked))
            }
        }
    }
}

/// All frames of a zstd file, one after the other.
struct ZstdFrames(Frame);

enum Frame {
    Between(BufReader<File>),
    Within(Box<StreamingDecoder<BufReader<File>, ruzstd::decoding::FrameDecoder>>),
    /// An error was told.
    Broken,
}

fn damaged(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {why}"))
}

impl Read for ZstdFrames {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(&mut self.0, Frame::Broken) {
                Frame::Broken => return Err(damaged("the stream is damaged")),
                Frame::Between(mut file) => {
                    if file.fill_buf()?.is_empty() {
                        self.0 = Frame::Between(file);
                        return Ok(0);
                    }
                    let frame = StreamingDecoder::new(file).map_err(damaged)?;
                    self.0 = Frame::Within(Box::new(frame));
                }
                Frame::Within(mut frame) => {
                    let n = frame.read(out).map_err(damaged)?;
                    if n > 0 || out.is_empty() {
                        self.0 = Frame::Within(frame);
                        return Ok(n);
                    }
                    let (file, decoder) = frame.into_parts();
                    let stored = decoder.get_checksum_from_data();
                    if stored.is_some() && stored != decoder.get_calculated_checksum() {
                        return Err(io::Error::other("zstd: a frame does not have the checksum it names"));
                    }
                    self.0 = Frame::Between(file);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// What is read from a file of these bytes with this ending.
    fn unpack(name: &str, bytes: &[u8]) -> io::Result<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let mut text = String::new();
        Packing::of(&path).reader(File::open(&path).unwrap()).read_to_string(&mut text)?;
        Ok(text)
    }

    fn zstd(text: &str) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn several_members_are_one_text() {
        let long = "a line\n".repeat(50_000);
        for (name, pack) in [("x.gz", gzip as fn(&str) -> Vec<u8>), ("x.zst", zstd), ("x.zstd", zstd)] {
            let both = [pack(&long), pack("end\n")].concat();
            assert_eq!(unpack(name, &both).unwrap(), format!("{long}end\n"), "{name}");
        }
        assert_eq!(unpack("x.jsonl", b"plain").unwrap(), "plain");
    }

    /// What `zstd --check` 1.5 and `gzip -n` 1.12 write of the same four lines.
    #[test]
    fn what_other_programs_packed_is_read() {
        let bytes = |hex: &str| -> Vec<u8> {
            let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
            digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
        };
        let text = "{\"prompt\": \"a\"}\n".repeat(4);
        let zstd = "28b52ffd0458bd0000807b2270726f6d7074223a202261227d0a01009a682e01c781b519";
        assert_eq!(unpack("x.zst", &bytes(zstd)).unwrap(), text);
        let gzip = "1f8b0800000000000003ab562a28cacf2d2851b252504a54aae5aa26910f00ead69afe40000000";
        assert_eq!(unpack("x.gz", &bytes(gzip)).unwrap(), text);
    }

    #[test]
    fn damage_is_an_error() {
        for (name, packed) in [("x.gz", gzip("some text\n")), ("x.zst", zstd("some text\n"))] {
            assert!(unpack(name, &packed[..packed.len() - 3]).is_err(), "{name}: cut");
            assert!(unpack(name, b"no such format").is_err(), "{name}: something else");
            let mut flipped = packed;
            let last = flipped.len() - 1;
            flipped[last] ^= 1;
            assert!(unpack(name, &flipped).is_err(), "{name}: a flipped bit of the check");
        }
    }
}
