//! The table of kernels in the README, and a result for people.

use std::collections::BTreeMap;

use super::{
    Outcome,
    arch::Arch,
    kernel::numbers,
    line::{Case, Ready},
};

/// The lines between which the README has it.
const BEGIN: &str = "<!-- made by `cargo xtask kernels` -->";
const END: &str = "<!-- end -->";
const HEADING: &str = "\
| kernel | loads | hook | reason, and place, of nftables' drop | what it cannot do | \
instructions that the verifier walks: from pod, to pod, drops, sockets | the slowest of the four; \
ready after | scenarios | tests |
|---|---|---|---|---|---|---|---|---|
";
const NOTHING: &str = "–";

/// A text with the rows of these outcomes in its table; those of other series stay.
///
/// # Errors
///
/// None if the text has no place for a table.
pub fn put(text: &str, outcomes: &[Outcome]) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (old, after) = rest.split_once(END)?;
    let mut rows = BTreeMap::new();
    let old = old.lines().filter(|line| !line.is_empty()).skip(HEADING.lines().count());
    for row in old.map(str::to_owned).chain(outcomes.iter().map(row)) {
        let release = row.trim_start_matches(['|', ' ']).split(' ').next()?;
        let series: Vec<u64> = numbers(release).into_iter().take(2).collect();
        // Of one processor after those of the other.
        rows.insert((release.ends_with(Arch::Arm64.name()), series), row);
    }
    let rows: Vec<String> = rows.into_values().collect();
    Some(format!("{before}{BEGIN}\n\n{HEADING}{}\n\n{END}{after}", rows.join("\n")))
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
    let slowest = outcome.walked.iter().map(|walked| walked.time).max();
    let times = [slowest, ready.map(|ready| ready.after)]
        .map(|time| time.map_or(NOTHING.to_owned(), |time| format!("{:.1} s", time.as_secs_f64())));
    let (tests, scenarios): (Vec<_>, Vec<_>) =
        outcome.cases.iter().partition(|case| case.name.contains("::"));
    let count = |cases: &[&Case]| {
        let good = cases.iter().filter(|case| case.failure.is_none()).count();
        format!("{good} of {}", cases.len())
    };
    let tests = match (tests.as_slice(), outcome.left_out.len()) {
        ([], _) => NOTHING.to_owned(),
        (tests, 0) => count(tests),
        (tests, left_out) => format!("{}; {left_out} not for it", count(tests)),
    };
    format!(
        "| {} | {} | {hook} | {drop} | {} | {} | {} | {} | {tests} |",
        outcome.release,
        if ready.is_some() { "yes" } else { "**no**" },
        if cannot.is_empty() { "nothing" } else { &cannot },
        walked.join(", "),
        times.join("; "),
        count(&scenarios),
    )
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
    fn a_row_takes_the_place_of_that_of_its_series() {
        let of = |release: &str| Outcome { release: release.to_owned(), ..Outcome::default() };
        let releases = |text: &str| -> Vec<String> {
            let rows = text.lines().filter(|line| line.contains("**no**"));
            rows.filter_map(|row| row.split(' ').nth(1).map(str::to_owned)).collect()
        };
        let text = format!("a\n{BEGIN}\n{END}\nb\n");
        let text = put(&text, &[of("6.12.3"), of("5.10.0-46")]).expect("a place");
        assert_eq!(releases(&text), ["5.10.0-46", "6.12.3"]);
        assert_eq!(put(&text, &[]).as_ref(), Some(&text), "no line more each time");
        let added = [of("6.12.4-cloud-arm64"), of("6.12.4"), of("6.1.0")];
        let text = put(&text, &added).expect("a place");
        assert_eq!(releases(&text), ["5.10.0-46", "6.1.0", "6.12.4", "6.12.4-cloud-arm64"]);
        assert!(text.starts_with("a\n") && text.ends_with("\nb\n"), "{text}");
        assert_eq!(put("no place", &[]), None);
    }

    #[test]
    fn thousands_are_apart() {
        for (number, text) in [(7, "7"), (123, "123"), (1_234, "1,234"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }
}
