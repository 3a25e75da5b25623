//! Whether a region can ever decide: its conditions span a box, and the boxes of the regions before it may
//! cover it.

use super::rule::{Condition, LotOf, Region, When};
use super::signal::Signal;
use std::collections::BTreeMap;

/// Boxes a region may be cut into before the question is given up; a region is never called unreachable
/// without proof.
const MOST_PIECES: usize = 256;

/// A place between numbers: just before or just after a value.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
struct Cut(f64, bool);

/// From one cut to another one.
type Span = (Cut, Cut);

/// What a condition is about. Yes-or-no questions are spans of a number that is 0 or 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Axis {
    Signal(Signal),
    EndsWith(usize),
    Injected,
    Class(u8),
    Lot(LotOf),
}

/// The axes that are bounded, and how.
type Area = BTreeMap<Axis, Span>;

/// Why a region can never decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreachable {
    /// Its own conditions exclude one another.
    Empty,
    /// The regions before it leave nothing.
    Covered,
}

/// Why the last of `regions` can never decide, if so.
pub(super) fn unreachable(regions: &[Region]) -> Option<Unreachable> {
    let (last, earlier) = regions.split_last()?;
    let Some(whole) = area(&last.conditions) else { return Some(Unreachable::Empty) };
    if last.when == When::End {
        return None;
    }
    let mut left = vec![whole];
    // A region that is passed over when its means are used up covers nothing for good.
    for region in earlier.iter().filter(|region| region.is_plain()) {
        let Some(covered) = area(&region.conditions) else { continue };
        left = left.iter().flat_map(|piece| without(piece, &covered)).collect();
        if left.is_empty() {
            return Some(Unreachable::Covered);
        }
        if left.len() > MOST_PIECES {
            return None;
        }
    }
    None
}

/// The box of some conditions; none when it is empty.
fn area(conditions: &[Condition]) -> Option<Area> {
    let mut area = Area::new();
    for condition in conditions {
        let (axis, span) = match *condition {
            // Not known before there is a calibration.
            Condition::Between { above, below, .. } if above.is_nan() || below.is_nan() => continue,
            // Not of a single token.
            Condition::Span { .. } | Condition::Output { .. } | Condition::Repeats { .. } => continue,
            Condition::Lot { of, above, below } => (Axis::Lot(of), (Cut(above, true), Cut(below, false))),
            Condition::Between { signal, above, below } => {
                (Axis::Signal(signal), (Cut(above, true), Cut(below, false)))
            }
            Condition::EndsWith { text, wanted } => (Axis::EndsWith(text), half(wanted)),
            Condition::Injected(wanted) => (Axis::Injected, half(wanted)),
            Condition::Class { class, wanted } => (Axis::Class(class as u8), half(wanted)),
        };
        let bounds = area.entry(axis).or_insert_with(|| everything(axis));
        *bounds = meet(*bounds, span)?;
    }
    Some(area)
}

fn half(wanted: bool) -> Span {
    let middle = Cut(0.5, false);
    if wanted { (middle, Cut(1.0, true)) } else { (Cut(0.0, false), middle) }
}

fn everything(axis: Axis) -> Span {
    let (least, most) = match axis {
        Axis::Signal(signal) => signal.range(),
        _ => (0.0, 1.0),
    };
    // Infinity is no value.
    (Cut(least, least.is_infinite()), Cut(most, most.is_finite()))
}

fn meet(a: Span, b: Span) -> Option<Span> {
    let first = if a.0 < b.0 { b.0 } else { a.0 };
    let end = if a.1 < b.1 { a.1 } else { b.1 };
    (first < end).then_some((first, end))
}

/// `piece` less `hole`, as boxes that do not overlap.
fn without(piece: &Area, hole: &Area) -> Vec<Area> {
    let mut inside = piece.clone();
    let mut outside = Vec::new();
    for (&axis, &span) in hole {
        let bounds = inside.get(&axis).copied().unwrap_or_else(|| everything(axis));
        let Some(common) = meet(bounds, span) else { return vec![piece.clone()] };
        for rest in [(bounds.0, common.0), (common.1, bounds.1)] {
            if rest.0 < rest.1 {
                let mut part = inside.clone();
                part.insert(axis, rest);
                outside.push(part);
            }
        }
        inside.insert(axis, common);
    }
    outside
}
