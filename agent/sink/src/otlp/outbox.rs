//! Where events wait until a collector has them: on disk, else in memory, within bounds.
//!
//! The store is redb: pure Rust in one file, and what a transaction has committed is there after a
//! SIGKILL or a power cut; its cache is bounded, and it runs no threads. (An LSM store such as fjall
//! writes less for a stream like this one, and keeps journals, memtables and threads for it, which is
//! too much for the few events that a node has.) One owner writes: no lock is ever waited for.

use std::{
    collections::VecDeque,
    fs::{self, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use opentelemetry_proto::tonic::{common::v1::any_value::Value, logs::v1::LogRecord};
use prost::Message as _;
use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, backends::FileBackend,
};

use super::{
    event::{SEQUENCE, UID, key_value},
    resource,
};

/// By sequence number: when it was taken in, in milliseconds since 1970, and the event as Protocol
/// Buffers.
const EVENTS: TableDefinition<'_, u64, (u64, &[u8])> = TableDefinition::new("events");
/// `next`: the sequence number to give next. None is given twice, even when no event waits.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
/// `instance`: the agent's name, which stays as long as its numbers do.
const NAMES: TableDefinition<'_, &str, &str> = TableDefinition::new("names");

/// The file below the state directory.
const FILE: &str = "otlp-outbox.redb";

/// Only the agent's user may read who talked to whom: the folder may be open to others, as one that a
/// kubelet has made is.
const MODE: u32 = 0o600;

/// What is read is read once: a small cache does.
const CACHE_BYTES: usize = 1024 * 1024;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Events' own bytes. The file of the store takes up to about twice as much.
    pub bytes: u64,
    /// How long an event waits. Older ones explain nothing that is still the case.
    pub age: Duration,
}

impl Bounds {
    /// On disk: some ten thousand events, a bad day of a node's.
    pub const DISK: Self = Self { bytes: 64 << 20, age: Duration::from_hours(24) };
    /// In memory, where an agent has little room: some thousand events.
    pub const MEMORY: Self = Self { bytes: 8 << 20, ..Self::DISK };
}

/// Events that wait, in order.
pub(super) struct Outbox {
    store: Store,
    waiting: VecDeque<Waiting>,
    bytes: u64,
    next: u64,
    instance: String,
    bounds: Bounds,
    /// How many of the first are on their way, and are not shed until it is known what came of it.
    under_way: usize,
}

enum Store {
    Disk(Database),
    Memory(VecDeque<Vec<u8>>),
}

/// An event that waits.
#[derive(Clone, Copy)]
struct Waiting {
    sequence: u64,
    since: Timestamp,
    bytes: usize,
}

/// How many events were shed, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ShedEvents {
    /// Because the outbox was full, or the disk failed.
    pub(super) full: u64,
    /// They were too old.
    pub(super) old: u64,
}

/// Some of the first events.
pub(super) struct Batch {
    /// In order.
    pub(super) events: Vec<LogRecord>,
    /// How many entries of the outbox it stands for: those that cannot be read are not among the
    /// events.
    pub(super) entries: usize,
}

impl Outbox {
    /// One in memory.
    pub(super) fn in_memory(bounds: Bounds) -> Self {
        Self {
            store: Store::Memory(VecDeque::new()),
            waiting: VecDeque::new(),
            bytes: 0,
            next: 0,
            instance: resource::instance(),
            bounds,
            under_way: 0,
        }
    }

    /// One on disk, with what waits there. A file that cannot be read is moved aside.
    ///
    /// # Errors
    /// A folder in which no file can be kept, or another process that holds the file.
    pub(super) fn on_disk(folder: &Path, bounds: Bounds) -> Result<Self, redb::Error> {
        let path = folder.join(FILE);
        match Self::open(&path, bounds) {
            Err(error) if is_broken(&error) => {
                let aside = PathBuf::from(format!("{}.broken", path.display()));
                tracing::warn!(
                    "{}: {error}. The file is moved to {}; the records in it will not be sent",
                    path.display(),
                    aside.display()
                );
                fs::rename(&path, &aside)?;
                Self::open(&path, bounds)
            }
            opened => opened,
        }
    }

    fn open(path: &Path, bounds: Bounds) -> Result<Self, redb::Error> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        let mut file = OpenOptions::new();
        file.read(true).write(true).create(true).truncate(false).mode(MODE);
        let file = file.open(path)?;
        // An older version's may be open to others.
        file.set_permissions(Permissions::from_mode(MODE))?;
        let database = builder.create_with_backend(FileBackend::new(file)?)?;
        let write = database.begin_write()?;
        let mut outbox = Self::in_memory(bounds);
        {
            let mut names = write.open_table(NAMES)?;
            let known = names.get("instance")?.map(|name| name.value().to_owned());
            match known {
                Some(known) => outbox.instance = known,
                None => {
                    names.insert("instance", outbox.instance.as_str())?;
                }
            }
            let numbers = write.open_table(NUMBERS)?;
            outbox.next = numbers.get("next")?.map_or(0, |next| next.value());
            for entry in write.open_table(EVENTS)?.iter()? {
                let (sequence, value) = entry?;
                let (since, event) = value.value();
                let since = i64::try_from(since).ok();
                let since = since.and_then(|since| Timestamp::from_millisecond(since).ok());
                // By a clock that was set back since then it is of the future, and would stay.
                let since = since.unwrap_or_default().min(Timestamp::now());
                outbox.add(sequence.value(), since, event.len());
            }
        }
        write.commit()?;
        outbox.store = Store::Disk(database);
        Ok(outbox)
    }

    /// Distinguishes this agent from every other, as long as its numbers are continued.
    pub(super) fn instance(&self) -> &str {
        &self.instance
    }

    /// How many events wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How many bytes they have.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Since when the oldest waits.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.waiting.front().map(|oldest| oldest.since)
    }

    /// Whether events would be there after a restart.
    pub(super) fn is_on_disk(&self) -> bool {
        matches!(self.store, Store::Disk(_))
    }

    /// Takes events in, all in one transaction, and gives each its number. Where there is no room, the
    /// oldest are evicted.
    pub(super) fn push(&mut self, events: &mut Vec<LogRecord>, now: Timestamp) -> ShedEvents {
        let mut encoded = Vec::with_capacity(events.len());
        for mut event in events.drain(..) {
            let uid = format!("{}-{}", self.instance, self.next);
            event.attributes.push(key_value(UID, Value::StringValue(uid)));
            let sequence = i64::try_from(self.next).unwrap_or(i64::MAX);
            event.attributes.push(key_value(SEQUENCE, Value::IntValue(sequence)));
            encoded.push((self.next, event.encode_to_vec()));
            self.next += 1;
        }
        let count = encoded.len() as u64;
        let room = self.bounds.bytes.saturating_sub(self.bytes);
        let mut missing =
            encoded.iter().map(|(_, event)| event.len() as u64).sum::<u64>().saturating_sub(room);
        let mut leaving = 0;
        for waiting in self.waiting.iter().skip(self.under_way) {
            if missing == 0 {
                break;
            }
            missing = missing.saturating_sub(waiting.bytes as u64);
            leaving += 1;
        }
        let mut shed = ShedEvents { full: leaving as u64, old: 0 };
        if missing > 0 {
            // They are more than there is room for even with nothing else in it.
            let too_many = encoded.iter().position(|(_, event)| {
                missing = missing.saturating_sub(event.len() as u64);
                missing == 0
            });
            let too_many = too_many.map_or(encoded.len(), |last| last + 1);
            encoded.drain(..too_many);
            shed.full += too_many as u64;
        }
        let first = self.under_way;
        if let Err(error) = self.change(first..first + leaving, &encoded, now) {
            self.fall_back(&error);
            return ShedEvents { full: count, old: 0 };
        }
        shed
    }

    /// Sheds what waits too long.
    pub(super) fn expire(&mut self, now: Timestamp) -> ShedEvents {
        let first = self.under_way;
        let age =
            jiff::SignedDuration::try_from(self.bounds.age).unwrap_or(jiff::SignedDuration::MAX);
        let is_old = |waiting: &&Waiting| now.duration_since(waiting.since) > age;
        let old = self.waiting.iter().skip(first).take_while(is_old).count();
        if old > 0
            && let Err(error) = self.change(first..first + old, &[], now)
        {
            self.fall_back(&error);
            return ShedEvents::default();
        }
        ShedEvents { full: 0, old: old as u64 }
    }

    /// The first events, at most so many and so large; one at least. They are under way until
    /// [`Outbox::done`] or [`Outbox::retry`].
    pub(super) fn batch(&mut self, events_max: usize, bytes_max: usize) -> Batch {
        let mut bytes = 0;
        let entries = self.waiting.iter().take(events_max).take_while(|waiting| {
            bytes += waiting.bytes;
            bytes <= bytes_max
        });
        let entries = entries.count().max(1).min(self.waiting.len());
        let read = self.read(entries).unwrap_or_else(|error| {
            self.fall_back(&error);
            Vec::new()
        });
        let entries = entries.min(self.waiting.len());
        self.under_way = entries;
        let events = read.iter().filter_map(|event| LogRecord::decode(event.as_slice()).ok());
        Batch { events: events.collect(), entries }
    }

    fn read(&self, entries: usize) -> Result<Vec<Vec<u8>>, redb::Error> {
        match &self.store {
            Store::Memory(events) => Ok(events.iter().take(entries).cloned().collect()),
            Store::Disk(database) => {
                let table = database.begin_read()?.open_table(EVENTS)?;
                let mut events = Vec::with_capacity(entries);
                for entry in table.iter()?.take(entries) {
                    events.push(entry?.1.value().1.to_vec());
                }
                Ok(events)
            }
        }
    }

    /// Removes the events of the last batch.
    pub(super) fn done(&mut self) {
        let entries = std::mem::take(&mut self.under_way);
        if let Err(error) = self.change(0..entries, &[], Timestamp::now()) {
            self.fall_back(&error);
        }
    }

    /// Keeps the events of the last batch, to be sent again.
    pub(super) fn retry(&mut self) {
        self.under_way = 0;
    }

    /// Removes some of those that wait, and adds others: on disk, then here.
    fn change(
        &mut self,
        leaving: std::ops::Range<usize>,
        coming: &[(u64, Vec<u8>)],
        now: Timestamp,
    ) -> Result<(), redb::Error> {
        match &mut self.store {
            Store::Memory(events) => {
                events.drain(leaving.clone());
                events.extend(coming.iter().map(|(_, event)| event.clone()));
            }
            Store::Disk(database) => {
                let write = database.begin_write()?;
                {
                    let mut events = write.open_table(EVENTS)?;
                    for waiting in self.waiting.range(leaving.clone()) {
                        events.remove(waiting.sequence)?;
                    }
                    let since = u64::try_from(now.as_millisecond()).unwrap_or(0);
                    for (sequence, event) in coming {
                        events.insert(sequence, (since, event.as_slice()))?;
                    }
                    write.open_table(NUMBERS)?.insert("next", self.next)?;
                }
                write.commit()?;
            }
        }
        self.bytes -= self.waiting.drain(leaving).map(|waiting| waiting.bytes as u64).sum::<u64>();
        for (sequence, event) in coming {
            self.add(*sequence, now, event.len());
        }
        Ok(())
    }

    fn add(&mut self, sequence: u64, since: Timestamp, bytes: usize) {
        self.bytes += bytes as u64;
        self.waiting.push_back(Waiting { sequence, since, bytes });
    }

    /// Continues in memory where the disk does not work. What waits there is sent after a restart.
    fn fall_back(&mut self, error: &redb::Error) {
        tracing::warn!("the outbox failed: {error}. Records wait in memory from now on");
        let next = self.next;
        *self = Self::in_memory(Bounds { age: self.bounds.age, ..Bounds::MEMORY });
        // A name of its own, so that no number of this one is given twice; the count goes on.
        self.next = next;
    }
}

/// Whether it is the file that is at fault, not its place.
fn is_broken(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::RepairAborted
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. } => true,
        redb::Error::Io(error) => error.kind() == io::ErrorKind::InvalidData,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(names: impl IntoIterator<Item = u64>) -> Vec<LogRecord> {
        let event =
            |name: u64| LogRecord { event_name: format!("{name:040}"), ..LogRecord::default() };
        names.into_iter().map(event).collect()
    }

    fn names(batch: &Batch) -> Vec<u64> {
        batch.events.iter().map(|event| event.event_name.parse().expect("a number")).collect()
    }

    const ROOMY: Bounds = Bounds { bytes: 1 << 20, age: Duration::from_secs(60) };

    #[test]
    fn what_waits_on_disk_is_there_after_a_restart_and_numbers_go_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = Timestamp::UNIX_EPOCH;
        let mut outbox = Outbox::on_disk(folder.path(), ROOMY).expect("an outbox");
        let instance = outbox.instance().to_owned();
        outbox.push(&mut events(0..5), now);
        assert_eq!(names(&outbox.batch(2, 1 << 20)), [0, 1]);
        outbox.done();
        assert_eq!(names(&outbox.batch(2, 1 << 20)), [2, 3]);
        let bytes = outbox.bytes();
        drop(outbox);

        let mut outbox = Outbox::on_disk(folder.path(), ROOMY).expect("an outbox");
        assert_eq!((outbox.instance(), outbox.len()), (instance.as_str(), 3));
        assert_eq!(outbox.bytes(), bytes);
        assert_eq!(names(&outbox.batch(9, 1 << 20)), [2, 3, 4], "none was acknowledged");
        outbox.done();
        drop(outbox);

        let mut outbox = Outbox::on_disk(folder.path(), ROOMY).expect("an outbox");
        outbox.push(&mut events([7]), now);
        let batch = outbox.batch(9, 1 << 20);
        let uid = batch.events[0].attributes.iter().find(|attribute| attribute.key == UID);
        let expected = key_value(UID, Value::StringValue(format!("{instance}-5")));
        assert_eq!(uid, Some(&expected));
    }

    #[test]
    fn the_oldest_make_room_but_not_those_under_way() {
        for is_on_disk in [false, true] {
            let folder = tempfile::tempdir().expect("a folder");
            let now = Timestamp::UNIX_EPOCH;
            let mut outbox = Outbox::in_memory(ROOMY);
            if is_on_disk {
                outbox = Outbox::on_disk(folder.path(), ROOMY).expect("an outbox");
            }
            outbox.push(&mut events(0..4), now);
            // Room for these four alone; all of them are of one size.
            outbox.bounds.bytes = outbox.bytes();
            assert_eq!(names(&outbox.batch(1, 1 << 20)), [0]);
            assert_eq!(outbox.push(&mut events(4..6), now), ShedEvents { full: 2, old: 0 });
            outbox.retry();
            assert_eq!(names(&outbox.batch(9, 1 << 20)), [0, 3, 4, 5]);
            assert_eq!(outbox.push(&mut events(6..8), now), ShedEvents { full: 2, old: 0 });
            outbox.done();
            assert_eq!(outbox.len(), 0);
            let shed = outbox.push(&mut events(10..30), now);
            assert_eq!(shed.full + outbox.len() as u64, 20);
            assert!(outbox.bytes() <= outbox.bounds.bytes);
            assert_eq!(names(&outbox.batch(9, 1 << 20)).last(), Some(&29), "the newest stay");
        }
    }

    #[test]
    fn what_is_too_old_is_shed() {
        let mut outbox = Outbox::in_memory(ROOMY);
        let then = Timestamp::UNIX_EPOCH;
        outbox.push(&mut events(0..2), then);
        let later = then + jiff::SignedDuration::from_secs(50);
        outbox.push(&mut events(2..3), later);
        assert_eq!(outbox.expire(later), ShedEvents::default());
        let last = then + jiff::SignedDuration::from_secs(61);
        assert_eq!(outbox.expire(last), ShedEvents { full: 0, old: 2 });
        assert_eq!(names(&outbox.batch(9, 1 << 20)), [2]);
    }

    #[test]
    fn a_batch_has_one_event_however_large_and_no_more_than_fit() {
        let mut outbox = Outbox::in_memory(ROOMY);
        outbox.push(&mut events(0..3), Timestamp::UNIX_EPOCH);
        let one = outbox.waiting[0].bytes;
        assert_eq!(names(&outbox.batch(9, 1)), [0]);
        assert_eq!(names(&outbox.batch(9, 2 * one)), [0, 1]);
        assert_eq!(names(&outbox.batch(2, 1 << 20)), [0, 1]);
    }

    #[test]
    fn a_file_that_is_no_outbox_is_moved_aside() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(FILE), vec![7; 8192]).expect("a file");
        let mut outbox = Outbox::on_disk(folder.path(), ROOMY).expect("an outbox");
        outbox.push(&mut events(0..1), Timestamp::UNIX_EPOCH);
        assert_eq!(outbox.len(), 1);
        let aside = folder.path().join(format!("{FILE}.broken"));
        assert_eq!(fs::read(aside).expect("kept"), vec![7; 8192]);
    }

    #[test]
    fn no_other_user_reads_it_whatever_the_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        let mode = || fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
        drop(Outbox::on_disk(folder.path(), ROOMY).expect("an outbox"));
        assert_eq!(mode(), MODE);
        // As versions before this one made it.
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("permissions");
        drop(Outbox::on_disk(folder.path(), ROOMY).expect("an outbox"));
        assert_eq!(mode(), MODE);
    }

    /// What the version before left behind is continued, and what is left behind is of the form that
    /// it reads: the tables and types are spelt out as that version has them.
    #[test]
    fn the_version_before_may_have_it_again() {
        const BEFORE: &[u8] =
            include_bytes!("../../../../tests/upgrades/0.1.0-ca53cf1/otlp-outbox.redb.gz");
        const EVENTS_BEFORE: TableDefinition<'_, u64, (u64, &[u8])> =
            TableDefinition::new("events");
        const NUMBERS_BEFORE: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
        const NAMES_BEFORE: TableDefinition<'_, &str, &str> = TableDefinition::new("names");

        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("otlp-outbox.redb");
        let mut file = fs::File::create(&path).expect("a file");
        io::copy(&mut flate2::read::GzDecoder::new(BEFORE), &mut file).expect("gzip");
        drop(file);

        let mut outbox = Outbox::on_disk(folder.path(), ROOMY).expect("an outbox");
        let instance = outbox.instance().to_owned();
        assert_eq!(names(&outbox.batch(9, 1 << 20)), [1, 2], "0 was acknowledged");
        outbox.retry();
        outbox.push(&mut events([3]), Timestamp::UNIX_EPOCH);
        drop(outbox);

        let database = Database::open(&path).expect("a database");
        let read = database.begin_read().expect("a transaction");
        let events = read.open_table(EVENTS_BEFORE).expect("of these types");
        let sequences = events.iter().expect("entries").map(|entry| entry.expect("one").0.value());
        assert_eq!(sequences.collect::<Vec<_>>(), [1, 2, 3]);
        let last = events.get(3).expect("a read").expect("an entry");
        let last = LogRecord::decode(last.value().1).expect("an event");
        let uid = last.attributes.iter().find(|attribute| attribute.key == "log.record.uid");
        let expected = key_value("log.record.uid", Value::StringValue(format!("{instance}-3")));
        assert_eq!(uid, Some(&expected));
        let numbers = read.open_table(NUMBERS_BEFORE).expect("of these types");
        assert_eq!(numbers.get("next").expect("a read").map(|next| next.value()), Some(4));
        let names = read.open_table(NAMES_BEFORE).expect("of these types");
        let name = names.get("instance").expect("a read").map(|name| name.value().to_owned());
        assert_eq!(name, Some(instance));
    }

    #[test]
    fn nobody_else_has_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let _held = Outbox::on_disk(folder.path(), ROOMY).expect("an outbox");
        assert!(Outbox::on_disk(folder.path(), ROOMY).is_err());
    }
}
