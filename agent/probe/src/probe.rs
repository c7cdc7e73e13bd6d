//! Everything attached, and how it is started.

use aya::maps::{Array, HashMap as KernelHashMap, Map, MapData, PerCpuArray, RingBuf};
use aya_log::EbpfLogger;
use whydrop_core::chain::chain;
use whydrop_ebpf::{LOCATION_BYTES, Success, SuccessKey};

use super::{
    clock::Clock,
    config::{Attach, Config},
    connections::Connections,
    counters::Counters,
    error::Error,
    interfaces::Interfaces,
    load::{DROPS, Programs, attach_part, missing, wrong},
    log::ToTracing,
    names::{FROM_POD, KFREE_SKB, SOCK_STATE, TO_POD},
    observations::{Maps, Observations},
    part::{Part, PartState},
    senders::Senders,
    successes::Successes,
};

/// Everything attached. The parts are apart so that each can be waited for on its own.
pub struct Probe {
    /// Which parts work.
    pub parts: Vec<Part>,
    /// What the programs observe.
    pub observations: Observations,
    /// Which interfaces they observe. Dropping this detaches everything.
    pub interfaces: Interfaces,
    /// When flows last got an answer.
    pub successes: Successes,
    /// The time that all of these go by.
    pub clock: Clock,
    /// What the programs know of who sends.
    pub senders: Senders,
    /// Whether the kernel has room for new connections, and what it finds invalid.
    pub connections: Connections,
}

impl Probe {
    /// Loads the programs, attaches them, and attaches to the interfaces of this thread's network
    /// namespace. To be called within a runtime that has I/O and time.
    pub fn start(config: &Config) -> Result<Self, Error> {
        Programs::load(config)?.watch(config.attach)
    }

    /// Watches on for another run of the agent, in the runtime that this is called in: nothing is loaded,
    /// which takes more than an agent keeps the privilege for, and no interface is left for a moment. All
    /// times go by the clocks as they are now, and all totals count from here on.
    ///
    /// # Errors
    /// The clock or a counter cannot be read, or a socket not be waited for.
    pub fn begin_again(self) -> Result<Self, Error> {
        let Self { mut parts, observations, interfaces, successes, senders, .. } = self;
        let clock = Clock::read()?;
        let observations = observations.begin_again(clock, successes.in_kernel()?)?;
        let mut interfaces = interfaces.begin_again()?;
        attach_part(&mut parts, DROPS, || interfaces.begin_drops());
        let successes = successes.by(clock);
        let connections = Connections::default();
        Ok(Self { parts, observations, interfaces, successes, clock, senders, connections })
    }
}

impl Probe {
    /// Sees no more drops, so that those that were seen can be counted to the last. All else goes on.
    pub fn end_drops(&mut self) {
        self.interfaces.end_drops();
    }
}

impl Programs {
    /// Attaches them, and to the interfaces of this thread's network namespace. To be called within a
    /// runtime that has I/O and time.
    ///
    /// # Errors
    /// The programs cannot be read from, or interfaces not be listed.
    pub fn watch(mut self, attach: Attach) -> Result<Probe, Error> {
        self.attach();
        self.start(attach)
    }

    /// Begins to read, and attaches to interfaces, and to nothing else of the node: for tests, which feed the
    /// programs themselves.
    ///
    /// # Errors
    /// As [`Programs::watch`].
    pub fn start(mut self, attach: Attach) -> Result<Probe, Error> {
        let log = match EbpfLogger::init_with_logger(&mut self.ebpf, ToTracing) {
            Ok(log) => Some(log),
            Err(error) => {
                let state = PartState::Failed(chain(&error));
                self.parts.push(Part { name: "program diagnostics", state });
                None
            }
        };
        let mut take = |name| self.ebpf.take_map(name).ok_or_else(|| missing(name));
        let maps = Maps {
            ring: RingBuf::try_from(take("EVENTS")?).map_err(wrong)?,
            waiting: Array::try_from(take("WAITING")?).map_err(wrong)?,
            active: Array::try_from(take("ACTIVE")?).map_err(wrong)?,
            barrier: data(take("BARRIER")?)?,
            tallies: [data(take("TALLY_A")?)?, data(take("TALLY_B")?)?],
            locations: KernelHashMap::<_, u64, [u8; LOCATION_BYTES]>::try_from(take("LOCATIONS")?)
                .map_err(wrong)?,
        };
        let counters: PerCpuArray<MapData, u64> =
            PerCpuArray::try_from(take("COUNTERS")?).map_err(wrong)?;
        let successes: KernelHashMap<MapData, SuccessKey, Success> =
            KernelHashMap::try_from(take("SUCCESSES")?).map_err(wrong)?;
        let senders = Senders::new(
            KernelHashMap::try_from(take("SENDERS")?).map_err(wrong)?,
            KernelHashMap::try_from(take("ADDRESSES")?).map_err(wrong)?,
        );
        let programs = [FROM_POD, TO_POD, KFREE_SKB, SOCK_STATE]
            .into_iter()
            .filter_map(|name| {
                let fd = self.ebpf.program(name)?.fd().ok()?.try_clone().ok()?;
                Some((name, fd))
            })
            .collect();
        let clock = Clock::read()?;
        Ok(Probe {
            observations: Observations::new(
                maps,
                Counters::new(counters, programs),
                self.reasons,
                clock,
                log,
            )?,
            interfaces: Interfaces::new(self.ebpf, self.drops, attach)?,
            successes: Successes::new(successes, clock),
            senders,
            clock,
            connections: Connections::default(),
            parts: self.parts,
        })
    }
}

fn data(map: Map) -> Result<MapData, Error> {
    match map {
        Map::HashMap(data) | Map::ArrayOfMaps(data) => Ok(data),
        _ => Err(missing("of this type")),
    }
}
