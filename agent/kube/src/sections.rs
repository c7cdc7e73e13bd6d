//! A stream of text in the parts that a line `---` begins, as kubectl parts it: a broken part leaves the
//! others whole.

use std::{
    cell::Cell,
    fmt,
    io::{self, BufRead, Read},
    rc::Rc,
};

use memchr::{memchr, memchr_iter, memmem};

/// How much is read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// How long one object may be, as text. The API server takes 3 MiB in a request and etcd keeps 1.5 MiB;
/// indentation and escapes make several times that of it.
pub(crate) const OBJECT_BYTES_MAX: usize = 16 << 20;

/// How far back a part can be read again, to take it for something else than it looked like at first.
const AGAIN_BYTES_MAX: usize = 1 << 20;

/// What begins a part, at the start of a line and before a blank.
const MARK: &[u8] = b"---";

/// An object is longer than [`OBJECT_BYTES_MAX`].
#[derive(Debug)]
pub(crate) struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected objects of {} MiB at most", OBJECT_BYTES_MAX >> 20)
    }
}

impl std::error::Error for TooLong {}

/// The parts of a stream; reads as one part until the next is asked for.
pub(crate) struct Sections<R> {
    source: R,
    buffer: Vec<u8>,
    /// What of the buffer was consumed.
    start: usize,
    /// Up to where it belongs to this part.
    limit: usize,
    /// Whether `limit` is at the start of a line.
    is_line_start: bool,
    /// Whether the part ends at `limit`.
    is_part_over: bool,
    /// Whether the source has no more, or cannot be read.
    is_source_over: bool,
    /// How many parts were begun.
    parts: usize,
    /// 1-based line of `start`.
    line: usize,
    /// 1-based line where this part began.
    first_line: usize,
    /// What was read of this part, while it is short.
    again: Option<Vec<u8>>,
    /// How much was read since an object began.
    object_bytes: Rc<Cell<usize>>,
    /// Whether this part holds `{{`, up to `limit`.
    has_braces: Rc<Cell<bool>>,
}

impl<R: Read> Sections<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            source,
            buffer: Vec::with_capacity(CHUNK_BYTES),
            start: 0,
            limit: 0,
            is_line_start: true,
            is_part_over: false,
            is_source_over: false,
            parts: 0,
            line: 1,
            first_line: 1,
            again: Some(Vec::new()),
            object_bytes: Rc::default(),
            has_braces: Rc::default(),
        }
    }

    /// Goes on to the next part; whether there is one.
    ///
    /// # Errors
    /// Where the source cannot be read.
    pub(crate) fn next_section(&mut self) -> io::Result<bool> {
        if self.parts > 0 {
            self.skip_rest()?;
            if !self.is_part_over {
                return Ok(false);
            }
            self.consume(MARK.len());
            self.limit = self.start;
            self.is_line_start = false;
            self.is_part_over = false;
        }
        self.parts += 1;
        self.first_line = self.line;
        self.again = Some(Vec::new());
        self.has_braces.set(false);
        self.object_bytes.set(0);
        Ok(true)
    }

    /// Reads this part to its end.
    ///
    /// # Errors
    /// Where the source cannot be read.
    pub(crate) fn skip_rest(&mut self) -> io::Result<()> {
        loop {
            self.object_bytes.set(0);
            let rest = self.fill_buf()?.len();
            if rest == 0 {
                return Ok(());
            }
            self.consume(rest);
        }
    }

    /// What comes next in this part, so much of it or all.
    ///
    /// # Errors
    /// Where the source cannot be read.
    pub(crate) fn look_ahead(&mut self, bytes: usize) -> io::Result<&[u8]> {
        loop {
            self.scan();
            let is_all =
                self.is_part_over || (self.is_source_over && self.limit == self.buffer.len());
            if is_all || self.limit - self.start >= bytes {
                return Ok(&self.buffer[self.start..self.limit]);
            }
            self.read_more()?;
        }
    }

    /// Reads to the end of the line.
    ///
    /// # Errors
    /// Where the source cannot be read.
    pub(crate) fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let next = self.fill_buf()?;
            let line_end = memchr(b'\n', next).map(|at| at + 1);
            let count = line_end.unwrap_or(next.len());
            self.consume(count);
            if line_end.is_some() || count == 0 {
                return Ok(());
            }
        }
    }

    /// Begins this part again; whether it could.
    pub(crate) fn rewind(&mut self) -> bool {
        let Some(read) = self.again.take() else { return false };
        self.buffer.splice(..self.start, read.iter().copied());
        self.limit = self.limit - self.start + read.len();
        self.start = 0;
        self.line = self.first_line;
        self.object_bytes.set(0);
        self.again = Some(Vec::new());
        true
    }

    /// 1-based line where this part began.
    pub(crate) fn first_line(&self) -> usize {
        self.first_line
    }

    /// 1-based line of what comes next.
    pub(crate) fn line(&self) -> usize {
        self.line
    }

    /// Whether `{{` was read in this part, which a template has and YAML seldom.
    pub(crate) fn has_braces(&self) -> Rc<Cell<bool>> {
        self.has_braces.clone()
    }

    /// By which a reader says that an object begins: the count of its bytes.
    pub(crate) fn object_bytes(&self) -> Rc<Cell<usize>> {
        self.object_bytes.clone()
    }

    /// The first of what comes next that no text may hold: its 1-based line, and what it is.
    pub(crate) fn unreadable(&self) -> Option<(usize, &'static str)> {
        let next = &self.buffer[self.start..self.limit];
        let (text, is_cut) = match str::from_utf8(next) {
            Ok(text) => (text, false),
            Err(error) => {
                let (text, _) = next.split_at(error.valid_up_to());
                (str::from_utf8(text).unwrap_or_default(), true)
            }
        };
        let line = |text: &str| self.line + text.matches('\n').count();
        let is_control = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
        match text.find(is_control) {
            Some(at) => Some((line(&text[..at]), "a control character")),
            None => is_cut.then(|| (line(text), "bytes that are not UTF-8")),
        }
    }

    /// Whether `limit` is where the next part begins; `None`: more must be read to know.
    fn is_mark(&self) -> Option<bool> {
        let next = &self.buffer[self.limit..];
        let known = next.len().min(MARK.len());
        if next[..known] != MARK[..known] {
            return Some(false);
        }
        match next.get(MARK.len()) {
            Some(after) => Some(after.is_ascii_whitespace()),
            None => self.is_source_over.then_some(next.len() == MARK.len()),
        }
    }

    /// Takes what is in the buffer for this part, up to where it ends.
    fn scan(&mut self) {
        let from = self.limit;
        while !self.is_part_over && self.limit < self.buffer.len() {
            if self.is_line_start {
                match self.is_mark() {
                    None => break,
                    Some(true) => {
                        self.is_part_over = true;
                        break;
                    }
                    Some(false) => {}
                }
            }
            let rest = &self.buffer[self.limit..];
            let line = memchr(b'\n', rest);
            self.is_line_start = line.is_some();
            self.limit += line.map_or(rest.len(), |at| at + 1);
        }
        // The first brace may have come at the end of what was scanned before.
        let scanned = &self.buffer[from.saturating_sub(1)..self.limit];
        if !self.has_braces.get() && memmem::find(scanned, b"{{").is_some() {
            self.has_braces.set(true);
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.start);
        self.limit -= self.start;
        self.start = 0;
        let kept = self.buffer.len();
        self.buffer.resize(kept + CHUNK_BYTES, 0);
        let read = loop {
            match self.source.read(&mut self.buffer[kept..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(kept + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => {
                self.is_source_over = true;
                // A last line without an end is a line: the parser counts on it.
                if !self.is_line_start || self.buffer.len() > self.limit {
                    self.buffer.push(b'\n');
                }
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => {
                self.is_source_over = true;
                Err(error)
            }
        }
    }
}

impl<R: Read> BufRead for Sections<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.object_bytes.get() > OBJECT_BYTES_MAX {
            return Err(io::Error::other(TooLong));
        }
        while self.start == self.limit && !self.is_part_over {
            self.scan();
            if self.start < self.limit || self.is_part_over || self.is_source_over {
                break;
            }
            self.read_more()?;
        }
        Ok(&self.buffer[self.start..self.limit])
    }

    fn consume(&mut self, count: usize) {
        let consumed = &self.buffer[self.start..self.start + count];
        self.line += memchr_iter(b'\n', consumed).count();
        self.object_bytes.set(self.object_bytes.get() + count);
        if let Some(again) = &mut self.again {
            again.extend_from_slice(consumed);
            if again.len() > AGAIN_BYTES_MAX {
                self.again = None;
            }
        }
        self.start += count;
    }
}

impl<R: Read> Read for Sections<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let next = self.fill_buf()?;
        let count = next.len().min(into.len());
        into[..count].copy_from_slice(&next[..count]);
        self.consume(count);
        Ok(count)
    }
}
