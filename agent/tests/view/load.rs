//! How long many records take, and how long a frame. What a user's build takes is shown by
//! `cargo test --release -p whydrop --test view load -- --nocapture`; here only what is out of all
//! proportion fails.

use std::{
    io::{Cursor, Write as _},
    time::{Duration, Instant},
};

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::{Terminal, backend::TestBackend};
use whydrop::{
    report::Record,
    view::{Input, News, View, draw},
};

use super::{draw::plain, stream::fleet};

/// An unoptimised build takes some twenty times as long, and shows the same.
const LINES: usize = if cfg!(debug_assertions) { 10_000 } else { 100_000 };

/// Half an hour of two nodes, again and again: other drops, of 200 incidents.
fn stream() -> Vec<u8> {
    let templates = fleet(5);
    let mut text = Vec::new();
    for line in 0..LINES {
        let round = line / templates.len();
        let mut record = templates[line % templates.len()].clone();
        let rename = |id: &str, number: usize| format!("{number:08x}{}", &id[8..]);
        match &mut record {
            Record::Drop(drop) => {
                drop.id = rename(&drop.id, round);
                drop.incident = rename(&drop.incident, round % 50);
            }
            Record::Incident(incident) => incident.id = rename(&incident.id, round % 50),
            Record::Heal(_) | Record::Agent(_) => {}
        }
        serde_json::to_writer(&mut text, &record).expect("JSON");
        text.push(b'\n');
    }
    text
}

#[test]
fn many_records_without_lag() {
    let text = stream();
    let size_mb = text.len() >> 20;
    let (begun, input) = (Instant::now(), Input::start(Box::new(Cursor::new(text))));
    let mut view = View::default();
    let mut terminal = Terminal::new(TestBackend::new(120, 40)).expect("a screen");
    let mut frame = |view: &mut View| {
        let begun = Instant::now();
        let mut shown = None;
        terminal.draw(|frame| shown = Some(draw(frame, view, plain()))).expect("drawn");
        view.shown(shown.expect("drawn"));
        begun.elapsed()
    };
    let (mut slowest_fold, mut drawn, mut frames) = (Duration::ZERO, Instant::now(), Vec::new());
    while let Some(News::Lines(lines)) = input.wait() {
        let begun = Instant::now();
        view.add(lines);
        slowest_fold = slowest_fold.max(begun.elapsed());
        // As the terminal's loop draws while lines come faster than they are taken.
        if drawn.elapsed() >= Duration::from_millis(200) {
            frames.push(frame(&mut view));
            drawn = Instant::now();
        }
    }
    let loaded = begun.elapsed();
    assert_eq!(view.board().lines().records, LINES as u64);
    assert_eq!(view.board().incidents().count(), 150);
    let mut idle: Vec<Duration> = Vec::new();
    for key in [KeyCode::Down, KeyCode::Enter, KeyCode::Enter, KeyCode::Enter, KeyCode::Char('a')] {
        view.key(KeyEvent::from(key));
        idle.push(frame(&mut view));
    }
    let slowest = |frames: &[Duration]| frames.iter().max().copied().unwrap_or_default();
    writeln!(
        std::io::stderr(),
        "{LINES} records, {size_mb} MB, in {loaded:.1?}; slowest batch folded in {slowest_fold:.1?}; \
         slowest of {} frames meanwhile {:.1?}, afterwards {:.1?}",
        frames.len(),
        slowest(&frames),
        slowest(&idle),
    )
    .expect("written");
    // On a busy machine.
    assert!(loaded < Duration::from_secs(30), "{loaded:?}");
    assert!(slowest(&frames).max(slowest(&idle)) < Duration::from_secs(2), "{frames:?} {idle:?}");
}
