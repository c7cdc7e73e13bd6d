use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Content, Fault};
use crate::{
    documents,
    yaml::{ALIASED_BYTES_MAX, DEPTH_MAX, value},
};

fn read(text: &str) -> Value {
    value(text, 1).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn refused(text: &str) -> String {
    match value(text, 1) {
        Ok(value) => panic!("{text:?} is {value}"),
        Err(error) => error.to_string(),
    }
}

/// What is in a text: objects as they are, and what is wrong with others.
#[expect(clippy::type_complexity, reason = "a row of a test")]
fn pieces(text: &[u8]) -> Vec<(usize, Option<usize>, usize, Result<Value, String>)> {
    let mut pieces = Vec::new();
    documents::read(text, false, &mut |piece| {
        let place = piece.place;
        let content = match piece.content {
            Content::Object(value, _) => Ok(value),
            Content::Fault(Fault::Yaml(error), _) => Err(error.to_string()),
            Content::Fault(Fault::Json(error), _) => Err(error),
            Content::Fault(Fault::Read(error), _) => Err(error.to_string()),
            Content::Template => Err("a template".to_owned()),
            Content::CutOff => Err("cut off".to_owned()),
        };
        pieces.push((place.document, place.item, place.line, content));
    });
    pieces
}

#[test]
fn scalars_are_what_kubectl_takes_them_for() {
    for (text, expected) in [
        ("yes", json!(true)),
        ("On", json!(true)),
        ("y", json!(true)),
        ("NO", json!(false)),
        ("off", json!(false)),
        ("n", json!(false)),
        ("yEs", json!("yEs")),
        ("~", json!(null)),
        ("Null", json!(null)),
        ("nULL", json!("nULL")),
        ("017", json!(15)),
        ("0o17", json!(15)),
        ("08", json!(8)),
        ("0x1F", json!(31)),
        ("-0x1f", json!(-31)),
        ("0b101", json!(5)),
        ("+12", json!(12)),
        ("1_000", json!(1000)),
        ("_1", json!("_1")),
        ("0x", json!("0x")),
        ("1e3", json!(1000)),
        ("1.5", json!(1.5)),
        (".5", json!(0.5)),
        ("1.", json!(1)),
        (".", json!(".")),
        ("1.2.3", json!("1.2.3")),
        ("10.0.0.1", json!("10.0.0.1")),
        ("1:30", json!("1:30")),
        ("2026-01-02", json!("2026-01-02")),
        (".inf", json!(".inf")),
        ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
        ("-9223372036854775808", json!(i64::MIN)),
        ("\"yes\"", json!("yes")),
        ("'017'", json!("017")),
        ("!!str yes", json!("yes")),
        ("!!int '5'", json!(5)),
        ("! 5", json!("5")),
        ("!mine 5", json!("5")),
        ("http://a:80/x?b=c#d", json!("http://a:80/x?b=c#d")),
        ("a b", json!("a b")),
        ("船", json!("船")),
        ("＃", json!("＃")),
    ] {
        // A scalar that is all of a text is the same as one in a map.
        assert_eq!(read(&format!("a: {text}\n")), json!({ "a": expected }), "{text}");
        assert_eq!(read(text), expected, "{text}");
    }
    let keys = read("{yes: 1, 2: b, 0x10: c, ~: d, \"on\": e}");
    assert_eq!(keys, json!({ "true": 1, "2": "b", "16": "c", "null": "d", "on": "e" }));
}

#[test]
fn what_libyaml_takes_is_taken() {
    // The last line of a quoted string is as far to the left as its key.
    assert_eq!(
        read("a:\n  b: '[\n    1\n  ]'\n  c: \"x\n  y\"\n"),
        json!({ "a": { "b": "[ 1 ]", "c": "x y" } })
    );
    // Tabs: before a comment, between a key and its value, within flows.
    assert_eq!(read("a:\t1\t# one\nb: {\t\"c\":\t2,\n\td: [3,\t4] }\n")["b"]["d"], json!([3, 4]));
    // A list as far to the left as its key.
    assert_eq!(read("a:\n- 1\n- - 2\n  - 3\nb: 4"), json!({ "a": [1, [2, 3]], "b": 4 }));
    // Blocks of text, with and without an end of the last line.
    let texts = "a: |\n  x\n   y\n\nb: >-\n  x\n  y\nc: |+\n  z\n\n";
    assert_eq!(read(texts), json!({ "a": "x\n y\n", "b": "x y", "c": "z\n\n" }));
    assert_eq!(read("a: |\n  x"), json!({ "a": "x\n" }));
    // A tag and a comma after it, at which the port of libyaml gives up.
    assert_eq!(read("[!!str , !!str,!<x,y> ,!mine, 1]"), json!(["", "", "", "", 1]));
    assert_eq!(read("{\"a\":!x, b: 1}"), json!({ "a": "", "b": 1 }));
    assert_eq!(read("[!x, '!x,', !!str,  \"a !y,b\"]"), json!(["", "!x,", "", "a !y,b"]));
    assert_eq!(read("? a\n: 1\n"), json!({ "a": 1 }));
    assert_eq!(read("\"\\u00e9\\x41\\\n  b\""), json!("éAb"));
}

#[test]
fn anchors_and_merges_are_followed() {
    let text = "base: &b {x: 1, w: 2}\nlist: [&o 7, *o]\none:\n  <<: *b\n  w: 3\n\
                two: {w: 4, <<: [{z: 5}, *b]}\nkey: {*o : 8}\nquoted: {\"<<\": 1}\n";
    assert_eq!(
        read(text),
        json!({
            "base": { "x": 1, "w": 2 }, "list": [7, 7], "one": { "x": 1, "w": 3 },
            "two": { "x": 1, "w": 2, "z": 5 }, "key": { "7": 8 }, "quoted": { "<<": 1 },
        })
    );
    assert!(refused("a: *nobody").contains("*nobody"));
    assert!(refused("a: &a [*a]").contains("*a"));
    assert!(refused("{<<: 1}").contains("a map"));
    assert!(refused("{[a]: 1}").contains("a key"));
}

#[test]
fn what_would_blow_up_is_refused() {
    let mut laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..9 {
        let inner = vec![format!("*a{}", level - 1); 10].join(",");
        writeln!(laughs, "a{level}: &a{level} [{inner}]").expect("a text takes it");
    }
    assert!(refused(&laughs).contains("MiB at most"), "{}", refused(&laughs));
    let big = "x".repeat(1 << 19);
    let many = format!("a: &a {big}\nb: [{}]\n", vec!["*a"; ALIASED_BYTES_MAX >> 18].join(","));
    assert!(refused(&many).contains("MiB at most"));
    for (open, close) in [("[", "]"), ("{a: ", "}")] {
        let deep = |depth| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        assert!(value(&deep(DEPTH_MAX - 1), 1).is_ok());
        assert!(refused(&deep(DEPTH_MAX + 1)).contains("deep at most"));
        // Before the parser has any to give.
        let _ = refused(&deep(100_000));
    }
    let lines: Vec<_> = (0..1000).map(|depth| " ".repeat(depth) + "a:\n").collect();
    let block = lines.concat();
    assert!(refused(&block).contains("deep at most"));
}

#[test]
fn items_come_one_by_one_with_their_lines() {
    let text = "apiVersion: v1\nitems:\n- apiVersion: v1\n  kind: A\n- {apiVersion: v1, kind: B}\n\
                - apiVersion: v1\n  kind: {[C]: 1}\n- {apiVersion: v1, kind: D}\nkind: List\n\
                ---\napiVersion: v1\nkind: PodList\nitems:\n- metadata: {}\n---\n\
                items:\n- metadata: {}\nkind: NodeList\napiVersion: v1\n";
    let pieces = pieces(text.as_bytes());
    let places: Vec<_> = pieces.iter().map(|(d, i, line, _)| (*d, *i, *line)).collect();
    let item = |document, item, line| (document, Some(item), line);
    let expected = [
        item(1, 1, 3),
        item(1, 2, 5),
        item(1, 3, 6),
        item(1, 4, 8),
        item(2, 1, 14),
        item(3, 1, 17),
    ];
    assert_eq!(places, expected);
    let kinds: Vec<_> = pieces.iter().map(|(.., read)| read.as_ref().map(|v| &v["kind"])).collect();
    assert_eq!(kinds[3], Ok(&json!("D")));
    assert_eq!(kinds[2], Err(&"line 7: expected a key that is a word".to_owned()));
    assert_eq!((kinds[4], kinds[5]), (Ok(&json!("Pod")), Ok(&json!("Node"))));
}

#[test]
fn a_broken_document_leaves_the_others() {
    let text =
        "%YAML 1.2\n---\n# a comment\n{a: 1}\n---\nb: [\n--- # with a word\nc: 3\n...\n---\n\n";
    let read: Vec<_> = pieces(text.as_bytes()).into_iter().map(|piece| piece.3).collect();
    assert_eq!(read.len(), 3, "{read:?}");
    assert_eq!((&read[0], &read[2]), (&Ok(json!({ "a": 1 })), &Ok(json!({ "c": 3 }))));
    let error = read[1].as_ref().expect_err("broken");
    assert!(error.starts_with("line 7, column 1: not YAML: "), "{error}");
    let cut = "apiVersion: v1\nitems:\n- {apiVersion: v1, kind: A}\n";
    assert_eq!(pieces(cut.as_bytes())[1].3, Err("cut off".to_owned()));
    let bytes = b"a: 1\nb: \xff\n---\nc: \x07\n---\nd: 2\n";
    let read: Vec<_> = pieces(bytes).into_iter().map(|piece| piece.3).collect();
    assert!(
        read[0].as_ref().is_err_and(|error| error.starts_with("line 2: expected text in UTF-8"))
    );
    assert!(read[1].as_ref().is_err_and(|error| error.starts_with("line 4: expected text")));
    assert_eq!(read[2], Ok(json!({ "d": 2 })));
}

#[test]
fn json_is_read_as_json_and_what_looks_like_it_as_yaml() {
    let text = "{\"kind\": \"List\", \"apiVersion\": \"v1\",\n\"items\": [\n  {\"kind\": \"A\", \
                \"apiVersion\": \"v1\", \"s\": \"\\ud83d\\ude00\\/\"},\n\n  {\"kind\": \"B\"}\n]} \
                {\"kind\": \"C\"}\n{\"kind\": \"D\"}\n---\n{kind: E, \"a\": b}\n---\n{\"a\": b, c: d}\n";
    let pieces = pieces(text.as_bytes());
    let lines: Vec<_> = pieces.iter().map(|(d, i, line, _)| (*d, *i, *line)).collect();
    let expected =
        [(1, Some(1), 3), (1, Some(2), 5), (2, None, 6), (3, None, 7), (4, None, 8), (5, None, 10)];
    assert_eq!(lines, expected);
    assert_eq!(pieces[0].3.as_ref().expect("an item")["s"], "😀/");
    assert_eq!(pieces[5].3, Ok(json!({ "a": "b", "c": "d" })));
}

#[test]
fn other_encodings_are_read_as_utf_8() {
    let text = "a: \"Größe 船 😀\"\n---\nb: 2\n";
    let expected = vec![Ok(json!({ "a": "Größe 船 😀" })), Ok(json!({ "b": 2 }))];
    let marked = format!("\u{feff}{text}");
    let little = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let big = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
    for bytes in [
        text.as_bytes().to_vec(),
        marked.as_bytes().to_vec(),
        text.replace('\n', "\r\n").into_bytes(),
        little(&marked),
        big(&marked),
        little(text),
        big(text),
        format!("{text}---\n\u{feff}").into_bytes(),
    ] {
        let read: Vec<_> = pieces(&bytes).into_iter().map(|piece| piece.3).collect();
        assert_eq!(read, expected, "{bytes:?}");
    }
}

/// Text that is near to YAML.
fn near_yaml() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "a",
        ": ",
        ":",
        "- ",
        "-",
        "\n",
        "\n",
        "  ",
        " ",
        "\t",
        "[",
        "]",
        "{",
        "}",
        ",",
        "?",
        "? ",
        "!",
        "!!str",
        "!<",
        ">",
        "|",
        "|-",
        ">+",
        "2",
        "&a",
        "*a",
        "<<",
        "\"",
        "'",
        "\\",
        "\\u",
        "d83d",
        "%",
        "%TAG ! x",
        "%YAML 1.1\n",
        "---",
        "--- ",
        "...",
        "#",
        " #",
        "@",
        "`",
        "\r",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "\u{1}",
        "é",
        "=",
        "~",
        "0",
        "items:",
        "kind: List\n",
        "{{",
        "%41",
    ]);
    prop::collection::vec(words, 0..40).prop_map(|words| words.concat())
}

/// Any value that JSON can hold, with strings that YAML may take for something else.
fn any_value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "[a-zA-Z0-9:#&*!|>'\"%@`{}\\[\\], ?\n\t_~.+-]{0,12}",
        "\\PC{0,8}",
        prop::sample::select(vec![
            "yes",
            "on",
            "n",
            "null",
            "~",
            "017",
            "0x1f",
            "1e3",
            ".5",
            "1_0",
            "<<",
            "-",
            "---",
            "...",
            "2026-01-02",
            "",
            " ",
            "a: b",
            "# c",
            ".inf",
            "0b1",
            "0o7",
            "=",
            "\u{feff}",
            "{{ a }}",
        ])
        .prop_map(str::to_owned),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1.0e9..1.0e9).prop_map(|float: f64| json!((float.trunc() + 0.25))),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(text.clone(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        pieces(&bytes);
    }

    #[test]
    fn nothing_near_yaml_panics(text in near_yaml()) {
        pieces(text.as_bytes());
        let _ = value(&text, 1);
    }

    #[test]
    fn what_remedies_are_printed_as_is_read_back(value in any_value()) {
        let document = json!({ "kind": value });
        let yaml = whydrop_report::escape::yaml(&document).expect("YAML");
        prop_assert_eq!(read(&yaml), document.clone(), "{}", yaml);
        let pieces: Vec<_> = pieces(yaml.as_bytes()).into_iter().map(|piece| piece.3).collect();
        prop_assert_eq!(pieces, vec![Ok(document)]);
    }

    #[test]
    fn json_is_read_the_same_by_either_reader(value in any_value()) {
        let document = json!({ "kind": value });
        let text = serde_json::to_string_pretty(&document).expect("JSON");
        let pieces: Vec<_> = pieces(text.as_bytes()).into_iter().map(|piece| piece.3).collect();
        prop_assert_eq!(pieces, vec![Ok(document)]);
    }

    #[test]
    fn how_much_is_read_at_once_makes_no_difference(text in near_yaml(), step in 1..7_usize) {
        let whole = pieces(text.as_bytes());
        let mut parts = Vec::new();
        documents::read(Slow { bytes: text.as_bytes(), step }, false, &mut |piece| {
            parts.push((piece.place.document, piece.place.item, piece.place.line));
        });
        let whole: Vec<_> = whole.into_iter().map(|(d, i, line, _)| (d, i, line)).collect();
        prop_assert_eq!(parts, whole);
    }
}

/// A source that gives a few bytes at a time.
struct Slow<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl std::io::Read for Slow<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.step.min(into.len()).min(self.bytes.len());
        into[..count].copy_from_slice(&self.bytes[..count]);
        self.bytes = &self.bytes[count..];
        Ok(count)
    }
}
