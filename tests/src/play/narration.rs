//! Shows what is played while it is played: on a terminal, or in a log that a failed test prints.

use std::io::{self, IsTerminal as _, Write};

use serde::Deserialize as _;
use serde_json::Value;
use whydrop::report::{Record, text};

use crate::play::{Audience, scenario::Scenario};

/// What fits a terminal with the indentation.
const WIDTH_MAX: usize = 96;

/// Shows everything as it happens.
#[derive(Debug)]
pub struct Narrator<W> {
    to: W,
    colours: bool,
}

impl Narrator<io::Stdout> {
    /// On standard output, in colours where that is a terminal.
    pub fn on_stdout() -> Self {
        let to = io::stdout();
        let colours = to.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { to, colours }
    }
}

impl<W: Write> Narrator<W> {
    /// Into anything that takes text.
    pub fn plain(to: W) -> Self {
        Self { to, colours: false }
    }

    /// Where it went.
    pub fn into_inner(self) -> W {
        self.to
    }

    /// What is about to be played.
    pub fn introduce(&mut self, scenario: &Scenario) {
        self.heading(&scenario.title);
        self.line("");
        self.paragraph(&scenario.shows);
        if let Some(filter) = &scenario.filter {
            self.paragraph(&format!("The filter here stands for {}.", filter.stands_for.trim()));
        }
        let node = &scenario.node;
        self.line(&format!("Node {node} and its pods are network namespaces of this machine."));
    }

    /// A heading.
    pub fn heading(&mut self, words: &str) {
        let words = self.paint("1", words);
        self.line(&words);
    }

    fn paragraph(&mut self, text: &str) {
        for line in wrapped(text.trim()) {
            self.line(&line);
        }
    }

    fn paint(&self, code: &str, words: &str) -> String {
        if self.colours { format!("\x1b[{code}m{words}\x1b[0m") } else { words.to_owned() }
    }

    fn indented(&mut self, text: &str) {
        for line in text.lines().flat_map(wrapped) {
            self.line(&format!("    {line}"));
        }
    }

    fn line(&mut self, line: &str) {
        // Where nobody listens, nothing is lost.
        let _ = writeln!(self.to, "{line}").and_then(|()| self.to.flush());
    }
}

/// A text in lines of at most [`WIDTH_MAX`], broken between words.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= WIDTH_MAX => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

impl<W: Write> Audience for Narrator<W> {
    fn say(&mut self, words: &str) {
        self.line("");
        for line in words.lines().flat_map(wrapped) {
            let line = self.paint("1", &line);
            self.line(&line);
        }
        self.line("");
    }

    fn command(&mut self, who: &str, command: &str) {
        let prompt = if who.is_empty() { "$".to_owned() } else { format!("{who} $") };
        let (prompt, command) = (self.paint("2", &prompt), self.paint("36", command));
        self.line(&format!("    {prompt} {command}"));
    }

    fn output(&mut self, text: &str) {
        self.indented(text);
    }

    fn file(&mut self, name: &str, text: &str) {
        let name = self.paint("2", &format!("# {name}"));
        self.indented(&name);
        self.indented(text);
    }

    fn record(&mut self, record: &Value) {
        // As the agent's own text format has it; `play` has read it strictly before.
        let line = Record::deserialize(record).map(|record| text::line(&record));
        for line in wrapped(&line.unwrap_or_else(|_| record.to_string())) {
            let line = self.paint("33", &line);
            self.indented(&line);
        }
    }
}
