//! `--ordered`: the lines stand in the order of the input, in every run, or the job says that they do not.

use crate::program::Place;
use crate::resume::{line, requests, sorted, tear};
use serde_json::json;

const USAGE: i32 = 64;
const FAILED_ROWS: i32 = 3;

#[test]
fn ordered_output_is_in_the_order_of_the_input() {
    let place = Place::new();
    // The first answer takes longest.
    let mut input = String::new();
    for i in 0..12 {
        input += &format!(
            "{}\n",
            json!({"id": format!("r{i}"), "prompt": "Once", "max_tokens": 40 - 3 * i,
                                          "ignore_eos": true, "seed": i})
        );
    }
    input += &line("empty", "");
    input += &line("last", "x");
    let ids = || -> Vec<String> {
        place.rows("out").iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    place.batch(&input, &["-b", "8"]).expect(FAILED_ROWS, "1 request failed");
    assert_ne!(ids()[0], "r0", "the test is too easy");
    place.batch(&input, &["-b", "8", "--ordered"]).expect(USAGE, "leave it out");
    place.batch(&input, &["-b", "8", "--ordered", "--overwrite"]).expect(FAILED_ROWS, "1 request failed");
    let ordered = std::fs::read(place.path("out")).unwrap();
    let expected: Vec<String> =
        (0..12).map(|i| format!("r{i}")).chain(["empty".into(), "last".into()]).collect();
    assert_eq!(ids(), expected);
    for n in [0, 5, 13] {
        tear(&place, n);
        place.batch(&input, &["-b", "8", "--ordered"]);
        assert_eq!(std::fs::read(place.path("out")).unwrap(), ordered, "torn behind line {n}");
    }
    let text = String::from_utf8(ordered).unwrap();
    place.put("out", text.split_inclusive('\n').skip(1).collect::<String>());
    place.batch(&input, &["--ordered"]).expect(USAGE, "leave it out");
    let all = ["--longest-first", "--overwrite", "-b", "2"];
    place.batch(&input, &all).expect(FAILED_ROWS, "1 request failed");
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(sorted(&place, "out"), lines.join("\n"), "the order of admission changed a line");
}

/// What stands there is compared with the order of the input, not only with what is done of it.
#[test]
fn another_order_is_not_gone_on_with() {
    let place = Place::new();
    place.batch(requests(5), &["--ordered"]).expect(0, "5 answered");
    let text = requests(5);
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    lines.reverse();
    place.batch(lines.concat(), &["--ordered"]).expect(USAGE, "not the beginning of what --ordered makes");
    place.batch(requests(7), &["--ordered"]).expect(0, "2 answered");
    // Without a look at the input it is known in the end.
    let before = line("before", "x") + &requests(7);
    place.batch(&before, &["--ordered", "--no-validate"]).expect(USAGE, "not in the order of the input");
}

/// Lines that are dropped are answered behind the others.
#[test]
fn gaps_are_not_filled_in_order() {
    let place = Place::new();
    let input = requests(2) + &line("bad", "") + &line("last", "x");
    place.batch(&input, &["--ordered", "--no-validate"]).expect(FAILED_ROWS, "1 request failed");
    let again = ["--ordered", "--retry-errors"];
    place.batch(&input, &again).expect(USAGE, "not the beginning");
    place.batch(&input, &[&again[..], &["--no-validate"]].concat()).expect(USAGE, "not the beginning");
}

/// A failure that ends a job is written when it has its turn: otherwise every run would compute what is before it, and drop
/// it again.
#[test]
fn the_first_failure_is_written_in_order() {
    let place = Place::new();
    let slow = json!({"id": "slow", "prompt": "Once", "max_tokens": 60, "ignore_eos": true});
    let input = format!("{slow}\n") + &line("bad", "") + &requests(40);
    let ended = place.batch(&input, &["--ordered", "--fail-fast", "-b", "2"]);
    ended.expect(FAILED_ROWS, "stopped at the first failure");
    let ids: Vec<String> =
        place.rows("out").iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
    assert!(ids.starts_with(&["slow".into(), "bad".into()]) && ids.len() < 40, "{ids:?}");
}
