//! Known answers of problems, by id.

use super::json::{Flaw, Value};
use super::limits::LABELS;
use super::lines::Lines;
use entropix_model::{Error, Result};
use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// The known answers, by id.
#[derive(Debug, Clone, Default)]
pub struct Labels {
    answers: HashMap<String, String>,
}

impl Labels {
    /// Reads JSON lines `{"id": ..., "answer": ...}`; the answer is a text or a number.
    ///
    /// # Errors
    /// `NoInput` when there is no such file; `Data`, with line and column, for what is no label, and for an id
    /// that comes twice.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io(path, "open the labels", &error))?;
        let mut lines = Lines::new(BufReader::new(file), path);
        let mut answers = HashMap::new();
        while let Some(line) = lines.next_line()? {
            let fail = |flaw: Flaw| {
                let (line, column) = (line.number, flaw.column(line.bytes));
                Error::data("Labels", format!("{}:{line}:{column}: {}", path.display(), flaw.message))
            };
            let (id, answer) = line.text.clone().and_then(label).map_err(fail)?;
            if answers.len() == LABELS {
                return Err(fail(Flaw::new(
                    "Labels",
                    0,
                    format!("more than {LABELS} labels; split the file"),
                )));
            }
            if answers.insert(id.clone(), answer).is_some() {
                return Err(fail(Flaw::new("Labels", 0, format!("the id {id:?} was there before"))));
            }
        }
        if answers.is_empty() {
            return Err(Error::data("Labels", format!("{}: holds no labels", path.display())));
        }
        Ok(Self { answers })
    }

    /// The known answer of a problem.
    pub fn get(&self, id: &str) -> Option<&str> {
        self.answers.get(id).map(String::as_str)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }
}

fn label(line: &str) -> Result<(String, String), Flaw> {
    let (mut id, mut answer) = (None, None);
    let line = Value::parse(line)?;
    for member in line.members("a label")? {
        match (member.key.as_str(), member.value.number()) {
            ("id", _) => id = Some(member.value.string("id")?),
            ("answer", Some(number)) => answer = Some(number.to_string()),
            ("answer", None) => answer = Some(member.value.string("answer")?),
            (key, _) => {
                return Err(member.value.flaw(format!("unknown field {key:?}; a label has id and answer")));
            }
        }
    }
    match (id, answer) {
        (Some(id), Some(answer)) => Ok((id, answer)),
        _ => Err(line.flaw("a label has id and answer, and one of them is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_texts_or_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Labels::read(&path)
        };
        let labels =
            read("{\"id\":\"a\",\"answer\":\"#### 1,200\"}\n\n{\"answer\":72,\"id\":\"b\"}\n").unwrap();
        assert_eq!(
            (labels.get("a"), labels.get("b"), labels.get("c")),
            (Some("#### 1,200"), Some("72"), None)
        );
        for (text, place) in [
            ("\n", "holds no labels"),
            ("{\"id\":\"a\"}", ":1:1:"),
            ("{\"id\":\"a\",\"answer\":[]}", ":1:20:"),
            ("{\"id\":\"a\",\"answer\":1,\"x\":1}", ":1:26:"),
            ("{\"id\":\"a\",\"answer\":1}\n{\"id\":\"a\",\"answer\":1}", ":2:1:"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.code == "Labels" && error.message.contains(place), "{}", error.message);
        }
    }
}
