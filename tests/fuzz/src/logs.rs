//! Lines of agents' logs as `view`, `report`, `fix` and `heal` read them: only whole lines in the agent's own
//! form are records, and what is written of them is harmless.

use std::io::Cursor;

use jiff::{SignedDuration, Timestamp};
use ratatui::{Terminal, backend::TestBackend};
use serde_json::{Value, json};
use whydrop::{
    heal::hear,
    page::page,
    records::{
        Line,
        board::Board,
        flow_search::FlowSearch,
        lines::{LINE_BYTES_MAX, Next, next},
        read_line,
        text::{bare, is_record},
        too_long,
    },
    report::{
        Record, escape,
        text::{FlowQuery, line},
    },
    view::{Theme, View, draw, summary},
};
use whydrop_core::heal::{Healer, Settings};

use crate::{
    choices::Choices,
    text::{assert_harmless, assert_harmless_lines, is_harmful, words},
};

/// The id that forged lines have; no record does.
const FORGED: &str = "00c0ffee";

/// Bytes as a log, or records of which fields are replaced.
pub(crate) fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let how = choices.byte();
    let log = if how.is_multiple_of(2) { choices.rest().to_vec() } else { written(&mut choices) };
    let mut healer = Healer::new(settings());
    let (mut board, mut view) = (Board::default(), View::default());
    let mut is_any_record = false;
    for text in lines_of(&log) {
        let read = text.as_deref().map_or_else(too_long, read_line);
        let text = text.unwrap_or_default();
        assert!(text.len() <= LINE_BYTES_MAX);
        let heard = hear(&mut healer, &text);
        if let Line::Record(record) = &read {
            is_any_record |= matches!(**record, Record::Drop(_) | Record::Incident(_));
            assert_own(record, &text);
        } else {
            assert!(heard.is_ok() || is_like_record(&text), "{text:?}");
        }
        assert_commands(&text);
        board.add(read.clone());
        view.add(vec![read]);
    }
    let now = board.span().map_or(Timestamp::UNIX_EPOCH, |(_, last)| last);
    let later = now.saturating_add(SignedDuration::from_mins(5)).unwrap_or(now);
    let actions = healer.tick(later, true);
    assert!(is_any_record || actions.is_empty(), "{actions:?} without a record");

    // To draw takes longest.
    if how % 8 > 1 {
        return;
    }
    let page = page(&board);
    assert!(!page.to_ascii_lowercase().contains("<script"), "a script in {page}");
    assert_harmless_lines(&page);
    assert_harmless_lines(&summary(&board));
    assert_screen(&mut view);
}

fn settings() -> Settings {
    Settings {
        confidence_min: 0.0,
        per_hour: 100,
        per_namespace_and_hour: 100,
        per_client_and_hour: 100,
        min_worked: SignedDuration::ZERO,
        watch: SignedDuration::from_mins(1),
        time_to_live: SignedDuration::from_hours(1),
    }
}

/// Whether somebody is to hear that this line cannot be read: it begins as a record does.
fn is_like_record(line: &str) -> bool {
    let line = bare(line);
    line.starts_with('{') || is_record(line)
}

/// A log's lines; `None`: one that is too long.
fn lines_of(log: &[u8]) -> Vec<Option<String>> {
    let (mut log, mut line) = (Cursor::new(log), String::new());
    let mut lines = Vec::new();
    loop {
        match next(&mut log, &mut line).expect("memory") {
            Next::Line => lines.push(Some(line.clone())),
            Next::TooLong => lines.push(None),
            Next::End => return lines,
        }
    }
}

/// Holds a record against the line that it was read from, and both of its forms against their readers.
fn assert_own(record: &Record, text: &str) {
    let whole = bare(text);
    assert!(whole.starts_with('{') && whole.ends_with(['}', ' ', '\t']), "{text:?}");
    serde_json::from_str::<Value>(whole).unwrap_or_else(|error| panic!("{error}: {text:?}"));

    let as_json = escape::json(record).expect("JSON");
    assert_harmless(&as_json);
    assert_eq!(read_line(&as_json), Line::Record(Box::new(record.clone())), "{as_json}");

    let as_text = line(record);
    assert_harmless(&as_text);
    assert!(!matches!(read_line(&as_text), Line::Record(_)), "{as_text}");
    assert_eq!(named(FORGED, &as_text), [], "{as_text}");
    if let Record::Drop(drop) = record {
        let own = FlowQuery::of(&drop.flow);
        let id: String = drop.incident.chars().take(8).collect();
        let found = named(&id, &as_text);
        assert!(found.iter().all(|flow| *flow == own), "{found:?} in {as_text}");
    }
}

/// The flows that a line names under an id.
fn named(id: &str, line: &str) -> Vec<FlowQuery> {
    let Ok(mut search) = FlowSearch::new(id) else { return Vec::new() };
    search.search(line);
    search.flows().unwrap_or_default()
}

/// Whatever a line of text is taken for, its command is one for a shell, of this flow alone.
fn assert_commands(line: &str) {
    let shown = line.get(line.len().saturating_sub(9)..).and_then(|end| end.strip_suffix(']'));
    let Some(id) = shown.filter(|id| id.len() == 8) else { return };
    for flow in named(id, line) {
        let command = flow.fix_command();
        // What is not of the agent's own form is no command either: it is in the line to the letter.
        if !matches!(read_line(line), Line::Record(_)) {
            assert!(bare(line).contains(&format!("; fix: {command}  [incident ")), "{line:?}");
        }
        let words = words(&command);
        let [program, job, from, source, to, destination, rest @ ..] = &words[..] else {
            panic!("{command}")
        };
        let head = [program, job, from, to].map(String::as_str);
        assert_eq!(head, ["whydrop", "fix", "--from", "--to"], "{command}");
        let escaped = |text: &str| escape::escape(text).into_owned();
        assert_eq!((source, destination), (&escaped(&flow.from), &escaped(&flow.to)), "{command}");
        assert!(rest.is_empty() || rest == ["--port", &*escaped(&flow.port)], "{command}");
    }
}

/// Draws the view in a terminal of some size.
fn assert_screen(view: &mut View) {
    view.end(None);
    let mut terminal = Terminal::new(TestBackend::new(100, 30)).expect("a screen");
    let mut shown = None;
    terminal.draw(|frame| shown = Some(draw(frame, view, Theme::new(false)))).expect("drawn");
    view.shown(shown.expect("drawn"));
    for cell in &terminal.backend().buffer().content {
        assert!(!cell.symbol().contains(is_harmful), "{:?}", cell.symbol());
    }
}

/// Records of every kind, as the agents write them.
const GOLDEN: [&str; 3] = [
    include_str!("../../../agent/tests/snapshots/records__records_as_json.snap"),
    include_str!("../../../agent/tests/snapshots/incidents__incidents_as_json.snap"),
    include_str!("../../../agent/tests/snapshots/heal__healing_as_json.snap"),
];

fn golden(choices: &mut Choices<'_>) -> Value {
    let agent = |mut state: Value| {
        state["schema"] = "whydrop/v1".into();
        state["kind"] = "agent".into();
        state["time"] = "2026-01-02T03:04:05.678901Z".into();
        state["node"] = "worker-1".into();
        state
    };
    match choices.byte() % 8 {
        kind @ 0..=4 => {
            let at = usize::from(kind).saturating_sub(2);
            let (_, json) = GOLDEN[at].split_once("\n---\n").expect("a snapshot");
            serde_json::from_str(json).expect("JSON")
        }
        5 => agent(json!({"state": "degraded", "what": "x", "since": "2026-01-02T03:04:05Z"})),
        6 => agent(json!({"state": "folded", "source": {"ip": "10.1.0.10"}, "attempts": 1,
            "packets": 3, "example": "10.1.0.10 -> 10.1.0.20:80/TCP"})),
        _ => agent(json!({"state": "muted", "since": "2026-01-02T02:04:05.678901Z", "muted": [{
            "by": "policy", "kind": "NetworkPolicy", "name": "tenant/own", "reason": "x",
            "reports": 1, "packets": 3, "example": "tenant/a -> tenant/b:80/TCP"}]})),
    }
}

/// Places in a value that hold no others.
fn leaves(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                leaves(item, &format!("{at}/{index}"), found);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                leaves(field, &format!("{at}/{name}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            found.push(at.to_owned());
        }
    }
}

/// What forged lines are made of.
const PIECES: [&str; 12] = [
    "; fix: ",
    "whydrop fix --from tenant/evil --to books/db --port 5432/TCP",
    "  [incident 00c0ffee]",
    "2026-01-02T03:04:05Z DROP ",
    "tenant/evil -> books/db:5432/TCP  ",
    "\n",
    r#"{"schema":"whydrop/v1","kind":"agent","time":"2026-01-02T03:04:05Z","node":"forged","state":"lost","counts":{}}"#,
    "\u{1b}[2J\u{202e}",
    " (Service a/b via NodePort 1 of c)",
    "'$(id)`id`'\"\\",
    "[pod/whydrop-x/whydrop] ",
    "\u{e0041}\u{3164}\u{2028}",
];

fn hostile(choices: &mut Choices<'_>) -> String {
    let mut text = String::new();
    for _ in 0..choices.below(5) {
        if choices.byte().is_multiple_of(3) {
            text += &choices.text(16);
        } else {
            text += choices.one(&PIECES);
        }
    }
    text
}

/// A log of records with hostile fields, in both forms, as agents write them: no line is forged.
fn written(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut log = String::new();
    for _ in 0..=choices.below(3) {
        let mut value = golden(choices);
        let mut places = Vec::new();
        leaves(&value, "", &mut places);
        for _ in 0..choices.below(4) {
            let number = usize::from(u16::from_le_bytes(choices.bytes()));
            let at = &places[number % places.len()];
            let place = value.pointer_mut(at).expect("found before");
            *place = match (&place, choices.byte() % 8) {
                (_, 0) => Value::Null,
                (Value::Number(_), _) => i64::from_le_bytes(choices.bytes()).into(),
                _ => hostile(choices).into(),
            };
        }
        let Ok(record) = serde_json::from_value::<Record>(value) else { continue };
        let as_json = escape::json(&record).expect("JSON");
        assert_own(&record, &as_json);
        let before = *choices.one(&["", "[pod/whydrop-x/whydrop] ", "2026-01-02T03:04:05.1Z "]);
        let own = if choices.byte().is_multiple_of(2) { as_json } else { line(&record) };
        let forged = read_line(&format!("{before}{own}"));
        if let Line::Record(read) = forged {
            assert_eq!(*read, record, "{own}");
        }
        log.extend([before, &own, "\n"]);
        // Messages of an agent quote what objects hold.
        let message = escape::escape(&hostile(choices)).into_owned();
        log.extend(["2026-01-02T03:04:05Z  WARN whydrop: ", &message, "\n"]);
    }
    log.into_bytes()
}
