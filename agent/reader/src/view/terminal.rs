//! The view in a terminal: turns keys, lines and time into changes, and draws.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crossterm::{
    clipboard::CopyToClipboard,
    event::{self, Event, KeyEventKind},
    execute,
    terminal::{EnterAlternateScreen, enable_raw_mode},
};
use jiff::Timestamp;
use ratatui::DefaultTerminal;
use thiserror::Error;

use super::{
    draw::{Theme, draw},
    input::{Input, News},
    model::{Effect, View},
    process::{end_with_terminal, stop_on_signals, suspend},
};

/// How long lines are read before keys are looked at again: a key is answered within a frame.
const READING_MAX: Duration = Duration::from_millis(10);

/// While lines come faster than they can be read, a picture in this time is enough.
const BUSY_FRAME: Duration = Duration::from_millis(200);

/// How long a key is waited for before lines are looked at again.
const WAIT: Duration = Duration::from_millis(50);

/// Ages are shown in seconds at their finest.
const CLOCK: Duration = Duration::from_secs(1);

/// Why the view cannot be shown.
#[derive(Debug, Error)]
pub enum TerminalError {
    /// The terminal cannot be set up, drawn to, read from or restored.
    #[error("the terminal")]
    Terminal(#[from] io::Error),
    /// No handler can be set for the signals that end it.
    #[error("a signal's handler")]
    Signal(#[source] io::Error),
    /// Its job cannot be stopped.
    #[error("stopping")]
    Suspend(#[source] io::Error),
}

/// Shows what comes from `reader` until the user ends it. Ages go on with the clock as long as
/// `is_live` and the reader has not ended.
///
/// # Errors
///
/// The terminal cannot be set up, drawn to or read from.
pub fn run(reader: Box<dyn Read + Send>, is_live: bool) -> Result<(), TerminalError> {
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signals(&stop).map_err(TerminalError::Signal)?;
    end_with_terminal();
    // Restores the terminal when it panics, too.
    let mut terminal = ratatui::try_init()?;
    let shown = follow(&mut terminal, &Input::start(reader), is_live, &stop);
    let restored = ratatui::try_restore();
    shown.and(restored.map_err(Into::into))
}

fn follow(
    terminal: &mut DefaultTerminal,
    input: &Input,
    is_live: bool,
    stop: &AtomicBool,
) -> Result<(), TerminalError> {
    let (theme, mut view) = (Theme::of_environment(), View::default());
    let mut drawn: Option<Instant> = None;
    let mut has_news = true;
    while !stop.load(Ordering::Relaxed) {
        let read = read(input, &mut view);
        has_news |= read.any;
        let since = drawn.map_or(Duration::MAX, |drawn| drawn.elapsed());
        has_news |= is_live && since >= CLOCK;
        if has_news && (!read.is_busy || since >= BUSY_FRAME) {
            if is_live {
                view.tick(Timestamp::now());
            }
            paint(terminal, &mut view, theme)?;
            (drawn, has_news) = (Some(Instant::now()), false);
        }
        let mut wait = if read.is_busy { Duration::ZERO } else { WAIT };
        while event::poll(wait)? {
            wait = Duration::ZERO;
            has_news = true;
            // What is typed ahead is for what is shown then.
            if let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
            {
                match view.key(key) {
                    Some(Effect::Quit) => return Ok(()),
                    Some(effect) => carry_out(effect, terminal)?,
                    None => {}
                }
                paint(terminal, &mut view, theme)?;
                (drawn, has_news) = (Some(Instant::now()), false);
            }
        }
    }
    Ok(())
}

/// What reading lines for a while came to.
struct ReadLines {
    /// Something came.
    any: bool,
    /// More may be waiting already.
    is_busy: bool,
}

/// Reads what has come, for a while.
fn read(input: &Input, view: &mut View) -> ReadLines {
    let begun = Instant::now();
    let mut any = false;
    while view.has_room() {
        match input.next() {
            Some(News::Lines(lines)) => view.add(lines),
            Some(News::Ended) => view.end(None),
            Some(News::Failed(why)) => view.end(Some(why)),
            None => return ReadLines { any, is_busy: false },
        }
        any = true;
        if begun.elapsed() >= READING_MAX {
            return ReadLines { any, is_busy: true };
        }
    }
    ReadLines { any, is_busy: false }
}

fn paint(
    terminal: &mut DefaultTerminal,
    view: &mut View,
    theme: Theme,
) -> Result<(), TerminalError> {
    let mut shown = None;
    terminal.draw(|frame| shown = Some(draw(frame, view, theme)))?;
    if let Some(viewport) = shown {
        view.shown(viewport);
    }
    Ok(())
}

fn carry_out(effect: Effect, terminal: &mut DefaultTerminal) -> Result<(), TerminalError> {
    match effect {
        Effect::Quit => {}
        Effect::Redraw => terminal.clear()?,
        Effect::Copy(text) => {
            execute!(io::stdout(), CopyToClipboard::to_clipboard_from(text))?;
        }
        Effect::Suspend => {
            ratatui::try_restore()?;
            suspend().map_err(TerminalError::Suspend)?;
            enable_raw_mode()?;
            execute!(io::stdout(), EnterAlternateScreen)?;
            terminal.clear()?;
        }
    }
    Ok(())
}
