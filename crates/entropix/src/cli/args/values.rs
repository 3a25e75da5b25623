//! Parsers of single values.

use entropix::jobs::limits;
use entropix::jobs::params::{self, Bounds};
use entropix::jobs::{Shard, SyncEvery};
use entropix::text::Date;
use std::str::FromStr;
use std::time::Duration;

/// A whole number of at least 1.
pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse::<u32>() {
        Ok(0) | Err(_) => Err(format!("wants a whole number from 1 to {}", u32::MAX)),
        Ok(n) => Ok(n as usize),
    }
}

/// A share that may be above 1.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share.is_finite() && share >= 0.0 => Ok(share),
        _ => Err("wants a number of at least 0, such as 0.5".into()),
    }
}

/// A count such as `4096`, `4k`, `4K` or `1.5m`; as in vLLM a small letter counts in thousands and a capital
/// one in powers of 1024.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let wrong = || format!("wants a count from 0 to {}, such as 4096, 4k (4000) or 4K (4096)", u32::MAX);
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "K" => 1024.0,
        "M" => 1024.0 * 1024.0,
        "G" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(wrong()),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(wrong());
    }
    let count = digits.parse::<f64>().map_err(|_| wrong())? * factor;
    if count.fract() == 0.0 && count <= f64::from(u32::MAX) { Ok(count as usize) } else { Err(wrong()) }
}

/// The key of the random numbers.
pub(crate) fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("wants a whole number from 0 to {}", u64::MAX))
}

/// [`size`], but not 0.
pub(crate) fn size_at_least_one(text: &str) -> Result<usize, String> {
    match size(text)? {
        0 => Err("wants at least 1".into()),
        n => Ok(n),
    }
}

/// Counts with commas between, e.g. `1,8,32`; each may be a [`size`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sizes(pub Vec<usize>);

/// Reads [`Sizes`].
pub(crate) fn sizes(text: &str) -> Result<Sizes, String> {
    text.split(',').map(|part| size(part.trim())).collect::<Result<_, _>>().map(Sizes)
}

/// Reads [`Sizes`] without a 0.
pub(crate) fn sizes_at_least_one(text: &str) -> Result<Sizes, String> {
    text.split(',').map(|part| size_at_least_one(part.trim())).collect::<Result<_, _>>().map(Sizes)
}

fn within(bounds: Bounds, text: &str) -> Result<f32, String> {
    let number = text.parse().ok().and_then(|x| bounds.narrow(x));
    number.ok_or_else(|| format!("wants a number {bounds}"))
}

/// See [`params::TEMPERATURE`].
pub(crate) fn temperature(text: &str) -> Result<f32, String> {
    within(params::TEMPERATURE, text)
}

/// See [`params::TOP_P`].
pub(crate) fn top_p(text: &str) -> Result<f32, String> {
    within(params::TOP_P, text)
}

/// See [`params::MIN_P`].
pub(crate) fn min_p(text: &str) -> Result<f32, String> {
    within(params::MIN_P, text)
}

/// See [`params::REPETITION_PENALTY`].
pub(crate) fn repetition_penalty(text: &str) -> Result<f32, String> {
    within(params::REPETITION_PENALTY, text)
}

/// See [`params::FREQUENCY_PENALTY`].
pub(crate) fn frequency_penalty(text: &str) -> Result<f32, String> {
    within(params::FREQUENCY_PENALTY, text)
}

/// See [`params::PRESENCE_PENALTY`].
pub(crate) fn presence_penalty(text: &str) -> Result<f32, String> {
    within(params::PRESENCE_PENALTY, text)
}

/// 0 or -1 keeps all.
pub(crate) fn top_k(text: &str) -> Result<u32, String> {
    match text.parse::<i32>() {
        Ok(k @ -1..) => Ok(k.max(0) as u32),
        _ => Err(format!("wants a whole number from 0 (all) to {}", i32::MAX)),
    }
}

/// `TOKEN=NATS` (or `TOKEN:NATS`, or llama.cpp's `TOKEN+NATS`, `TOKEN-NATS`).
pub(crate) fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let wrong = || format!("wants TOKEN=NATS, e.g. 42=-1.5, NATS {}", params::LOGIT_BIAS);
    let end = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (token, bias) = text.split_at(end);
    let bias = bias.strip_prefix(['=', ':']).unwrap_or(bias);
    Ok((token.parse().map_err(|_| wrong())?, within(params::LOGIT_BIAS, bias).map_err(|_| wrong())?))
}

/// A day.
pub(crate) fn date(text: &str) -> Result<Date, String> {
    Date::parse(text).map_err(|error| error.message)
}

/// A stop string.
pub(crate) fn stop(text: &str) -> Result<String, String> {
    params::check_stop(text)?;
    Ok(text.to_owned())
}

/// How many alternatives.
pub(crate) fn logprobs(text: &str) -> Result<usize, String> {
    match text.parse::<i64>() {
        Ok(k @ 0..=limits::LOGPROBS) => Ok(k as usize),
        _ => Err(format!("wants a whole number from 0 to {}", limits::LOGPROBS)),
    }
}

/// `100` (lines) or `5s`, `500ms` (time).
pub(crate) fn sync_every(text: &str) -> Result<SyncEvery, String> {
    let wrong = || "wants a number of lines from 1, or a time such as 5s or 500ms".to_owned();
    let number = |text: &str| text.parse::<u32>().ok().filter(|&n| n > 0).ok_or_else(wrong);
    if let Some(text) = text.strip_suffix("ms") {
        Ok(SyncEvery::Time(Duration::from_millis(number(text)?.into())))
    } else if let Some(text) = text.strip_suffix('s') {
        Ok(SyncEvery::Time(Duration::from_secs(number(text)?.into())))
    } else {
        Ok(SyncEvery::Lines(number(text)?.into()))
    }
}

/// Which part of a job to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShardArg(pub Shard);

impl FromStr for ShardArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let cluster = |count| Shard::from_cluster(count, &|name| std::env::var(name).ok());
        let shard = match text.strip_prefix("auto") {
            None => text.parse(),
            Some("") => cluster(None),
            Some(count) => {
                let count = count.strip_prefix('/').and_then(|count| count.parse().ok());
                cluster(Some(count.ok_or("wants auto, auto/N or I/N")?))
            }
        };
        shard.map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_human() {
        for (text, count) in [
            ("0", 0),
            ("32k", 32_000),
            ("32K", 32_768),
            ("1.5k", 1500),
            ("1M", 1 << 20),
            ("4294967295", u32::MAX as usize),
        ] {
            assert_eq!(size(text), Ok(count), "{text}");
        }
        for bad in ["", "k", "-1", "1e9", "1.5", "4294967296", "5g", "1kk", "NaN", "inf", " 1", "1.0003K"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(size_at_least_one("0").is_err());
        assert_eq!(sizes("1,8, 2k"), Ok(Sizes(vec![1, 8, 2000])));
        assert!(sizes("1,,2").is_err() && sizes_at_least_one("1,0").is_err());
    }

    #[test]
    fn syncs_and_shards_read() {
        assert_eq!(sync_every("100"), Ok(SyncEvery::Lines(100)));
        assert_eq!(sync_every("5s"), Ok(SyncEvery::Time(Duration::from_secs(5))));
        assert_eq!(sync_every("20ms"), Ok(SyncEvery::Time(Duration::from_millis(20))));
        for bad in ["", "0", "0s", "-1", "5m", "s", "1.5s"] {
            assert!(sync_every(bad).is_err(), "{bad}");
        }
        assert_eq!("1/4".parse(), Ok(ShardArg(Shard::new(1, 4).unwrap())));
        for bad in ["auto/", "auto/x", "automatic", "4/4", ""] {
            assert!(bad.parse::<ShardArg>().is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_stay_in_bounds() {
        assert!(at_least_one("0").is_err() && at_least_one("-1").is_err() && at_least_one("1e9").is_err());
        assert_eq!(temperature("0"), Ok(0.0));
        for bad in ["-1", "NaN", "inf", "1e9", "x", ""] {
            assert!(temperature(bad).is_err(), "{bad}");
        }
        assert!(top_p("0").is_err() && top_p("1").is_ok());
        assert_eq!((top_k("-1"), top_k("40")), (Ok(0), Ok(40)));
        assert!(top_k("-2").is_err());
        assert_eq!(logit_bias("42=-1.5"), Ok((42, -1.5)));
        assert_eq!(logit_bias("42+1"), Ok((42, 1.0)));
        assert_eq!(logit_bias("42-1"), Ok((42, -1.0)));
        for bad in ["42", "=1", "x=1", "42=", "42=x", "42=101", "4294967296=1"] {
            assert!(logit_bias(bad).is_err(), "{bad}");
        }
    }
}
