//! The page of `whydrop report`: what is on it, and that nothing in a record gets out of its
//! place, whatever a name holds. How a browser shows it is tested in tests/tests/page.rs.

use std::{collections::BTreeSet, sync::LazyLock};

use proptest::prelude::*;
use serde_json::Value;
use whydrop::{
    page::{INCIDENTS_IN_FULL_MAX, page, page_of},
    records::{Line, board::Board, read_line},
    report::Record,
};

use whydrop_core::diagnosis::Class;

use super::stream::fleet;

fn board_of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Board {
    let mut board = Board::default();
    for record in records {
        board.add(Line::Record(Box::new(record.clone())));
    }
    board
}

/// The attributes of a tag, each with its value.
type Attributes = Vec<(String, String)>;

/// The tags of a page in their order, each with its attributes, and the text between them.
///
/// A page of ours is strict enough for this: what is text has no `<`, `>` or `"`.
fn parts(page: &str) -> (Vec<(String, Attributes)>, String) {
    let (mut tags, mut text) = (Vec::new(), String::new());
    // The style sheet is ours, and full of marks.
    let (head, rest) = page.split_once("<style>").expect("a style sheet");
    let (_, rest) = rest.split_once("</style>").expect("its end");
    for part in format!("{head}{rest}").split('<').skip(1) {
        let (tag, after) = part.split_once('>').expect("a tag ends before the next begins");
        assert!(!after.contains('>') && !after.contains('"'), "not escaped: {after}");
        text.push_str(after);
        let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        let mut values = Vec::new();
        while let Some((key, value)) = attributes.trim_start().split_once("=\"") {
            let (value, rest) = value.split_once('"').expect("a value ends");
            values.push((key.to_owned(), value.to_owned()));
            attributes = rest;
        }
        tags.push((name.to_owned(), values));
    }
    (tags, text)
}

/// What holds of every page.
fn assert_sound(page: &str) {
    const VOID: [&str; 5] = ["!DOCTYPE", "meta", "link", "wbr", "br"];
    let (tags, _) = parts(page);
    let (mut open, mut ids, mut references) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for (name, attributes) in &tags {
        if let Some(closed) = name.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(closed));
        } else if !VOID.contains(&name.as_str()) {
            open.push(name.clone());
        }
        assert_ne!(name, "script");
        for (key, value) in attributes {
            assert!(!key.starts_with("on") && key != "src" && key != "style", "{key}={value}");
            match key.as_str() {
                "id" => assert!(ids.insert(value.clone()), "the id {value} twice"),
                "href" if name == "a" => {
                    let id = value.strip_prefix('#').expect("only links within the page");
                    references.insert(id.to_owned());
                }
                "href" => assert_eq!(value, "data:,"),
                "aria-labelledby" => references.extend(value.split(' ').map(str::to_owned)),
                _ => {}
            }
        }
    }
    assert!(open.is_empty(), "not closed: {open:?}");
    let lost: Vec<_> = references.difference(&ids).collect();
    assert!(lost.is_empty(), "what is referred to is not there: {lost:?}");
    let hidden = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2066}'..='\u{2069}')
    };
    assert_eq!(page.chars().find(|c| hidden(*c)), None);
    // Headings go down one step at a time.
    let levels = tags.iter().filter_map(|(name, _)| match name.as_bytes() {
        [b'h', level @ b'1'..=b'6'] => Some(level - b'0'),
        _ => None,
    });
    let mut last = 0;
    for level in levels {
        assert!(level <= last + 1, "h{level} after h{last}");
        last = level;
    }
}

#[test]
fn an_incident_goes_from_its_headline_to_its_drops() {
    let board = board_of(&fleet(12));
    let incident = board.incidents().find(|i| i.summary().cause.class == Class::PortMismatch);
    let page = page_of(&board, incident.expect("an incident"));
    assert_sound(&page);
    let (_, text) = parts(&page);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut place = 0;
    for part in [
        "Incident report",
        "critical",
        "8 of 8 backend/backend-api cannot reach backend/postgres-primary on 5432/TCP",
        "Ingress denied by NetworkPolicy",
        "the nearest rule admits another port.",
        "% sure of the cause",
        "In order of time",
        "was created",
        "The first packet was dropped",
        "incident opened",
        "Who cannot reach whom",
        "5432/TCP",
        "What the policies say",
        "denied",
        "What came nearest",
        "wanted",
        "found",
        "What changed",
        "The change was seen",
        "What lets it pass",
        "Checked:",
        "kind: NetworkPolicy",
        "port: 5432",
        "What to do, in order",
        "The drops",
        "8 drops listed",
        "Reporting agents",
        "worker-1",
        "policies.yaml: not YAML",
        "All times are UTC",
    ] {
        let at = words[place..].find(part);
        let at = at.unwrap_or_else(|| panic!("no {part:?} after {:.400}", &words[place..]));
        place += at;
    }
}

#[test]
fn several_incidents_begin_with_the_most_urgent() {
    let board = board_of(&fleet(12));
    let page = page(&board);
    assert_sound(&page);
    let (tags, _) = parts(&page);
    let links: Vec<&str> = tags
        .iter()
        .filter(|(name, _)| name == "a")
        .flat_map(|(_, attributes)| attributes)
        .filter_map(|(key, value)| (key == "href").then_some(value.as_str()))
        .filter(|href| href.starts_with("#i") && !href.contains('-'))
        .collect();
    let expected: Vec<String> = (1..=board.incidents().count()).map(|n| format!("#i{n}")).collect();
    assert_eq!(links, expected);
    assert!(page.contains("Not enforced"), "the finding");
}

#[test]
fn what_could_not_be_read_is_shown() {
    let records = fleet(1);
    let mut board = board_of(&records);
    let line = serde_json::to_string(&records[0]).expect("JSON");
    board.add(read_line(&line[..90]));
    let page = page(&board);
    assert!(page.contains("What is not on this page"));
    assert!(page.contains("1 line that begins as a record and could not be read"));
    assert!(page.contains("the line ends within the record"));
}

#[test]
fn many_records_make_a_page_that_opens() {
    let all = fleet(2);
    let drop = all.iter().find_map(|r| if let Record::Drop(d) = r { Some(d) } else { None });
    let drop = drop.expect("a drop");
    let mut board = board_of(&all);
    for n in 0..16_000_u32 {
        let mut drop = drop.clone();
        drop.id = format!("{n:016x}");
        // More incidents than are shown in full, and many drops of each.
        drop.incident = format!("{:016x}", n % 200);
        board.add(Line::Record(Box::new(Record::Drop(drop))));
    }
    let page = page(&board);
    assert_eq!(page.matches("<article").count(), INCIDENTS_IN_FULL_MAX);
    assert!(page.contains("more drops"));
    assert!(page.len() < 6_000_000, "{} bytes", page.len());
}

static RECORDS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    fleet(3).iter().map(|record| serde_json::to_value(record).expect("JSON")).collect()
});

/// What a name may hold, and should not be able to do.
const NASTY: [&str; 8] = [
    "<script>alert(1)</script>",
    "\"onload=\"alert(1)",
    "'><img src=https://example.com/x>",
    "a\u{202e}b\u{2066}c\u{61c}",
    "\u{1b}[31m\u{0}\r\n\t",
    "]]>--><!--&amp;",
    "http://example.com/",
    "",
];

/// Replaces some of a record's strings, where it stays a record.
fn spoil(record: &Value, choices: &mut impl Iterator<Item = usize>) -> Record {
    fn walk(value: &mut Value, choices: &mut dyn Iterator<Item = usize>) {
        match value {
            Value::String(text) => {
                let choice = choices.next().unwrap_or(usize::MAX);
                if let Some(nasty) = NASTY.get(choice) {
                    *text = format!("{text}{nasty}");
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| walk(item, choices)),
            Value::Object(fields) => fields.values_mut().for_each(|field| walk(field, choices)),
            _ => {}
        }
    }
    let original: Record = serde_json::from_value(record.clone()).expect("a record");
    // Part by part: one word that must be one of a few would keep all others out.
    let mut spoilt = record.clone();
    let keys: Vec<String> = spoilt.as_object().expect("an object").keys().cloned().collect();
    for key in keys {
        let before = spoilt.clone();
        walk(&mut spoilt[&key], choices);
        if serde_json::from_value::<Record>(spoilt.clone()).is_err() {
            spoilt = before;
        }
    }
    serde_json::from_value(spoilt).unwrap_or(original)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn no_name_gets_out_of_its_place(
        choices in proptest::collection::vec(0_usize..24, 4000),
    ) {
        let mut choices = choices.into_iter().cycle();
        let records: Vec<Record> =
            RECORDS.iter().map(|record| spoil(record, &mut choices)).collect();
        assert_sound(&page(&board_of(&records)));
    }
}
