//! The picture of a job: one HTML file that shows a trace or an output, with nothing to fetch.
//!
//! `trace` and `rows` read what jobs write, a line at a time, into `Answer`s, the columns of which become a line of
//! JSON each; `page` puts these into the page, whose parts lie in `page/`.

mod answer;
mod page;
mod rows;
mod story;
mod trace;

use crate::calibrations;
use crate::jobs::limits::REPORT_BYTES;
use crate::jobs::{Lines, Manifest, policy_value, put_whole};
use answer::Shown;
use entropix_engine::{Calibration, DecisionKind, PolicyFile};
use entropix_model::{Class, Error, Result};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;
use std::path::Path;

/// How much a file says of its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Detail {
    /// Nothing.
    None,
    /// A few numbers an answer.
    Summary,
    /// Columns of signals.
    Tokens,
    /// Everything that happened.
    Trace,
}

/// What came of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// Requests of the file.
    pub n_requests: usize,
    /// Requests that are shown, the most doubtful ones.
    pub n_shown: usize,
    /// What the page says about what it lacks.
    pub notes: Vec<String>,
}

/// One kind of decision over all answers.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    tokens: u64,
    times: Option<u64>,
    discarded: Option<u64>,
}

/// The most doubtful first, then as they came.
type Key = (std::cmp::Reverse<u64>, usize);

/// All of a file as far as the page tells it.
struct Report {
    detail: Detail,
    shown: BTreeMap<Key, Shown>,
    /// Where the requests are, by their ids, and whether they failed.
    known: HashMap<String, (Key, bool)>,
    n_added: usize,
    /// Of `shown`.
    n_bytes: usize,
    n_requests: usize,
    n_failed: usize,
    n_tokens: u64,
    n_discarded: u64,
    entropy_sum: f64,
    varentropy_sum: f64,
    n_signals: u64,
    most: [f32; 2],
    costs: [Cost; DecisionKind::ALL.len()],
    regions: Regions,
    /// The trace's own first record.
    head: Option<trace::Head>,
    notes: Vec<String>,
}

/// The names of regions, numbered as they come.
#[derive(Default)]
struct Regions(Vec<String>);

impl Regions {
    fn number(&mut self, name: &str) -> usize {
        self.0.iter().position(|known| known == name).unwrap_or_else(|| {
            self.0.push(name.to_owned());
            self.0.len() - 1
        })
    }
}

/// Reads `input`, called `name`, and writes the page that shows it to `output`, whole or not at all. `manifest` is the
/// output's own, which names model and policy; `calibration`, of this file, resolves the policy's quantiles.
///
/// # Errors
/// `Data` naming the line that is neither of a trace nor of an output, or an answer beyond the limits; `Config` for a
/// calibration of another model; `Io` when
/// reading or writing fails.
pub fn report(
    input: impl BufRead,
    name: &Path,
    manifest: Option<&Manifest>,
    calibration: Option<(&Path, &Calibration)>,
    output: &Path,
) -> Result<Reported> {
    let report = Report::read(input, name)?;
    let title = name.file_name().unwrap_or(name.as_os_str()).to_string_lossy();
    let (page, reported) = report.page(&title, manifest, calibration)?;
    put_whole(output, &page)?;
    Ok(reported)
}

impl Report {
    fn read(input: impl BufRead, name: &Path) -> Result<Self> {
        let mut report = Self {
            detail: Detail::None,
            shown: BTreeMap::new(),
            known: HashMap::new(),
            n_added: 0,
            n_bytes: 0,
            n_requests: 0,
            n_failed: 0,
            n_tokens: 0,
            n_discarded: 0,
            entropy_sum: 0.0,
            varentropy_sum: 0.0,
            n_signals: 0,
            most: [0.0; 2],
            costs: [Cost::default(); DecisionKind::ALL.len()],
            regions: Regions::default(),
            head: None,
            notes: Vec::new(),
        };
        let mut lines = Lines::new(input, name);
        let mut stories: Option<trace::Stories> = None;
        let mut is_first = true;
        let mut wrong: Option<Error> = None;
        while let Some(line) = lines.next_line()? {
            if let Some(error) = wrong.take() {
                return Err(error);
            }
            let place = format!("{}:{}", name.display(), line.number);
            let text = line.text.map_err(|flaw| data(&place, flaw.message))?;
            if std::mem::take(&mut is_first) && trace::is_event(text) {
                report.detail = Detail::Trace;
                stories = Some(trace::Stories::default());
            }
            let read = match &mut stories {
                Some(stories) => stories.take(text, &mut report),
                None => rows::take(text, &mut report),
            };
            match read {
                Ok(()) => {}
                // A job that is still writing leaves its last line torn.
                Err(error) if error.is_torn => wrong = Some(data(&place, error.message)),
                Err(error) => return Err(data(&place, error.message)),
            }
        }
        if wrong.is_some() {
            report.notes.push("The last line of the file is torn and left out.".into());
        }
        if let Some(stories) = stories {
            stories.finish(&mut report)?;
        }
        Ok(report)
    }

    /// Takes a request in. The least doubtful ones go when the page would become too large.
    fn add(&mut self, id: &str, shown: Shown) {
        self.n_requests += 1;
        self.n_added += 1;
        self.n_bytes += shown.n_bytes();
        let key = shown.entry["h"].as_f64().map_or(0, |h| 1 + (h.clamp(0.0, 1e6) * 1e6) as u64);
        // Failures are few and must be seen.
        let failed = shown.entry.get("e").is_some();
        let key = if failed { u64::MAX } else { key };
        let key = (std::cmp::Reverse(key), self.n_added);
        self.n_failed += usize::from(failed);
        // Only traces tell of several attempts.
        if matches!(self.detail, Detail::Trace) {
            self.known.insert(id.to_owned(), (key, failed));
        }
        self.shown.insert(key, shown);
        while self.n_bytes > REPORT_BYTES && self.shown.len() > 1 {
            if let Some((_, gone)) = self.shown.pop_last() {
                self.n_bytes -= gone.n_bytes();
            }
        }
    }

    /// A request is tried again: what it cost stays, what it said goes.
    fn forget(&mut self, id: &str) {
        let Some((key, failed)) = self.known.remove(id) else { return };
        self.n_requests -= 1;
        self.n_failed -= usize::from(failed);
        if let Some(gone) = self.shown.remove(&key) {
            self.n_bytes -= gone.n_bytes();
        }
    }

    fn page(
        mut self,
        title: &str,
        manifest: Option<&Manifest>,
        calibration: Option<(&Path, &Calibration)>,
    ) -> Result<(Vec<u8>, Reported)> {
        let model = match (&self.head, manifest) {
            (Some(head), _) => head.model["name"].as_str().zip(head.model["sha256"].as_str()),
            (None, Some(manifest)) => Some((manifest.model.name.as_str(), manifest.model.sha256.as_str())),
            (None, None) => None,
        };
        if let (Some((path, calibration)), Some((name, sha256))) = (calibration, model) {
            calibrations::check(path, calibration, name, sha256)?;
        }
        let policy = match (&self.head, manifest.and_then(|manifest| manifest.policy.as_ref())) {
            (Some(head), _) => head.policy.clone(),
            (None, Some(record)) => {
                let mut policy = PolicyFile::parse(&record.name, record.source.as_bytes(), &record.changes)?;
                let own = record.calibration.as_deref();
                let own = own.map(|text| Calibration::parse("the manifest's calibration", text.as_bytes()));
                let own = own.transpose()?;
                if let Some(calibration) = calibration.map(|(_, given)| given).or(own.as_ref()) {
                    policy = policy.calibrated(calibration)?;
                }
                if !policy.unresolved().is_empty() {
                    self.notes.push(
                        "The thresholds of the policy are quantiles of the model's signals, which the manifest of \
                         this output does not hold: --calibration FILE draws its regions."
                            .into(),
                    );
                }
                policy_value(&policy)
            }
            (None, None) => Value::Null,
        };
        match self.detail {
            Detail::None if self.n_requests > 0 => self.notes.push(
                "This output holds no signals. batch --signals token adds tints, timelines and the plane; batch --trace \
                 FILE also the branches, the candidates and what each decision cost."
                    .into(),
            ),
            Detail::Summary => self.notes.push(
                "This output holds a few numbers an answer. batch --signals token adds tints and timelines; batch \
                 --trace FILE also the branches, the candidates and what each decision cost."
                    .into(),
            ),
            Detail::Trace if self.head.is_none() => self.notes.push(
                "This trace was made by an earlier version: it names neither texts nor prompts nor the policy, nor what \
                 each decision cost."
                    .into(),
            ),
            _ => {}
        }
        let n_shown = self.shown.len();
        if n_shown < self.n_requests {
            self.notes.push(format!(
                "The {n_shown} most doubtful of {} requests are here, as many as a browser opens well; the totals are \
                 of all.",
                self.n_requests
            ));
        }
        let mean = |sum: f64| (self.n_signals > 0).then(|| sum / self.n_signals as f64);
        let decisions: Vec<Value> = DecisionKind::ALL
            .iter()
            .zip(&self.costs)
            .map(|(kind, cost)| {
                json!({
                    "kind": kind.name(), "tokens": cost.tokens, "times": cost.times,
                    "discarded": cost.discarded,
                })
            })
            .collect();
        let model = match (&self.head, manifest) {
            (Some(head), _) => head.model.clone(),
            (None, Some(manifest)) => {
                json!({"name": manifest.model.name, "precision": manifest.model.precision})
            }
            (None, None) => Value::Null,
        };
        let seed = match &self.head {
            Some(head) => head.seed.clone(),
            None => manifest
                .and_then(|manifest| manifest.parameters.get("seed"))
                .map_or(Value::Null, |entry| entry["value"].clone()),
        };
        let meta = json!({
            "name": title,
            "kind": match self.detail {
                Detail::None => "none",
                Detail::Summary => "summary",
                Detail::Tokens => "tokens",
                Detail::Trace => "trace",
            },
            "version": env!("CARGO_PKG_VERSION"),
            "model": model, "seed": seed, "policy": policy, "regions": self.regions.0,
            "attention": answer::ATTENTION, "notes": self.notes,
            "most": {"h": self.most[0], "v": self.most[1]},
            "totals": {
                "requests": self.n_requests, "failed": self.n_failed, "tokens": self.n_tokens,
                "discarded": self.n_discarded, "entropy": mean(self.entropy_sum),
                "varentropy": mean(self.varentropy_sum), "decisions": decisions,
            },
        });
        let shown: Vec<Shown> = std::mem::take(&mut self.shown).into_values().collect();
        let reported = Reported { n_requests: self.n_requests, n_shown, notes: self.notes };
        Ok((page::page(&meta, &shown), reported))
    }
}

/// Why a line cannot be shown.
struct Wrong {
    message: String,
    /// Whether the line only stops too early.
    is_torn: bool,
}

impl Wrong {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_torn: false }
    }
}

impl From<serde_json::Error> for Wrong {
    fn from(error: serde_json::Error) -> Self {
        Self { message: error.to_string().replace("line 1 column", "column"), is_torn: error.is_eof() }
    }
}

fn data(place: &str, message: impl std::fmt::Display) -> Error {
    Error::new(Class::Data, "Report", format!("{place}: {message}"))
}

#[cfg(test)]
mod tests;
