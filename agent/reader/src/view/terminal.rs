//! The view in a terminal: turns keys, lines and time into changes, and draws.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use crossterm::{
    clipboard::CopyToClipboard,
    event::{self, Event, KeyEventKind},
    execute,
    terminal::{EnterAlternateScreen, enable_raw_mode},
};
use jiff::Timestamp;
use ratatui::DefaultTerminal;

use super::{
    draw::{Theme, draw},
    input::{Input, News},
    model::{Effect, View},
    process::{end_with_terminal, stop_on_signals, suspend},
};

/// How long lines are taken before keys are looked at again: a key is answered within a frame.
const TAKING_MAX: Duration = Duration::from_millis(10);

/// While lines come faster than they can be taken, a picture in this time is enough.
const BUSY_FRAME: Duration = Duration::from_millis(200);

/// How long a key is waited for before lines are looked at again.
const WAIT: Duration = Duration::from_millis(50);

/// Ages are told in seconds at their finest.
const CLOCK: Duration = Duration::from_secs(1);

/// Shows what comes from `reader` until the user ends it. Ages go on with the clock as long as
/// `is_live` and the reader has not ended.
///
/// # Errors
///
/// The terminal cannot be set up, drawn to or read from.
pub fn run(reader: Box<dyn Read + Send>, is_live: bool) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signals(&stop)?;
    end_with_terminal();
    // Restores the terminal when it panics, too.
    let mut terminal = ratatui::try_init().context("the terminal")?;
    let shown = follow(&mut terminal, &Input::start(reader), is_live, &stop);
    let restored = ratatui::try_restore().context("the terminal");
    shown.and(restored)
}

fn follow(
    terminal: &mut DefaultTerminal,
    input: &Input,
    is_live: bool,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let (theme, mut view) = (Theme::of_environment(), View::default());
    let mut drawn: Option<Instant> = None;
    let mut has_news = true;
    while !stop.load(Ordering::Relaxed) {
        let taken = take(input, &mut view);
        has_news |= taken.any;
        let since = drawn.map_or(Duration::MAX, |drawn| drawn.elapsed());
        has_news |= is_live && since >= CLOCK;
        if has_news && (!taken.is_busy || since >= BUSY_FRAME) {
            if is_live {
                view.tick(Timestamp::now());
            }
            paint(terminal, &mut view, theme)?;
            (drawn, has_news) = (Some(Instant::now()), false);
        }
        let mut wait = if taken.is_busy { Duration::ZERO } else { WAIT };
        while event::poll(wait).context("the terminal")? {
            wait = Duration::ZERO;
            has_news = true;
            // What is typed ahead is for what is shown then.
            if let Event::Key(key) = event::read().context("the terminal")?
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

struct Taken {
    /// Something came.
    any: bool,
    /// More may be waiting already.
    is_busy: bool,
}

/// Takes what has come, for a while.
fn take(input: &Input, view: &mut View) -> Taken {
    let begun = Instant::now();
    let mut any = false;
    while view.has_room() {
        match input.next() {
            Some(News::Lines(lines)) => view.take(lines),
            Some(News::Ended) => view.end(None),
            Some(News::Failed(why)) => view.end(Some(why)),
            None => return Taken { any, is_busy: false },
        }
        any = true;
        if begun.elapsed() >= TAKING_MAX {
            return Taken { any, is_busy: true };
        }
    }
    Taken { any, is_busy: false }
}

fn paint(terminal: &mut DefaultTerminal, view: &mut View, theme: Theme) -> anyhow::Result<()> {
    let mut shown = None;
    terminal.draw(|frame| shown = Some(draw(frame, view, theme))).context("the terminal")?;
    if let Some(viewport) = shown {
        view.shown(viewport);
    }
    Ok(())
}

fn carry_out(effect: Effect, terminal: &mut DefaultTerminal) -> anyhow::Result<()> {
    match effect {
        Effect::Quit => {}
        Effect::Redraw => terminal.clear().context("the terminal")?,
        Effect::Copy(text) => {
            execute!(io::stdout(), CopyToClipboard::to_clipboard_from(text))
                .context("the terminal")?;
        }
        Effect::Suspend => {
            ratatui::try_restore().context("the terminal")?;
            suspend()?;
            enable_raw_mode().context("the terminal")?;
            execute!(io::stdout(), EnterAlternateScreen).context("the terminal")?;
            terminal.clear().context("the terminal")?;
        }
    }
    Ok(())
}
