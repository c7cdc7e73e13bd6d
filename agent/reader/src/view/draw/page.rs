//! Text in sections, wrapped to a width.

use ratatui::{
    style::Style,
    text::{Line, Span},
};

use super::Theme;
use crate::view::words;
use whydrop_report::escape::escape;

/// How far the text is indented below the headings.
const INDENT: &str = "  ";

/// Lines of a page. Names in it come from users; every line is escaped and fits.
pub(super) struct Page {
    pub(super) lines: Vec<Line<'static>>,
    pub(super) width: usize,
    theme: Theme,
}

impl Page {
    pub(super) fn new(width: usize, theme: Theme) -> Self {
        Self { lines: Vec::new(), width, theme }
    }

    pub(super) const fn theme(&self) -> Theme {
        self.theme
    }

    /// A heading, with an empty line before all but the first.
    pub(super) fn heading(&mut self, text: &str) {
        if !self.lines.is_empty() {
            self.lines.push(Line::default());
        }
        self.lines.push(Line::styled(words::fit(text, self.width), self.theme.strong));
    }

    pub(super) fn text(&mut self, text: &str) {
        self.wrap(text, INDENT, INDENT, Style::new());
    }

    pub(super) fn styled(&mut self, text: &str, style: Style) {
        self.wrap(text, INDENT, INDENT, style);
    }

    /// One of several things.
    pub(super) fn item(&mut self, mark: &str, text: &str) {
        let first = format!("{INDENT}{mark} ");
        let next = " ".repeat(words::width(&first));
        self.wrap(text, &first, &next, Style::new());
    }

    /// What a thing is called, and what it is.
    pub(super) fn field(&mut self, name: &str, value: &str) {
        // On a small terminal names keep less room.
        let columns = if self.width < 60 { 10 } else { 16 };
        let first = format!("{INDENT}{}", words::pad(name, columns));
        let next = " ".repeat(words::width(&first));
        self.wrap(value, &first, &next, Style::new());
    }

    /// Lines as they are, from the first column on, so that they can be selected and copied.
    pub(super) fn verbatim(&mut self, text: &str) {
        for line in text.lines() {
            self.lines.push(Line::raw(words::fit(line, self.width)));
        }
    }

    pub(super) fn blank(&mut self) {
        self.lines.push(Line::default());
    }

    pub(super) fn line(&mut self, spans: Vec<Span<'static>>) {
        self.lines.push(Line::from(spans));
    }

    /// Keeps the first so many lines, and says so where there were more.
    pub(super) fn cut(&mut self, lines: usize) {
        if self.lines.len() > lines {
            self.lines.truncate(lines);
            if let Some(last) = self.lines.last_mut() {
                let text = format!("{last} …");
                *last = Line::raw(words::fit(&text, self.width));
            }
        }
    }

    fn wrap(&mut self, text: &str, first: &str, next: &str, style: Style) {
        let text = escape(text);
        // A name is not broken at its hyphens, so that it can be read and copied whole.
        let options = textwrap::Options::new(self.width.max(8))
            .word_splitter(textwrap::WordSplitter::NoHyphenation)
            .initial_indent(first)
            .subsequent_indent(next);
        for line in textwrap::wrap(&text, options) {
            self.lines.push(Line::styled(line.into_owned(), style));
        }
    }
}
