//! Filters and methods that make strings and lists, with their results sized up before they are made and their
//! work counted.

use super::limits;
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

/// The filters as minijinja has them.
static BUILTIN: LazyLock<Environment<'static>> = LazyLock::new(Environment::new);

/// Filters whose work grows with their arguments. Those that only apply others (`map`, `select`, …) pay by the
/// instruction.
const CHARGED: &[&str] = &[
    "batch",
    "capitalize",
    "chain",
    "dictsort",
    "escape",
    "e",
    "first",
    "format",
    "groupby",
    "indent",
    "items",
    "join",
    "last",
    "length",
    "count",
    "lines",
    "list",
    "lower",
    "max",
    "min",
    "pprint",
    "replace",
    "reverse",
    "slice",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "trim",
    "unique",
    "upper",
    "zip",
];

/// Why a rendering was ended: something would grow too large.
#[derive(Debug)]
struct Limit;

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a limit of template rendering")
    }
}

impl std::error::Error for Limit {}

/// An error that says a limit was met.
pub(super) fn too_large(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message).with_source(Limit)
}

/// Whether `error` says that a limit was met, ours or minijinja's.
pub(super) fn is_limit(error: &Error) -> bool {
    let ours = std::error::Error::source(error).is_some_and(|source| source.is::<Limit>());
    let theirs = ["recursion limit", "is too large", "too many elements"];
    let detail = error.detail().unwrap_or_default();
    ours || error.kind() == ErrorKind::OutOfFuel || theirs.iter().any(|words| detail.contains(words))
}

/// Bytes of strings and items of lists that filters and methods of one rendering went through.
#[derive(Debug, Default)]
struct Work(AtomicU64);

impl Work {
    fn charge(&self, args: &[Value]) -> Result<(), Error> {
        let size = args.iter().map(size).fold(0, u64::saturating_add);
        let total = self.0.fetch_add(size, Ordering::Relaxed).saturating_add(size);
        if total > limits::TEMPLATE_WORK {
            return Err(too_large(format!(
                "filters went through more than {} bytes and items",
                limits::TEMPLATE_WORK
            )));
        }
        Ok(())
    }
}

/// Bytes of a string, items of a list.
fn size(value: &Value) -> u64 {
    match value.as_str() {
        Some(text) => text.len() as u64,
        None => value.len().unwrap_or(1) as u64,
    }
}

/// Puts the checked filters and methods into `environment`, with a fresh account.
pub(super) fn install(environment: &mut Environment<'_>) {
    let work = Arc::new(Work::default());
    for name in CHARGED.iter().copied() {
        let work = work.clone();
        environment.add_filter(name, move |args: Rest<Value>, named: Kwargs| {
            let mut args = args.0;
            if named.args().next().is_some() {
                args.push(named.into());
            }
            work.charge(&args)?;
            let args = checked(name, args)?;
            BUILTIN.empty_state().apply_filter(name, &args)
        });
    }
    environment.set_unknown_method_callback(
        move |state: &mut State, value: &Value, method: &str, args: &[Value]| {
            let mut all = vec![value.clone()];
            all.extend_from_slice(args);
            work.charge(&all)?;
            match (method, value.kind()) {
                // The separator comes first here.
                ("join", ValueKind::String) => {
                    let Some(items) = args.first() else { return Err(ErrorKind::MissingArgument.into()) };
                    let args = checked("join", vec![items.clone(), value.clone()])?;
                    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, &args[..1])
                }
                ("replace" | "format", ValueKind::String) => {
                    checked(method, all)?;
                    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
                }
                _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
            }
        },
    );
}

/// Refuses the call of a filter whose result would be too large.
fn checked(name: &str, mut args: Vec<Value>) -> Result<Vec<Value>, Error> {
    let limit = limits::TEMPLATE_VALUE_SIZE as u64;
    let within = |size: u64| match size <= limit {
        true => Ok(()),
        false => Err(too_large(format!("{name}: a result of {size} bytes or items; at most {limit}"))),
    };
    match name {
        "replace" => {
            if let [Some(text), Some(from), Some(to)] = [0, 1, 2].map(|i| args.get(i).and_then(Value::as_str))
            {
                let n = if from.is_empty() { text.chars().count() + 1 } else { text.matches(from).count() }
                    as u64;
                within((text.len() as u64).saturating_add(n.saturating_mul(to.len() as u64)))?;
            }
        }
        "join" => {
            if let Some(list) = args.first_mut()
                && let Ok(items) = list.try_iter()
            {
                // Counted once and handed on as a list: an iterator may give its items only once.
                let items: Vec<Value> = items.take(limits::TEMPLATE_VALUE_SIZE + 1).collect();
                let bytes = items.iter().map(size).fold(0, u64::saturating_add);
                *list = items.into();
                let n_items = size(list);
                let joiner = args.get(1).map_or(0, greatest_size);
                within(bytes.saturating_add(n_items.saturating_mul(joiner)))?;
            }
        }
        "indent" => {
            let lines =
                args.first().and_then(Value::as_str).map_or(0, |text| text.lines().count() as u64 + 1);
            within(lines.saturating_mul(greatest_number(&args)))?;
        }
        "batch" | "slice" => within(greatest_number(&args))?,
        "format" => {
            let text = args.first().and_then(Value::as_str).unwrap_or_default();
            let digits = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
            // A width may be an argument: `%*d`, `{:{}}`.
            let dynamic = text.contains('*') || text.contains(":{");
            if digits > 4 || (dynamic && greatest_number(&args) > 9_999) {
                return Err(too_large(format!("{name}: a width or precision of more than 9999")));
            }
        }
        _ => {}
    }
    Ok(args)
}

/// The greatest size among a value and, if it holds named arguments, those.
fn greatest_size(value: &Value) -> u64 {
    match Kwargs::try_from(value.clone()) {
        Ok(named) if value.is_kwargs() => named
            .args()
            .filter_map(|name| named.peek::<Value>(name).ok())
            .map(|value| size(&value))
            .max()
            .unwrap_or(0),
        _ => size(value),
    }
}

/// The greatest whole number among the arguments, named ones included; 0 when there is none.
fn greatest_number(args: &[Value]) -> u64 {
    let number = |value: &Value| u64::try_from(value.clone()).unwrap_or(0);
    let of = |value: &Value| match Kwargs::try_from(value.clone()) {
        Ok(named) if value.is_kwargs() => named
            .args()
            .filter_map(|name| named.peek::<Value>(name).ok())
            .map(|value| number(&value))
            .max()
            .unwrap_or(0),
        _ => number(value),
    };
    args.iter().map(of).max().unwrap_or(0)
}
