//! Whether an output is what its job makes: some of its requests are computed again, and their lines compared byte for
//! byte.

use super::done::{RowHead, for_each_line};
use super::ids::{Key, key};
use entropix_model::{Error, Result};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::str::FromStr;

/// Which share of the requests is computed again: those whose ids hash below it, the same ones every time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample(f64);

impl Sample {
    /// Whether the request known as `id` is one of them.
    pub fn contains(&self, id: &str) -> bool {
        let key = key(id);
        let number = u32::from_le_bytes(key[..4].try_into().expect("a key has 16 bytes"));
        f64::from(number) < self.0 * 2f64.powi(32)
    }
}

impl FromStr for Sample {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share = text.strip_suffix('%').and_then(|percent| percent.parse::<f64>().ok());
        match share {
            Some(percent) if percent > 0.0 && percent <= 100.0 => Ok(Self(percent / 100.0)),
            _ => Err("wants a share above 0 % and at most 100 %, such as 1%".into()),
        }
    }
}

/// The lines of an output that are to be computed again, by hash.
pub struct Lines {
    lines: HashMap<Key, [u8; 32]>,
    /// Lines of the output.
    pub n_all: usize,
}

/// How the lines compare.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// Lines with the same bytes.
    pub n_same: usize,
    /// Ids of lines with others, in the order they were computed.
    pub different: Vec<String>,
    /// Lines whose requests the input no longer has.
    pub n_missing: usize,
}

impl Lines {
    /// Reads the lines of the output at `path` that `sample` has; all of them when it has none.
    ///
    /// # Errors
    /// `Data` for lines that no job wrote, `NoInput` and `Io` for a file that cannot be read.
    pub fn read(path: &Path, sample: Sample) -> Result<Self> {
        let mut found = Self { lines: HashMap::new(), n_all: 0 };
        let mut first = None;
        for_each_row(path, &mut |head, line| {
            found.n_all += 1;
            if sample.contains(&head.id) {
                found.lines.insert(key(&head.id), Sha256::digest(line).into());
            } else if first.is_none() {
                first = Some((key(&head.id), Sha256::digest(line).into()));
            }
        })?;
        if found.lines.is_empty() {
            found.lines.extend(first);
        }
        Ok(found)
    }

    /// How many are to be computed again.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether the line of `id` is to be computed again.
    pub fn contains(&self, id: &str) -> bool {
        self.lines.contains_key(&key(id))
    }

    /// Compares them with the lines computed now, which are at `path`.
    ///
    /// # Errors
    /// As [`Lines::read`].
    pub fn compare(&self, path: &Path) -> Result<Compared> {
        let mut compared = Compared::default();
        for_each_row(path, &mut |head, line| match self.lines.get(&key(&head.id)) {
            Some(hash) if *hash == <[u8; 32]>::from(Sha256::digest(line)) => compared.n_same += 1,
            _ => compared.different.push(head.id),
        })?;
        compared.n_missing = self.lines.len().saturating_sub(compared.n_same + compared.different.len());
        Ok(compared)
    }
}

fn for_each_row(path: &Path, take: &mut dyn FnMut(RowHead, &[u8])) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::io(path, "open", &e))?;
    let (mut number, mut wrong) = (0, None);
    let torn = for_each_line(BufReader::with_capacity(1 << 16, file), &mut |line| {
        number += 1;
        match RowHead::read(line) {
            Ok(head) => take(head, line),
            Err(why) => {
                wrong.get_or_insert(format!("line {number}: {why}"));
            }
        }
        Ok(())
    })
    .map_err(|e| Error::io(path, "read", &e))?;
    if torn > 0 {
        wrong.get_or_insert("the last line is torn; give the job again to repair it".into());
    }
    wrong.map_or(Ok(()), |why| Err(Error::data("Output", format!("{}: {why}", path.display()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_read_and_are_fair() {
        let sample: Sample = "10%".parse().unwrap();
        let n = (0..10_000).filter(|i| sample.contains(&format!("r{i}"))).count();
        assert!((900..1100).contains(&n), "{n}");
        let all: Sample = "100%".parse().unwrap();
        assert!((0..1000).all(|i| all.contains(&i.to_string())));
        for bad in ["", "1", "0%", "101%", "-1%", "NaN%", "x%"] {
            assert!(bad.parse::<Sample>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_changed_byte_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        let line = |id: &str, text: &str| {
            format!("{{\"id\":{id:?},\"request\":\"00000000000000ff\",\"text\":{text:?}}}\n")
        };
        std::fs::write(&old, [line("a", "x"), line("b", "x"), line("c", "x")].concat()).unwrap();
        let lines = Lines::read(&old, "100%".parse().unwrap()).unwrap();
        std::fs::write(&new, [line("b", "y"), line("a", "x")].concat()).unwrap();
        let compared = lines.compare(&new).unwrap();
        assert_eq!(compared, Compared { n_same: 1, different: vec!["b".into()], n_missing: 1 });
        let one = Lines::read(&old, "0.0001%".parse().unwrap()).unwrap();
        assert_eq!((one.len(), one.n_all), (1, 3), "at least one is looked at");
    }
}
