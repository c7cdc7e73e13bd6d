//! The table of kernels in the README, and a result for people.

use std::fmt::Write as _;

use super::{Outcome, line::Ready};

/// The lines between which the README has it.
const BEGIN: &str = "<!-- made by `cargo xtask kernels` -->";
const END: &str = "<!-- end -->";
const HEADING: &str = "\
| kernel | loads | hook | reason, and place, of nftables' drop | what it cannot do | \
instructions that the verifier walks: from pod, to pod, drops, sockets | course |
|---|---|---|---|---|---|---|
";
const NOTHING: &str = "–";

/// The table of these outcomes, a row for each.
pub fn table(outcomes: &[Outcome]) -> String {
    outcomes.iter().map(row).fold(HEADING.to_owned(), |table, row| table + &row)
}

/// A text with the table in its place.
///
/// # Errors
///
/// None if the text has no place for it.
pub fn put(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))
}

fn row(outcome: &Outcome) -> String {
    let walked = outcome.walked.iter().map(|walked| match (walked.instructions, &walked.refusal) {
        (Some(instructions), _) => thousands(instructions),
        (None, Some(_)) => "refused".to_owned(),
        (None, None) => NOTHING.to_owned(),
    });
    let walked: Vec<_> = walked.collect();
    let ready = outcome.ready.as_ref();
    let hook = ready.and_then(|ready| ready.hook).map_or(NOTHING, |hook| hook.name());
    let drop = outcome.cases.iter().find_map(|case| case.drop.as_ref());
    let drop = drop.map_or(NOTHING.to_owned(), |(reason, place)| {
        let or_none = |text: &Option<String>| text.as_deref().unwrap_or("none").to_owned();
        format!("{}, {}", or_none(reason), or_none(place))
    });
    let cannot = ready.map(cannot).unwrap_or_default();
    let good = outcome.cases.iter().filter(|case| case.failure.is_none()).count();
    let mut row = String::new();
    let _ = writeln!(
        row,
        "| {} | {} | {hook} | {drop} | {} | {} | {good} of {} |",
        outcome.release,
        if ready.is_some() { "yes" } else { "**no**" },
        if cannot.is_empty() { "nothing" } else { &cannot },
        walked.join(", "),
        outcome.cases.len(),
    );
    row
}

/// What an agent cannot do, without the verifier's own words.
fn cannot(ready: &Ready) -> String {
    let short = |text: &String| {
        let parts: Vec<&str> = text.splitn(3, ": ").take(2).collect();
        parts.join(": ")
    };
    ready.cannot.iter().map(short).collect::<Vec<_>>().join("; ")
}

/// 12345 as 12,345.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_the_place_of_the_one_before() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let put_in = put(&text, "new\n").expect("a place");
        assert_eq!(put_in, format!("a\n{BEGIN}\n\nnew\n\n{END}\nb\n"));
        assert_eq!(put(&put_in, "new\n"), Some(put_in.clone()), "no line more each time");
        assert_eq!(put("no place", "new\n"), None);
    }

    #[test]
    fn thousands_are_apart() {
        for (number, text) in [(7, "7"), (123, "123"), (1_234, "1,234"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn a_kernel_that_refuses_has_a_row_that_says_so() {
        let outcome = Outcome { release: "5.4.0".to_owned(), ..Outcome::default() };
        assert!(table(&[outcome]).contains("| 5.4.0 | **no** |"));
    }
}
