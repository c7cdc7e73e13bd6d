//! Lines from a file or a pipe, read and parsed in a thread of its own.

use std::{
    io::{self, BufReader, Read},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use whydrop_report::records::{
    Line,
    lines::{Next, next},
    read_line, too_long,
};

/// How many lines are handed over at once: some milliseconds of parsing.
pub const BATCH_LINES_MAX: usize = 512;

/// How many batches wait to be handled (4 kB a line: 16 MB). Beyond that the pipe waits, and nothing
/// is lost.
pub const QUEUE_BATCHES_MAX: usize = 8;

/// How much is read at once: a pipe's whole buffer (64 kB by default), or some pages of a file.
const READ_BYTES: usize = 64 << 10;

/// What an input gives.
#[derive(Debug)]
pub enum News {
    /// Lines, in their order.
    Lines(Vec<Line>),
    /// There are no more: the file's end, or the writer has closed the pipe.
    Ended,
    /// It could not be read any further.
    Failed(String),
}

/// Lines that are read in the background.
#[derive(Debug)]
pub struct Input {
    news: Receiver<News>,
}

impl Input {
    /// Starts to read.
    pub fn start(reader: Box<dyn Read + Send>) -> Self {
        let (queue, news) = sync_channel(QUEUE_BATCHES_MAX);
        let reader = BufReader::with_capacity(READ_BYTES, reader);
        thread::spawn(move || {
            let end = match pass_on(reader, &queue) {
                Ok(()) => News::Ended,
                Err(error) => News::Failed(error.to_string()),
            };
            // This fails where the view has ended, and needs no end of the input any more.
            let _ = queue.send(end);
        });
        Self { news }
    }

    /// What has come by now, if anything.
    pub fn next(&self) -> Option<News> {
        self.news.try_recv().ok()
    }

    /// Waits for what comes next; `None` after the end.
    pub fn wait(&self) -> Option<News> {
        self.news.recv().ok()
    }
}

fn pass_on(
    mut reader: BufReader<Box<dyn Read + Send>>,
    queue: &SyncSender<News>,
) -> io::Result<()> {
    let (mut batch, mut line) = (Vec::new(), String::new());
    loop {
        let next = next(&mut reader, &mut line)?;
        match next {
            Next::Line => batch.push(read_line(&line)),
            Next::TooLong => batch.push(too_long()),
            Next::End => {}
        }
        // What has come is shown before the next line is waited for.
        let waits = !reader.buffer().contains(&b'\n');
        if (waits && !batch.is_empty()) || batch.len() >= BATCH_LINES_MAX {
            let lines = News::Lines(std::mem::take(&mut batch));
            if queue.send(lines).is_err() {
                return Ok(());
            }
        }
        if next == Next::End {
            return Ok(());
        }
    }
}
