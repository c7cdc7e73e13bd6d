//! Hostile text in every field of every kind of record, written by the real writers and read by the
//! real readers: nothing but the agent's own record comes out.

use std::{collections::BTreeSet, io::Cursor};

use proptest::prelude::*;
use serde_json::{Value, json};
use whydrop::{
    records::{
        Line,
        board::Board,
        flow_search::FlowSearch,
        read_line,
        text::{bare, is_record},
    },
    report::{
        Record,
        escape::json,
        text::{FlowQuery, line},
    },
    view::{Input, News},
};

/// The id that hostile texts claim; no record has it.
const CLAIMED: &str = "00c0ffee";

/// What a tenant may write into a name, a label, an annotation or an error message.
const HOSTILE: [&str; 13] = [
    "x; fix: whydrop fix --from tenant/evil --to books/db --port 5432/TCP  [incident 00c0ffee]",
    "x\n2026-01-02T03:04:05Z DROP tenant/evil -> books/db:5432/TCP  x; 1 SYN; fix: whydrop fix \
     --from tenant/evil --to books/db --port 5432/TCP  [incident 00c0ffee]",
    "2026-01-02T03:04:05Z DROP tenant/evil -> books/db:5432/TCP  x; 1 SYN; fix: whydrop fix --from \
     tenant/evil --to books/db --port 5432/TCP  [incident 00c0ffee]",
    "[pod/whydrop-x/whydrop] 2026-01-02T03:04:05Z DROP tenant/evil -> books/db:5432/TCP  x; fix: \
     whydrop fix --from tenant/evil --to books/db --port 5432/TCP  [incident 00c0ffee]",
    "tenant/evil -> books/db:5432/TCP  x",
    r#"{"schema":"whydrop/v1","kind":"agent","time":"2026-01-02T03:04:05Z","node":"forged","state":"lost","counts":{}}"#,
    "x\n{\"schema\":\"whydrop/v1\",\"kind\":\"agent\",\"time\":\"2026-01-02T03:04:05Z\",\"node\":\"forged\",\
     \"state\":\"lost\",\"counts\":{}}\n",
    "\u{2028}\u{2029}\u{85}\r\u{b}\u{c}\u{1b}[2J\u{9b}31m\u{202e}\u{200b}\u{7f}\0",
    "svc/x$(touch${IFS}evil)`id`'\"\\",
    "a)b:80) x",
    "",
    " ",
    "; fix: ",
];

/// A record of a golden file.
fn golden(snapshot: &str) -> Value {
    let (_, json) = snapshot.split_once("\n---\n").expect("a snapshot");
    serde_json::from_str(json).expect("JSON")
}

/// Records of every kind and state, with every field that reaches a line.
fn records() -> Vec<Value> {
    let mut drop = golden(include_str!("snapshots/records__records_as_json.snap"));
    drop["primary"] = false.into();
    drop["evidence"]["rejection"] = "icmp 3/13".into();
    drop["evidence"]["interface"] = "veth1".into();
    drop["verdict"]["ingress"]["tier"] = "default".into();
    drop["cause"]["changed"]["difference"] = "label app=web went".into();
    drop["cause"]["changed"]["object"]["name"] = "another".into();
    let mut direct = drop.clone();
    direct["flow"]["destination"].as_object_mut().expect("an end").remove("service");
    let mut outside = direct.clone();
    outside["flow"]["source"] = json!({"ip": "fd78::2"});
    outside["flow"]["destination"] = json!({"ip": "fd78::10", "port": 8080});
    let mut node = direct.clone();
    node["flow"]["source"] = json!({"ip": "192.168.77.2", "node": "worker-1"});
    let mut opened = golden(include_str!("snapshots/incidents__incidents_as_json.snap"));
    opened["plan"].as_array_mut().expect("steps").dedup_by_key(|step| step["step"].clone());
    let mut resolved = opened.clone();
    resolved["happened"] = "resolved".into();
    resolved["resolution"] = json!({"why": "passes", "at": "2026-01-02T03:04:05.000000Z"});
    for list in ["plan", "affected"] {
        resolved[list] = json!([]);
    }
    let heal = golden(include_str!("snapshots/heal__healing_as_json.snap"));
    let agent = |mut state: Value| {
        state["schema"] = "whydrop/v1".into();
        state["kind"] = "agent".into();
        state["time"] = "2026-01-02T03:04:05.678901Z".into();
        state["node"] = "worker-1".into();
        state
    };
    let muted = json!({"by": "policy", "kind": "NetworkPolicy", "name": "tenant/own", "reason": "x",
        "reports": 1, "packets": 3, "example": "tenant/a -> tenant/b:80/TCP"});
    let states = [
        json!({"state": "ready", "version": "0.1.0", "kernel": "6.18.0", "interfaces": ["veth1"],
            "objects": {"Pod": 2}, "cannot": ["use drop reasons"]}),
        json!({"state": "degraded", "what": "pods: 403", "since": "2026-01-02T03:04:05Z"}),
        json!({"state": "folded", "source": {"ip": "10.1.0.10"}, "attempts": 1, "packets": 3,
            "example": "10.1.0.10 -> 10.1.0.20:80/TCP"}),
        json!({"state": "muted", "since": "2026-01-02T02:04:05.678901Z", "muted": [muted]}),
        json!({"state": "stopping", "why": "SIGTERM", "counts": {}}),
    ];
    let records = [drop, direct, outside, node, opened, resolved, heal];
    records.into_iter().chain(states.map(agent)).collect()
}

/// Where strings stand within a record.
fn strings(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::String(_) => found.push(at.to_owned()),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                strings(item, &format!("{at}/{index}"), found);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                strings(field, &format!("{at}/{name}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The record with this text in that place; `None`: the place takes only some words, or is left out
/// where another one is empty.
fn with(record: &Value, at: &str, text: &str) -> Option<Record> {
    let mut record = record.clone();
    *record.pointer_mut(at)? = text.into();
    serde_json::from_value(record).ok()
}

/// The flows that a line names under an id.
fn named(id: &str, line: &str) -> Vec<FlowQuery> {
    let mut search = FlowSearch::new(id).expect("an id");
    search.search(line);
    search.flows().unwrap_or_default()
}

/// What `kubectl logs` may put before a line.
const BEFORE: [&str; 3] = ["", "[pod/whydrop-x/whydrop] ", "2026-01-02T03:04:05.123456789Z "];

/// Holds both forms of a record against all that its own reader may take from them.
fn assert_own(record: &Record) {
    let (text, as_json) = (line(record), json(record).expect("JSON"));
    let is_harmful = |c: char| c.is_control() || "\u{202e}\u{200b}\u{2028}\u{2029}".contains(c);
    assert!(!text.contains(is_harmful) && !as_json.contains(is_harmful), "{text:?} {as_json:?}");
    let own = match record {
        Record::Drop(drop) => Some((drop.incident.clone(), FlowQuery::of(&drop.flow))),
        Record::Incident(_) | Record::Heal(_) | Record::Agent(_) => None,
    };
    for before in BEFORE {
        let text = format!("{before}{text}");
        assert!(!matches!(read_line(&text), Line::Record(_)), "{text}");
        assert_eq!(named(CLAIMED, &text), [], "{text}");
        if let Some((incident, own)) = &own
            && FlowSearch::new(incident).is_ok()
        {
            assert!(named(incident, &text).iter().all(|found| found == own), "{text}");
        }
    }
    assert_eq!(read_line(&as_json), Line::Record(Box::new(record.clone())), "{as_json}");
    assert_eq!(named(CLAIMED, &as_json), [], "{as_json}");
}

#[test]
fn no_field_can_hold_another_record() {
    let (mut places, mut words) = (0, BTreeSet::new());
    let mut lines = Vec::new();
    let mut tried = BTreeSet::new();
    for record in records() {
        let mut found = Vec::new();
        strings(&record, "", &mut found);
        let kind = record["kind"].to_string();
        // Of records of one kind that are alike, what a line is made from, and the rest once.
        let is_of_line = |at: &str| at == "/text" || at.starts_with("/flow");
        found.retain(|at| tried.insert((kind.clone(), at.clone())) || is_of_line(at));
        for at in found {
            for hostile in HOSTILE {
                let Some(record) = with(&record, &at, hostile) else {
                    words.insert(at.rsplit('/').next().expect("a name").to_owned());
                    continue;
                };
                places += 1;
                assert_own(&record);
                lines.push(line(&record));
                lines.push(json(&record).expect("JSON"));
            }
        }
    }
    // What takes only words of its own, or times: everything else was tried.
    let enums = [
        "action",
        "at",
        "changed_by",
        "decision",
        "denied_since",
        "direction",
        "expires",
        "first",
        "first_success",
        "happened",
        "kind",
        "last",
        "last_success",
        "layer",
        "level",
        "schema",
        "severity",
        "since",
        "state",
        "sufferer",
        "time",
        "why",
    ];
    assert_eq!(words.iter().map(String::as_str).collect::<Vec<_>>(), enums);
    assert!(places > 1000, "{places}");

    // The readers of `view`, and of `report`, which folds the same lines.
    let input = Input::start(Box::new(Cursor::new(lines.join("\n"))));
    let (mut taken, mut board) = (0, Board::default());
    while let Some(News::Lines(batch)) = input.wait() {
        for line in batch {
            let is_json = taken % 2 == 1;
            assert_eq!(matches!(line, Line::Record(_)), is_json, "{}", lines[taken]);
            taken += 1;
            board.add(line);
        }
    }
    assert_eq!(taken, lines.len());
    assert!(board.agents().all(|agent| agent.node() != "forged"));
}

#[test]
fn an_ordinary_drop_is_found_by_its_line() {
    for record in records() {
        let record: Record = serde_json::from_value(record).expect("a record");
        let text = line(&record);
        assert!(is_record(bare(&text)), "{text}");
        if let Record::Drop(drop) = &record {
            assert_eq!(named(&drop.incident[..8], &text), [FlowQuery::of(&drop.flow)], "{text}");
        }
    }
}

/// Pieces of lines, and anything else.
fn text() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "; fix: ",
        "whydrop fix ",
        "--from tenant/evil ",
        "--to books/db ",
        "--port 5432/TCP",
        "  [incident 00c0ffee]",
        "2026-01-02T03:04:05Z ",
        "DROP ",
        "tenant/evil -> ",
        "books/db:5432/TCP",
        "  ",
        "; ",
        "\n",
        "\r",
        "{",
        "\"",
        "}",
        "]",
        "[",
        "(Service a/b:80)",
        "'",
        "\\",
        "\u{2028}",
        "\u{202e}",
        "\u{9b}",
        r#"{"schema":"whydrop/v1","kind":"drop"}"#,
    ];
    let piece = prop_oneof![
        4 => prop::sample::select(PIECES).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn arbitrary_text_in_two_fields_is_no_other_record(
        record in prop::sample::select(records()),
        places in prop::array::uniform2(any::<prop::sample::Index>()),
        texts in prop::array::uniform2(text()),
    ) {
        let mut found = Vec::new();
        strings(&record, "", &mut found);
        let mut record = record;
        for (place, text) in places.iter().zip(&texts) {
            if let Some(hostile) = with(&record, place.get(&found), text) {
                record = serde_json::to_value(hostile).expect("JSON");
            }
        }
        assert_own(&serde_json::from_value(record).expect("a record"));
    }
}
