//! Blanks between a tag and the comma after it, as in `[!!str, a]`: valid, and not provided for by the
//! port of libyaml that reads it, which panics.

use std::{
    cell::Cell,
    io::{self, BufRead, Read},
    rc::Rc,
};

/// These, which nobody writes: what looks like a tag within quotes gets them as well, and they are taken
/// out of the text again.
const BLANKS: &str = "\t \t\t \t";

/// Whether blanks were added.
#[derive(Clone, Debug, Default)]
pub(super) struct Added(Rc<Cell<bool>>);

impl Added {
    /// A scalar as it was written.
    pub(super) fn taken_out_of(&self, text: String) -> String {
        if self.0.get() && text.contains(BLANKS) { text.replace(BLANKS, "") } else { text }
    }
}

/// Text with these blanks.
pub(super) struct Spaced<R> {
    input: R,
    /// Where the input is.
    state: State,
    /// How much of the input was handed out last, and what follows it.
    given: usize,
    after: State,
    /// What comes before the input.
    blanks: &'static str,
    added: Added,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// After a letter or digit, where no tag can begin.
    Word,
    /// After anything else.
    Other,
    /// After `!` and what else a tag may hold.
    Tag,
    /// Within `!<…>`.
    Verbatim,
}

impl State {
    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Verbatim, b'\n') => Self::Other,
            (Self::Verbatim, b'>') | (Self::Other, b'!') => Self::Tag,
            (Self::Verbatim, _) | (Self::Tag, b'<') => Self::Verbatim,
            (Self::Tag, _) if is_of_tag(byte) => Self::Tag,
            _ if byte.is_ascii_alphanumeric() => Self::Word,
            _ => Self::Other,
        }
    }
}

fn is_of_tag(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-;/?:@&=+$.%!~*'()".contains(&byte)
}

impl<R: BufRead> Spaced<R> {
    pub(super) fn new(input: R) -> (Self, Added) {
        let (state, added) = (State::Other, Added::default());
        let blanks = "";
        let spaced = Self { input, state, given: 0, after: state, blanks, added: added.clone() };
        (spaced, added)
    }
}

impl<R: BufRead> BufRead for Spaced<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let next = self.input.fill_buf()?;
        if self.state == State::Tag && next.first() == Some(&b',') {
            self.blanks = BLANKS;
            self.state = State::Other;
            self.added.0.set(true);
        }
        if !self.blanks.is_empty() {
            return Ok(self.blanks.as_bytes());
        }
        self.after = self.state;
        self.given = next.len();
        for (index, byte) in next.iter().enumerate() {
            if *byte == b',' && self.after == State::Tag {
                self.given = index;
                break;
            }
            self.after = self.after.after(*byte);
        }
        Ok(&next[..self.given])
    }

    fn consume(&mut self, count: usize) {
        if !self.blanks.is_empty() {
            self.blanks = &self.blanks[count..];
            return;
        }
        if count == self.given {
            self.state = self.after;
        } else if let Ok(next) = self.input.fill_buf() {
            let consumed = next.iter().take(count);
            self.state = consumed.fold(self.state, |state, byte| state.after(*byte));
        }
        self.given -= count;
        self.input.consume(count);
    }
}

impl<R: BufRead> Read for Spaced<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let next = self.fill_buf()?;
        let count = next.len().min(into.len());
        into[..count].copy_from_slice(&next[..count]);
        self.consume(count);
        Ok(count)
    }
}
