//! Reading what the programs report: events from the ring, counts from the tally.

use std::{collections::HashMap, io, os::fd::AsFd as _, sync::Arc, time::Duration};

use aya::maps::{Array, HashMap as KernelHashMap, MapData, RingBuf};
use aya_log::EbpfLogger;
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, timeout_at},
};
use whydrop_core::observation::Observation;
use whydrop_ebpf::{Event, LOCATION_BYTES, Tally, TallyKey, kind};

use super::{
    clock::Clock,
    counters::{ByKind, Counters, Totals},
    decode::{Decoder, Names},
    error::Error,
    log::ToTracing,
    sys::{self, Entries},
};

/// How long the reader lets events gather before it looks again. It bounds how late an event is
/// reported while more come in; the first one after a quiet time is reported at once.
const PAUSE: Duration = Duration::from_millis(50);

/// How long the reader trusts the programs to wake it: see [`Observations::next`].
const BACKSTOP: Duration = Duration::from_secs(1);

/// Events handed out at once: what the ring holds when it is full.
const BATCH_MAX: usize = 8192;

const WAITING: &str = "waiting for the ring";

/// The first so many kinds are counted; answers are reported one by one.
const COUNTED: usize = kind::ANSWERED_LATE as usize;

/// Everything that the programs observe, as [`Observation`]s.
pub struct Observations {
    ring: AsyncFd<RingBuf<MapData>>,
    /// Where the reader says that it waits to be woken.
    waiting: Array<MapData, u32>,
    /// When to look at the ring next, woken or not.
    look_at: Instant,
    tally: Switch,
    counters: Counters,
    reported: ByKind,
    /// What the counters said at the last turn.
    turned_at: ByKind,
    /// Nothing was observed between the last two turns, so nothing is left among the counts.
    is_settled: bool,
    /// Events that were none, which only a fault of ours can bring about.
    malformed: u64,
    decoder: Decoder<Locations>,
    log: Option<EbpfLogger<ToTracing>>,
}

/// The two maps that count in turn, and what says which one does.
struct Switch {
    /// The number of the map that counts, for the programs to read.
    active: Array<MapData, u64>,
    /// The map to wait with until no program goes by the old number.
    barrier: Arc<MapData>,
    maps: [Arc<MapData>; 2],
    counting: usize,
}

/// What [`Observations`] is made of, taken out of the loaded object.
pub(crate) struct Maps {
    pub(crate) ring: RingBuf<MapData>,
    pub(crate) waiting: Array<MapData, u32>,
    pub(crate) active: Array<MapData, u64>,
    pub(crate) barrier: MapData,
    pub(crate) tallies: [MapData; 2],
    pub(crate) locations: KernelHashMap<MapData, u64, [u8; LOCATION_BYTES]>,
}

impl Observations {
    pub(crate) fn new(
        maps: Maps,
        counters: Counters,
        reasons: HashMap<u32, Arc<str>>,
        clock: Clock,
        log: Option<EbpfLogger<ToTracing>>,
    ) -> Result<Self, Error> {
        let Maps { ring, waiting, active, barrier, tallies, locations } = maps;
        let tally =
            Switch { active, barrier: Arc::new(barrier), maps: tallies.map(Arc::new), counting: 0 };
        let names = Locations { map: locations, known: HashMap::new() };
        Ok(Self {
            ring: sys::watch_ring(ring).map_err(Error::io(WAITING))?,
            waiting,
            look_at: Instant::now(),
            tally,
            counters,
            reported: ByKind::default(),
            turned_at: ByKind::default(),
            is_settled: true,
            malformed: 0,
            decoder: Decoder::new(clock, reasons, names),
            log,
        })
    }

    /// The same for another run of the agent: waited for in the runtime that this is called in, with the
    /// times of another clock and totals from here on. So many of the answers that were kept are left.
    pub(crate) fn begin_again(self, clock: Clock, answers_left: u64) -> Result<Self, Error> {
        let Self { ring, mut counters, decoder, reported, .. } = self;
        counters.count_from_here(reported, answers_left)?;
        let ring = sys::watch_ring(ring.into_inner()).map_err(Error::io(WAITING))?;
        let (decoder, look_at) = (decoder.by(clock), Instant::now());
        Ok(Self { ring, counters, decoder, look_at, malformed: 0, ..self })
    }

    /// The next observations, at least one. Losing the future loses none of them.
    ///
    /// While events come in, the reader looks at the ring every [`PAUSE`], and nobody wakes it
    /// but a program that sees the ring fill. When a pause has brought nothing, the reader sets
    /// `WAITING`, looks once more, and only then waits to be woken.
    ///
    /// No event waits long for that, whatever the order. A program reads `WAITING` before it submits
    /// its event. If it reads that the reader waits, it clears that and wakes it. If not, then
    /// another program has just woken it; or it read before the reader had set it, and submits
    /// within the microsecond: before the reader's last look, which finds the event, unless the
    /// program was interrupted just in between. Such an event is found at the next one's wake-up, or
    /// after [`BACKSTOP`] at the latest.
    pub async fn next(&mut self) -> Result<Vec<Observation>, Error> {
        loop {
            let is_woken = match timeout_at(self.look_at, self.ring.readable()).await {
                Ok(ready) => {
                    ready.map_err(Error::io(WAITING))?.clear_ready();
                    true
                }
                Err(_) => false,
            };
            let mut batch = self.drain();
            let is_quiet = batch.is_empty() && !is_woken;
            if is_quiet {
                self.waiting.set(0, &1, 0).map_err(|error| {
                    Error::kernel("asking the programs to wake the reader", error)
                })?;
                batch = self.drain();
            }
            self.look_at = Instant::now() + if is_quiet { BACKSTOP } else { PAUSE };
            if !batch.is_empty() {
                return Ok(batch);
            }
        }
    }

    /// What is in the ring at this moment.
    pub fn rest(&mut self) -> Vec<Observation> {
        let mut rest = Vec::new();
        loop {
            let batch = self.drain();
            if batch.is_empty() {
                return rest;
            }
            rest.extend(batch);
        }
    }

    /// Ends an interval of counting, and returns what was counted in it. To be called every second
    /// or so: the first observation of a key in an interval is reported at once, all others now.
    ///
    /// Nothing waits and nothing is asked of the kernel where nothing was observed.
    pub async fn turn(&mut self) -> Result<Vec<Observation>, Error> {
        if let Some(log) = &mut self.log {
            log.flush();
        }
        let (observed, _) = self.counters.packets()?;
        // A program adds to the totals before it counts. So it may be among the totals read here and
        // yet count after the exchange: only when a whole interval brought nothing is all drained.
        let is_quiet = observed[..COUNTED] == self.turned_at[..COUNTED];
        if is_quiet && self.is_settled {
            return Ok(Vec::new());
        }
        self.is_settled = is_quiet;
        self.turned_at = observed;

        let counted = self.tally.exchange().await?;
        let mut batch = Vec::new();
        let (decoder, reported) = (&mut self.decoder, &mut self.reported);
        sys::entries(counted.fd().as_fd(), Entries::Go, |key: &TallyKey, tally: &Tally| {
            if let Some(observation) = decoder.tally(key, tally) {
                reported[usize::from(key.kind)] += observation.packets;
                batch.push(observation);
            }
        })
        .map_err(Error::io("reading the counts"))?;
        Ok(batch)
    }

    /// What was observed, reported and lost so far.
    pub fn totals(&self) -> Result<Totals, Error> {
        self.counters.totals(self.reported)
    }

    /// Events that could not be read; none, unless programs and agent do not fit.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    fn drain(&mut self) -> Vec<Observation> {
        let mut batch = Vec::new();
        let ring = self.ring.get_mut();
        while batch.len() < BATCH_MAX
            && let Some(bytes) = ring.next()
        {
            let decoded = sys::read::<Event>(&bytes)
                .and_then(|event| Some((event.key.kind, self.decoder.event(&event)?)));
            match decoded {
                Some((kind, observation)) => {
                    self.reported[usize::from(kind)] += 1;
                    batch.push(observation);
                }
                None => self.malformed += 1,
            }
        }
        batch
    }
}

impl Switch {
    /// Lets the other map count, and returns the one that did, in which nothing counts any more.
    async fn exchange(&mut self) -> Result<Arc<MapData>, Error> {
        const DOING: &str = "exchanging the counts";
        let (counted, next) = (self.counting, 1 - self.counting);
        let number = u64::try_from(next).unwrap_or(0);
        self.active.set(0, &number, 0).map_err(|error| Error::kernel(DOING, error))?;
        self.counting = next;
        // The kernel waits for programs that run, some milliseconds in which the ring is to be read:
        // so on a thread that the runtime has for such calls. It is no task.
        let (barrier, map) = (Arc::clone(&self.barrier), Arc::clone(&self.maps[next]));
        tokio::task::spawn_blocking(move || {
            sys::wait_for_programs(barrier.fd().as_fd(), map.fd().as_fd())
        })
        .await
        .map_err(io::Error::other)
        .flatten()
        .map_err(Error::io(DOING))?;
        Ok(Arc::clone(&self.maps[counted]))
    }
}

/// The kernel functions that programs have named.
struct Locations {
    map: KernelHashMap<MapData, u64, [u8; LOCATION_BYTES]>,
    /// Bounded as the map is: only what it holds is remembered.
    known: HashMap<u64, Arc<str>>,
}

impl Names for Locations {
    fn location(&mut self, address: u64) -> Option<Arc<str>> {
        if address == 0 {
            return None;
        }
        if let Some(name) = self.known.get(&address) {
            return Some(Arc::clone(name));
        }
        let text = self.map.get(&address, 0).ok()?;
        let name: Arc<str> = Arc::from(symbol(&text)?);
        self.known.insert(address, Arc::clone(&name));
        Some(name)
    }
}

/// The function's name in what the kernel printed: without its module, or the suffix of a part that
/// the compiler split off.
fn symbol(text: &[u8]) -> Option<&str> {
    let end = text.iter().position(|byte| *byte == 0)?;
    let text = std::str::from_utf8(&text[..end]).ok()?;
    let name = text.split([' ', '+', '.']).next()?;
    // Without symbols the kernel prints the address.
    (!name.is_empty() && !name.starts_with("0x")).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_lose_what_the_compiler_and_modules_add() {
        let read = |text: &str| {
            let mut bytes = [0; LOCATION_BYTES];
            bytes[..text.len()].copy_from_slice(text.as_bytes());
            symbol(&bytes).map(str::to_owned)
        };
        assert_eq!(read("nf_hook_slow").as_deref(), Some("nf_hook_slow"));
        assert_eq!(read("nft_do_chain [nf_tables]").as_deref(), Some("nft_do_chain"));
        assert_eq!(
            read("__netif_receive_skb_core.constprop.0").as_deref(),
            Some("__netif_receive_skb_core")
        );
        assert_eq!(read("0xffffffff81000000"), None);
        assert_eq!(read(""), None);
    }
}
