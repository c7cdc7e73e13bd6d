//! "Did you mean": names that are there, the likest first.

use strsim::jaro_winkler;

/// How many names are listed: as many as one reads in a line.
const LISTED_MAX: usize = 5;

/// `; there are: pod-a, pod-b`: the names that are there, the likest of them if there are many.
pub(super) fn there_are<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    let more = names.len().saturating_sub(LISTED_MAX);
    if more > 0 {
        // Equally like ones stay in their order.
        names.sort_by(|a, b| jaro_winkler(b, wanted).total_cmp(&jaro_winkler(a, wanted)));
        names.truncate(LISTED_MAX);
    }
    match (names.as_slice(), more) {
        ([], _) => "; there are none".to_owned(),
        ([only], 0) => format!("; there is: {only}"),
        (names, 0) => format!("; there are: {}", names.join(", ")),
        (names, more) => format!("; there are: {} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_names_are_all_listed_and_of_many_the_likest() {
        assert_eq!(there_are("x", [].into_iter()), "; there are none");
        assert_eq!(there_are("x", ["pod-a"].into_iter()), "; there is: pod-a");
        assert_eq!(there_are("x", ["b", "a", "a"].into_iter()), "; there are: a, b");
        let names: Vec<String> = (0..9).map(|n| format!("web-{n}")).collect();
        let of_many = there_are("web-7", names.iter().map(String::as_str).chain(["other"]));
        assert!(of_many.starts_with("; there are: web-7, web-0"), "{of_many}");
        assert!(of_many.ends_with(" and 5 more"), "{of_many}");
        assert!(!of_many.contains("other"), "{of_many}");
    }
}
