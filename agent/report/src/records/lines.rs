//! Lines of a log, whatever bytes are in it, up to the length that a record can have.

use std::io::{self, BufRead};

/// How many bytes a line has at most: more than any record (an incident's plan with its manifests
/// takes some 50 kB). A longer line is left out as a whole.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// What comes next of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A line.
    Line,
    /// A line that is longer than [`LINE_BYTES_MAX`].
    TooLong,
    /// The end.
    End,
}

/// Reads the next line into `line`, replacing what is there, without its line end. Bytes that are no
/// UTF-8 become U+FFFD.
///
/// # Errors
/// A log that cannot be read.
pub fn next(log: &mut impl BufRead, line: &mut String) -> io::Result<Next> {
    let mut bytes = std::mem::take(line).into_bytes();
    bytes.clear();
    let mut length = 0;
    loop {
        let part = log.fill_buf()?;
        if part.is_empty() && length == 0 {
            return Ok(Next::End);
        }
        let end = part.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(part.len(), |end| end + 1);
        length += taken;
        if length <= LINE_BYTES_MAX {
            bytes.extend_from_slice(&part[..taken]);
        }
        let is_last = part.is_empty() || end.is_some();
        log.consume(taken);
        if is_last {
            break;
        }
    }
    if length > LINE_BYTES_MAX {
        return Ok(Next::TooLong);
    }
    *line = String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    line.truncate(line.trim_end_matches(['\n', '\r']).len());
    Ok(Next::Line)
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[test]
    fn lines_are_read_whole_or_not_at_all() {
        // What follows the bound within the long line would be a line of its own.
        let long = format!("{}one\n", "x".repeat(2 * LINE_BYTES_MAX));
        let log = [b"a\xffb\r\n\n", long.as_bytes(), b"two\nthree"].concat();
        let mut log = BufReader::with_capacity(LINE_BYTES_MAX / 2, &log[..]);
        let mut line = String::new();
        let mut read = Vec::new();
        loop {
            match next(&mut log, &mut line).expect("memory") {
                Next::Line => read.push(line.clone()),
                Next::TooLong => read.push("too long".to_owned()),
                Next::End => break,
            }
        }
        assert_eq!(read, ["a\u{fffd}b", "", "too long", "two", "three"]);
    }
}
