//! The look at a whole input before anything is written: every bad line at once, and what an earlier run has done
//! of it.

use super::done::{Done, Earlier};
use super::input::{BadLine, JobInput, JobLine};
use super::limits::TOLD_FLAWS;
use super::shard::Shard;
use entropix_model::{Error, Result};
use sha2::{Digest, Sha256};
use std::io::{self, BufReader, Read};

/// How an input is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// What becomes of lines that are no requests.
    pub bad_line: BadLine,
    /// The part of the job.
    pub shard: Shard,
    /// Tokens of the vocabulary, once that is known: a request that names others is none.
    pub n_tokens: Option<u32>,
}

impl Look {
    /// At all of it, before the vocabulary is known.
    pub fn new(bad_line: BadLine) -> Self {
        Self { bad_line, shard: Shard::WHOLE, n_tokens: None }
    }
}

/// What an input asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Requests of this part of the job, bad lines that are to be recorded among them.
    pub n_requests: usize,
    /// Lines of the whole input that are no requests.
    pub n_bad: usize,
    /// Of these, answered in an earlier run.
    pub n_answered: usize,
    /// Of these, failed in an earlier run.
    pub n_failed: usize,
    /// Of these, edited since they were answered; the first by id.
    pub edited: Vec<String>,
    /// How many.
    pub n_edited: usize,
    /// Whether something is yet to be done in front of what is done, or what is done has another order: no earlier run
    /// kept that of this input.
    pub out_of_order: bool,
    /// The largest token that a request names by its number.
    pub largest_token: Option<u32>,
    /// SHA-256 of the input's text (unpacked), 64 hexadecimal digits.
    pub sha256: String,
}

impl JobInput {
    /// Reads every line and every id of the input, and compares those of `shard` with what is `done`.
    ///
    /// # Errors
    /// With [`BadLine::Fail`] one that names the bad lines, the first 100 with line and column.
    pub fn check<L: JobLine>(&self, look: Look, done: &mut Done) -> Result<Checked> {
        let Look { bad_line, shard, n_tokens } = look;
        let mut items = self.reader::<_, L>(BufReader::new(Hashing::of(self.text()?))).within(n_tokens);
        let mut checked = Checked::default();
        let (mut n_lines, mut flaws, mut pending, mut last) = (0, Vec::new(), false, None);
        while let Some(item) = items.next_item()? {
            n_lines += 1;
            if let Ok(request) = &item.request {
                checked.largest_token = checked.largest_token.max(request.largest_token());
            }
            if let Err(error) = &item.request {
                checked.n_bad += 1;
                if bad_line == BadLine::Fail && flaws.len() < TOLD_FLAWS {
                    flaws.push(self.named(error));
                }
                if bad_line == BadLine::Fail && error.code == "LineTooLong" {
                    // What is behind gigabytes without a line end is not worth the time.
                    break;
                }
            }
            if !shard.contains(&item.id) {
                continue;
            }
            checked.n_requests += 1;
            let earlier = done.see(&item.id, &item.hash);
            if matches!(earlier, Earlier::Answered | Earlier::Failed) {
                let place = done.place(&item.id);
                checked.out_of_order |= pending || place < last;
                last = place;
            }
            match earlier {
                Earlier::Pending => pending = true,
                Earlier::Answered => checked.n_answered += 1,
                Earlier::Failed => checked.n_failed += 1,
                Earlier::Edited => {
                    checked.n_edited += 1;
                    if checked.edited.len() < TOLD_FLAWS {
                        checked.edited.push(item.id);
                    }
                }
            }
        }
        checked.sha256 = items.into_text().into_inner().finish();
        match (bad_line, checked.n_bad) {
            (BadLine::Record, _) | (BadLine::Fail, 0) => Ok(checked),
            (BadLine::Fail, 1) => Err(Error::data("Line", format!("{}; nothing was written", flaws[0]))),
            (BadLine::Fail, n_bad) => {
                let more = if n_bad > flaws.len() { "\n  …" } else { "" };
                let message = format!(
                    "{}: {n_bad} of {n_lines} lines are bad; nothing was written (--on-bad-line record goes on \
                     without them)\n  {}{more}",
                    self.path().display(),
                    flaws.join("\n  ")
                );
                Err(Error::data("Line", message))
            }
        }
    }
}

/// Hashes what is read through it.
struct Hashing<R> {
    inner: R,
    digest: Sha256,
}

impl<R: Read> Hashing<R> {
    fn of(inner: R) -> Self {
        Self { inner, digest: Sha256::new() }
    }

    fn finish(self) -> String {
        self.digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(out)?;
        self.digest.update(&out[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::of_text;
    use super::*;
    use crate::jobs::JobRequest;
    use entropix_model::Class;

    fn check(text: &str, bad_line: BadLine) -> Result<Checked> {
        of_text(text).check::<JobRequest>(Look::new(bad_line), &mut Done::default())
    }

    #[test]
    fn every_bad_line_is_told() {
        let text = "{\"prompt\": \"a\"}\n\n{\"prompt\": \"b\", \"top_p\": 2}\n{\"prompt\": }\n";
        let error = check(text, BadLine::Fail).unwrap_err();
        assert_eq!(error.class, Class::Data);
        for part in
            ["2 of 3 lines", "nothing was written", "in.jsonl:3:26: top_p is 2", "in.jsonl:4:12: not valid"]
        {
            assert!(error.message.contains(part), "{part}: {}", error.message);
        }
        let checked = check(text, BadLine::Record).unwrap();
        assert_eq!((checked.n_requests, checked.n_bad), (3, 2));
    }

    #[test]
    fn a_hundred_bad_lines_are_told_and_no_more() {
        let error = check(&"{}\n".repeat(150), BadLine::Fail).unwrap_err();
        assert!(error.message.contains("150 of 150"), "{:.200}", error.message);
        assert!(error.message.contains("in.jsonl:100:1:") && !error.message.contains("in.jsonl:101:1:"));
    }

    #[test]
    fn an_id_that_comes_twice_names_both_lines() {
        let text = "{\"id\": \"x\", \"prompt\": \"a\"}\n{\"id\": \"x\", \"prompt\": \"b\"}\n";
        let error = check(text, BadLine::Fail).unwrap_err();
        assert!(
            error.message.starts_with("in.jsonl:2:2: the id \"x\" stands on line 1"),
            "{}",
            error.message
        );
    }

    #[test]
    fn parts_add_up_and_the_text_is_hashed() {
        let text: String = (0..50).map(|i| format!("{{\"prompt\": \"{i}\"}}\n")).collect();
        let whole = check(&text, BadLine::Fail).unwrap();
        let sum = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!((whole.n_requests, &whole.sha256), (50, &sum));
        let part = |i| {
            let shard = Shard::new(i, 3).unwrap();
            let look = Look { shard, ..Look::new(BadLine::Fail) };
            of_text(&text).check::<JobRequest>(look, &mut Done::default()).unwrap().n_requests
        };
        assert_eq!(part(0) + part(1) + part(2), 50);
        assert_eq!(check("", BadLine::Fail).unwrap().n_requests, 0);
    }
}
