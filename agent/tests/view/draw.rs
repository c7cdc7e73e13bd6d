//! What is drawn, at several sizes, and what keys make of it.

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::{Terminal, backend::TestBackend, style::Color};
use unicode_width::UnicodeWidthStr as _;
use whydrop::{
    records::{Line, read_line},
    report::Record,
    view::{Effect, Screen, Theme, View, draw},
};

use super::stream::{at, fleet, lines, time_of};

pub(crate) fn plain() -> Theme {
    Theme::new(false)
}

fn view(minutes: i64) -> View {
    let mut view = View::default();
    view.add(fleet(minutes).into_iter().map(|r| Line::Record(Box::new(r))).collect());
    view.end(None);
    view
}

/// Draws, and reads the screen.
fn screen(view: &mut View, columns: u16, rows: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("a screen");
    let mut shown = None;
    terminal.draw(|frame| shown = Some(draw(frame, view, plain()))).expect("drawn");
    view.shown(shown.expect("drawn"));
    let mut text = String::new();
    for row in terminal.backend().buffer().content.chunks(usize::from(columns)) {
        let (mut line, mut covered) = (String::new(), 0);
        for cell in row {
            // What a wide character covers is not there.
            if covered == 0 {
                line += cell.symbol();
                covered = cell.symbol().width().max(1);
            }
            covered -= 1;
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn press(view: &mut View, keys: &str) -> Option<Effect> {
    let mut effect = None;
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            key => KeyCode::Char(key),
        };
        effect = view.key(KeyEvent::from(code));
    }
    effect
}

#[test]
fn the_incidents_most_urgent_first() {
    insta::assert_snapshot!(screen(&mut view(15), 100, 30));
}

#[test]
fn on_80_by_24() {
    insta::assert_snapshot!(screen(&mut view(15), 80, 24));
}

#[test]
fn on_40_by_10() {
    insta::assert_snapshot!(screen(&mut view(15), 40, 10));
}

#[test]
fn no_size_is_too_small() {
    let mut view = view(3);
    for keys in ["", "\n", "\n", "\n", "?"] {
        press(&mut view, keys);
        for (columns, rows) in [(1, 1), (2, 3), (9, 4), (20, 2), (300, 5), (5, 60)] {
            screen(&mut view, columns, rows);
        }
    }
}

#[test]
fn an_incident() {
    let mut view = view(15);
    press(&mut view, "j\n");
    insta::assert_snapshot!(screen(&mut view, 90, 90));
}

#[test]
fn a_drop_with_evidence_and_walk() {
    let mut view = view(15);
    press(&mut view, "\u{1b}t");
    while !screen(&mut view, 80, 24).contains("class namespace-selector-mismatch") {
        press(&mut view, "t");
    }
    press(&mut view, "\n\n\n");
    assert!(matches!(view.screen(), Screen::Drop { .. }), "{:?}", view.screen());
    insta::assert_snapshot!(screen(&mut view, 90, 70));
}

#[test]
fn the_agents() {
    let mut view = view(3);
    view.add(vec![read_line(&lines(&fleet(1))[0][..70])]);
    press(&mut view, "a");
    insta::assert_snapshot!(screen(&mut view, 80, 30));
}

#[test]
fn the_remedy_stands_alone_to_be_selected() {
    let mut view = view(3);
    press(&mut view, "r");
    let shown = screen(&mut view, 80, 30);
    let yaml: Vec<&str> = shown.lines().skip(2).take_while(|row| !row.is_empty()).collect();
    // As it is on the screen, it is what y copies.
    let copied = press(&mut view, "y");
    assert_eq!(copied, Some(Effect::Copy(yaml.join("\n") + "\n")));
    assert!(yaml[0].starts_with("apiVersion:"), "{shown}");
    assert!(screen(&mut view, 80, 30).contains("copied"));
}

#[test]
fn filters_say_what_they_hide() {
    let mut view = view(15);
    press(&mut view, "s");
    let critical = screen(&mut view, 100, 30);
    assert!(critical.contains("only critical: "), "{critical}");
    assert!(!critical.contains("shop/checkout"), "{critical}");
    press(&mut view, "\u{1b}/gateway pay\n");
    let found = screen(&mut view, 100, 30);
    assert!(found.contains("shop/checkout cannot reach payments/gateway"), "{found}");
    assert!(!found.contains("postgres"), "{found}");
    press(&mut view, "/zzz\n");
    assert!(screen(&mut view, 100, 30).contains("No incident matches"));
    press(&mut view, "\u{1b}");
    assert!(screen(&mut view, 100, 30).contains("postgres"));
    // What was typed is forgotten with Esc.
    press(&mut view, "/zzz\u{1b}");
    assert!(screen(&mut view, 100, 30).contains("postgres"));
}

#[test]
fn what_comes_while_paused_is_held() {
    let mut view = View::default();
    press(&mut view, " ");
    let records = fleet(2);
    let count = records.len();
    view.add(records.into_iter().map(|record| Line::Record(Box::new(record))).collect());
    let held = screen(&mut view, 80, 24);
    assert!(held.contains(&format!("PAUSED, {count} held")), "{held}");
    assert!(held.contains("No records have come yet"), "{held}");
    press(&mut view, " ");
    assert!(screen(&mut view, 80, 24).contains("postgres"));
}

#[test]
fn what_is_selected_stays_selected_while_others_come() {
    let records = fleet(12);
    let mut view = View::default();
    let early = records.iter().filter(|record| time_of(record).timestamp() < at(298));
    view.add(early.map(|record| Line::Record(Box::new(record.clone()))).collect());
    press(&mut view, "G");
    let before = screen(&mut view, 80, 24);
    let selected = |screen: &str| {
        let row = screen.lines().find(|row| row.starts_with("> ")).expect("a selected row");
        row[2..].trim_start_matches(|c: char| c != '/').to_owned()
    };
    view.add(records.into_iter().map(|record| Line::Record(Box::new(record))).collect());
    assert_eq!(selected(&screen(&mut view, 80, 24)), selected(&before));
}

#[test]
fn names_cannot_move_the_cursor_or_break_the_columns() {
    let mut records = fleet(2);
    for record in &mut records {
        if let Record::Incident(incident) = record {
            for path in &mut incident.affected {
                path.source.name = "日本語の名前/ウェブ\u{1b}[2J\u{202e}".to_owned();
            }
            incident.text.push_str("\u{1b}]0;title\u{7}");
        }
    }
    let mut view = View::default();
    view.add(records.into_iter().map(|record| Line::Record(Box::new(record))).collect());
    view.end(None);
    let list = screen(&mut view, 80, 24);
    assert!(list.contains(r"\u{1b}[2J"), "{list}");
    assert!(!list.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{list}");
    insta::assert_snapshot!(screen(&mut view, 60, 16));
    press(&mut view, "\n");
    assert!(!screen(&mut view, 80, 90).contains(['\u{1b}', '\u{7}', '\u{202e}']));
}

#[test]
fn without_colours_there_are_none() {
    let colours = |theme: Theme| {
        let view = view(15);
        let mut terminal = Terminal::new(TestBackend::new(100, 30)).expect("a screen");
        terminal.draw(|frame| _ = draw(frame, &view, theme)).expect("drawn");
        let cells = &terminal.backend().buffer().content;
        cells.iter().any(|cell| (cell.fg, cell.bg) != (Color::Reset, Color::Reset))
    };
    assert!(colours(Theme::new(true)));
    assert!(!colours(plain()));
}
