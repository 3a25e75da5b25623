//! The date a template may ask for; given from outside, so that a rendering is the same tomorrow.

use entropix_model::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// A day of the Gregorian calendar; its time is midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Date {
    year: i64,
    /// 1 to 12
    month: usize,
    /// 1 to 31
    day: i64,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

impl Date {
    /// The day in UTC, `seconds` after the start of 1970.
    pub fn from_unix(seconds: u64) -> Self {
        let seconds = seconds.min(253_402_300_799) as i64; // the end of 9999
        // Years begin in March here, so that the leap day is their last (Hinnant, chrono-compatible algorithms).
        let days = seconds / 86_400 + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        Self { year, month: month as usize, day: of_year - (153 * march_month + 2) / 5 + 1 }
    }

    /// From `2025-11-21`.
    ///
    /// # Errors
    /// `Data`, code `Field`.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || Error::data("Field", format!("date: {text:?} is no day; write it like 2025-11-21"));
        let parts: Vec<&str> = text.split('-').collect();
        let [year, month, day] = parts[..] else { return Err(wrong()) };
        let number = |text: &str, len| {
            let digits = text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
            if digits { text.parse::<i64>().map_err(|_| wrong()) } else { Err(wrong()) }
        };
        let date = Self { year: number(year, 4)?, month: number(month, 2)? as usize, day: number(day, 2)? };
        if !(1..=12).contains(&date.month) || !(1..=date.days_of_month(date.month)).contains(&date.day) {
            return Err(wrong());
        }
        Ok(date)
    }

    fn days_of_month(self, month: usize) -> i64 {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        [31, 28 + i64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1]
    }

    /// 1 to 366
    fn day_of_year(self) -> i64 {
        (1..self.month).map(|month| self.days_of_month(month)).sum::<i64>() + self.day
    }

    /// 0 for Monday.
    fn weekday(self) -> usize {
        let before = self.year - 1;
        let days = before * 365 + before / 4 - before / 100 + before / 400 + self.day_of_year();
        ((days - 1) % 7) as usize
    }

    /// The day in the format of C's `strftime` in the C locale; none for a conversion that is not known.
    pub(super) fn format(self, format: &str) -> Option<String> {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut kind = chars.next()?;
            let padded = kind != '-';
            if !padded {
                kind = chars.next()?;
            }
            let mut number = |value: i64, width: usize| {
                let width = if padded { width } else { 1 };
                write!(out, "{value:0width$}").expect("a string takes all");
            };
            let (month, weekday) = (MONTHS[self.month - 1], WEEKDAYS[self.weekday()]);
            match kind {
                'Y' => number(self.year, 4),
                'y' => number(self.year % 100, 2),
                'm' => number(self.month as i64, 2),
                'd' => number(self.day, 2),
                'j' => number(self.day_of_year(), 3),
                'u' => number(self.weekday() as i64 + 1, 1),
                'w' => number((self.weekday() as i64 + 1) % 7, 1),
                'H' | 'M' | 'S' => number(0, 2),
                'I' => number(12, 2),
                'p' => out.push_str("AM"),
                'e' => write!(out, "{:2}", self.day).expect("a string takes all"),
                'B' => out.push_str(month),
                'b' | 'h' => out.push_str(&month[..3]),
                'A' => out.push_str(weekday),
                'a' => out.push_str(&weekday[..3]),
                'F' => out.push_str(&self.format("%Y-%m-%d")?),
                'D' => out.push_str(&self.format("%m/%d/%y")?),
                'T' => out.push_str("00:00:00"),
                'R' => out.push_str("00:00"),
                'Z' => out.push_str("UTC"),
                'z' => out.push_str("+0000"),
                '%' => out.push('%'),
                _ => return None,
            }
        }
        Some(out)
    }
}

impl TryFrom<String> for Date {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Date> for String {
    fn from(date: Date) -> Self {
        format!("{:04}-{:02}-{:02}", date.year, date.month, date.day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weekdays and days of the year are those of `date -u -d @N +…`.
    #[test]
    fn dates_are_formatted_as_strftime_does() {
        for (seconds, wanted) in [
            (0, "1970-01-01 Thursday 001 01 January 70"),
            (951_782_400, "2000-02-29 Tuesday 060 29 February 00"),
            (1_763_683_200, "2025-11-21 Friday 325 21 November 25"),
            (4_107_542_399, "2100-02-28 Sunday 059 28 February 00"),
            (4_107_542_400, "2100-03-01 Monday 060 01 March 00"),
        ] {
            let date = Date::from_unix(seconds);
            assert_eq!(date.format("%Y-%m-%d %A %j %d %B %y").unwrap(), wanted);
            assert_eq!(Date::parse(&wanted[..10]).unwrap(), date);
        }
        let date = Date::parse("2026-01-05").unwrap();
        assert_eq!(date.format("%-d/%-m %e %a %b 100%%").unwrap(), "5/1  5 Mon Jan 100%");
        assert_eq!(date.format("%Q"), None);
        assert_eq!(date.format("%"), None);
    }

    #[test]
    fn days_that_are_none_are_refused() {
        for bad in [
            "",
            "2025",
            "2025-13-01",
            "2025-02-29",
            "2025-00-10",
            "25-01-01",
            "2025-1-1",
            "2025-01-01 ",
            "+025-01-01",
        ] {
            assert!(Date::parse(bad).is_err(), "{bad}");
        }
    }
}
