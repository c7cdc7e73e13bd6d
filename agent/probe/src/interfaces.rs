//! Attaching to pods' veths as they come and go.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    os::fd::OwnedFd,
    time::Duration,
};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        tc::{
            NlOptions, SchedClassifierLink, TcAttach, TcError, TcHandle, qdisc_add_clsact,
            qdisc_detach_program,
        },
        tp_btf::BtfTracePointLink,
    },
    util::KernelVersion,
};
use nix::libc;
use tokio::io::unix::AsyncFd;

use super::{
    config::Attach,
    error::{Error, errno, is_for_now},
    load::attach_drops,
    names::{FROM_POD, TO_POD},
    netlink, sys,
    topology::Topology,
};
use whydrop_core::chain::chain;

/// The first kernel with tcx.
const TCX_SINCE: KernelVersion = KernelVersion::new(6, 6, 0);

/// The priority of clsact filters that run first, of which there may be several. Last in line is
/// no use: a filter that lets a packet pass (`TC_ACT_OK`) ends the line, as
/// Cilium's do.
const FIRST: u16 = 1;

/// The handle of our filters, which nobody takes by chance: 1 is Cilium's, and the first one's who
/// leaves it to the kernel. Who has the same replaces the filter, and takes it away with his own.
const HANDLE: TcHandle = TcHandle::new(0x7764, 0x7270);

/// How often our programs are put in front again of one that was put before them, on one interface.
/// Beyond that the other program has its way. So often it is reported as well that they were taken away.
const DISPLACED_MAX: u32 = 8;

/// In so many looks each interface is looked at once, so that a thousand of them are not one long wait
/// for everything else.
const LOOKS: u32 = 5;

/// The hooks of tcx (`enum bpf_attach_type` in include/uapi/linux/bpf.h).
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// Both programs, and where they are attached.
const HOOKS: [(&str, TcAttachType); 2] =
    [(FROM_POD, TcAttachType::Ingress), (TO_POD, TcAttachType::Egress)];

const SUBSCRIBING: &str = "subscribing to changes of network interfaces";

/// Datagrams taken in before changes are acted on: a burst is one change, but not without end.
const BURST_MAX: usize = 256;

/// The pods' veths: what is attached to them, and what is routed to them.
///
/// Owns the loaded object: when this is dropped, every program is detached.
pub struct Interfaces {
    ebpf: Ebpf,
    /// As long as it lives, drops are seen.
    drops: Option<BtfTracePointLink>,
    /// The kernel's numbers for our two programs, as tcx lists them.
    ours: [u32; 2],
    how: Attach,
    changes: AsyncFd<OwnedFd>,
    topology: Topology,
    attached: BTreeMap<u32, Attached>,
    /// How often others got before us, or took our programs away, where they did.
    displaced: BTreeMap<u32, u32>,
    /// Where attaching failed and why, so as to be reported once and tried again.
    failed: BTreeMap<u32, Unwatched>,
    /// Changes were lost, and everything that is there could not be listed.
    is_outdated: bool,
    looks: u32,
    vanished: u64,
    relisted: u64,
}

/// Both programs on one interface; they are detached when this is dropped.
struct Attached {
    name: String,
    _links: [SchedClassifierLink; 2],
}

/// A pod's interface that nobody watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwatched {
    /// Its name.
    pub name: String,
    /// What the kernel answered.
    pub reason: String,
}

/// How long it takes until each interface was looked at, with a look a second.
pub const LOOKED_AT: Duration = Duration::from_secs(LOOKS as u64);

/// What happened to the interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Programs watch this interface now.
    Attached {
        /// Interface index.
        index: u32,
        /// Interface name.
        name: String,
    },
    /// The interface is gone, or is no pod's.
    Detached {
        /// Interface index.
        index: u32,
        /// The name it had.
        name: String,
    },
    /// The interface is a pod's and nobody watches it.
    Failed {
        /// Interface index.
        index: u32,
        /// Interface name.
        name: String,
        /// What the kernel answered.
        reason: String,
    },
    /// A gateway is behind the interface now, so that it is taken for an uplink, and nobody watches it.
    Uplink {
        /// Interface index.
        index: u32,
        /// Interface name.
        name: String,
    },
    /// Our programs were not where they had been attached, and are there again. What has passed in the
    /// meantime, [`LOOKED_AT`] at most, was not seen by them.
    Restored {
        /// Interface name.
        name: String,
        /// Another program had been put before them; else they had been taken away.
        was_behind: bool,
    },
    /// Others keep putting a program before ours, which is not put in front again.
    Behind {
        /// Interface name.
        name: String,
    },
    /// Addresses or routes changed: see [`Interfaces::topology`].
    Routes,
}

impl Interfaces {
    /// Subscribes to changes and attaches to everything that is there.
    pub(crate) fn new(
        ebpf: Ebpf,
        drops: Option<BtfTracePointLink>,
        how: Attach,
    ) -> Result<Self, Error> {
        let how = match how {
            Attach::Auto if KernelVersion::current().is_ok_and(|now| now >= TCX_SINCE) => {
                Attach::Tcx
            }
            Attach::Auto => Attach::Clsact,
            how => how,
        };
        let changes =
            netlink::subscribe().and_then(sys::watch_socket).map_err(Error::io(SUBSCRIBING))?;
        let number = |program| -> Result<u32, ProgramError> {
            Ok(ebpf.program(program).ok_or(ProgramError::NotLoaded)?.info()?.id())
        };
        let ours = || Ok([number(FROM_POD)?, number(TO_POD)?]);
        let ours = ours()
            .map_err(|error: ProgramError| Error::kernel("reading a program's number", error))?;
        let mut interfaces = Self {
            ebpf,
            drops,
            ours,
            how,
            changes,
            topology: Topology::default(),
            attached: BTreeMap::new(),
            displaced: BTreeMap::new(),
            failed: BTreeMap::new(),
            is_outdated: false,
            looks: 0,
            vanished: 0,
            relisted: 0,
        };
        // After subscribing, so that nothing falls in between.
        interfaces.topology = listed()?;
        interfaces.settle(Failed::AreLeft);
        Ok(interfaces)
    }

    /// The next changes, at least one, after acting on them. Losing the future loses none of them.
    pub async fn next(&mut self) -> Result<Vec<Change>, Error> {
        const DOING: &str = "following changes of network interfaces";
        loop {
            let mut ready = self.changes.readable().await.map_err(Error::io(DOING))?;
            let mut routes = false;
            let mut touched = BTreeSet::new();
            let (mut is_drained, mut is_lost) = (false, false);
            for _ in 0..BURST_MAX {
                match netlink::receive(ready.get_inner()) {
                    Ok(Some(messages)) => {
                        routes |= messages.iter().any(|message| {
                            matches!(
                                message,
                                netlink::Message::Address { .. } | netlink::Message::Route { .. }
                            )
                        });
                        for message in messages {
                            if let netlink::Message::Filter(filter) = message {
                                touched.insert(filter.index);
                            }
                            self.topology.apply(message);
                        }
                    }
                    Ok(None) => {
                        is_drained = true;
                        break;
                    }
                    Err(error) if netlink::is_overflow(&error) => {
                        self.relisted += 1;
                        (self.is_outdated, routes, is_lost) = (true, true, true);
                        touched.extend(self.attached.keys());
                    }
                    Err(error) => return Err(Error::io(DOING)(error)),
                }
            }
            if is_drained {
                ready.clear_ready();
            }
            if is_lost {
                self.list()?;
            }
            let mut changes = self.settle(Failed::AreLeft);
            if self.how == Attach::Clsact {
                for index in touched {
                    changes.extend(self.keep(index, Found::AtOnce));
                }
            }
            changes.extend(routes.then_some(Change::Routes));
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }

    /// Looks at what the kernel has attached, and puts back what is missing: to be called once a second.
    /// Each interface has its turn within [`LOOKED_AT`]. Where attaching failed, or the kernel's list
    /// could not be read, it is tried again.
    ///
    /// What others do to clsact the kernel reports, so that it is found at once; of tcx it reports nothing.
    pub fn look(&mut self) -> Vec<Change> {
        self.looks = self.looks.wrapping_add(1) % LOOKS;
        let mut changes = Vec::new();
        if self.looks == 0 {
            let has_asked = self.is_outdated && self.list().is_ok();
            if has_asked && !self.is_outdated {
                changes.push(Change::Routes);
            }
            changes.extend(self.settle(Failed::AreTriedAgain));
        }
        let due: Vec<u32> =
            self.attached.keys().copied().filter(|index| index % LOOKS == self.looks).collect();
        for index in due {
            changes.extend(self.keep(index, Found::ByLooking));
        }
        changes
    }

    /// Lists everything there is, after changes were lost. Out of descriptors or memory, the next look
    /// lists it.
    fn list(&mut self) -> Result<(), Error> {
        match listed() {
            Ok(topology) => {
                self.topology = topology;
                self.is_outdated = false;
                Ok(())
            }
            Err(error) if is_for_now(&error) => {
                tracing::warn!("{}; it is tried again", chain(&error));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Links, addresses and routes as they are now.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The interfaces that are watched, by index, with their names.
    pub fn attached(&self) -> impl Iterator<Item = (u32, &str)> {
        self.attached.iter().map(|(index, attached)| (*index, attached.name.as_str()))
    }

    /// The interfaces that should be watched and are not, with the reason.
    pub fn failed(&self) -> impl Iterator<Item = &Unwatched> {
        self.failed.values()
    }

    /// Detaches the program that sees drops, wherever on the node.
    pub(crate) fn end_drops(&mut self) {
        self.drops = None;
    }

    /// Attaches it again.
    pub(crate) fn begin_drops(&mut self) -> Result<(), ProgramError> {
        self.drops = Some(attach_drops(&mut self.ebpf)?);
        Ok(())
    }

    /// The same, waited for in the runtime that this is called in.
    pub(crate) fn begin_again(self) -> Result<Self, Error> {
        let changes = sys::watch_socket(self.changes.into_inner());
        Ok(Self { changes: changes.map_err(Error::io(SUBSCRIBING))?, ..self })
    }

    /// How interfaces are attached to.
    pub fn how(&self) -> Attach {
        self.how
    }

    /// Interfaces that vanished while they were attached to.
    pub fn vanished(&self) -> u64 {
        self.vanished
    }

    /// How often changes came faster than they were read, so that everything was listed again.
    pub fn relisted(&self) -> u64 {
        self.relisted
    }

    /// Attaches to what is a pod's and detaches from what is not.
    fn settle(&mut self, failed: Failed) -> Vec<Change> {
        let pods = self.topology.pods();
        let mut changes = Vec::new();
        let gone: BTreeSet<u32> =
            self.attached.keys().copied().filter(|index| !pods.contains(index)).collect();
        for index in gone {
            if let Some(Attached { name, .. }) = self.attached.remove(&index) {
                changes.push(match self.topology.is_uplink(index) {
                    true => Change::Uplink { index, name },
                    false => Change::Detached { index, name },
                });
            }
        }
        self.failed.retain(|index, _| pods.contains(index));
        self.displaced.retain(|index, _| pods.contains(index));
        for index in pods {
            let is_left = failed == Failed::AreLeft && self.failed.contains_key(&index);
            if !self.attached.contains_key(&index) && !is_left {
                changes.extend(self.watch(index));
            }
        }
        changes
    }

    /// Attaches to an interface that is a pod's. That it failed as it did before is no news.
    fn watch(&mut self, index: u32) -> Option<Change> {
        let name = self.topology.name(index).unwrap_or_default().to_owned();
        match self.attach(index) {
            Ok(links) => {
                self.failed.remove(&index);
                self.attached.insert(index, Attached { name: name.clone(), _links: links });
                Some(Change::Attached { index, name })
            }
            // Its removal is on the way to us.
            Err(error) if is_gone(&error) => {
                self.vanished += 1;
                None
            }
            Err(error) => {
                let reason = why(self.how, &error);
                let unwatched = Unwatched { name: name.clone(), reason: reason.clone() };
                let before = self.failed.insert(index, unwatched.clone());
                (before != Some(unwatched)).then_some(Change::Failed { index, name, reason })
            }
        }
    }

    /// Attaches again where others have removed our programs or put theirs before them.
    ///
    /// Cilium before 1.16 removes all filters of a hook that it does not use itself, whenever it
    /// compiles a pod's programs.
    fn keep(&mut self, index: u32, found: Found) -> Option<Change> {
        let place = match self.place(index) {
            Ok(FilterPlace::First) => return None,
            Ok(place) => place,
            // The next message says so.
            Err(error) if is_gone(&error) => return None,
            Err(error) => {
                tracing::warn!(error = %chain(&error), index, "cannot check whether our programs are in place");
                return None;
            }
        };
        let was_behind = place == FilterPlace::Behind;
        let displaced = self.displaced.entry(index).or_default();
        *displaced += u32::from(was_behind || found == Found::ByLooking);
        let times = *displaced;
        if was_behind && times > DISPLACED_MAX {
            let name = self.attached.get(&index)?.name.clone();
            return (times == DISPLACED_MAX + 1).then_some(Change::Behind { name });
        }
        // What is left of them is detached first: packets would count twice, and filters have the same
        // handle.
        let Attached { name, .. } = self.attached.remove(&index)?;
        match self.watch(index) {
            Some(Change::Attached { .. }) => {
                tracing::info!(name, "attached again beside others");
                let is_news = found == Found::ByLooking && times <= DISPLACED_MAX;
                is_news.then_some(Change::Restored { name, was_behind })
            }
            // Failed, or gone by now, as the next message will say.
            other => other,
        }
    }

    /// Where our programs are among those of an interface.
    fn place(&self, index: u32) -> io::Result<FilterPlace> {
        if self.how == Attach::Clsact {
            return place_of_filters(index);
        }
        let [from_pod, to_pod] = self.ours;
        // On the way to the pod ours run last, and need not: who comes later is nearer to the pod.
        let (ingress, egress) =
            (sys::programs_at(index, BPF_TCX_INGRESS)?, sys::programs_at(index, BPF_TCX_EGRESS)?);
        Ok(match ingress.iter().position(|number| *number == from_pod) {
            Some(at) if egress.contains(&to_pod) => {
                if at == 0 {
                    FilterPlace::First
                } else {
                    FilterPlace::Behind
                }
            }
            _ => FilterPlace::Gone,
        })
    }

    fn attach(&mut self, index: u32) -> Result<[SchedClassifierLink; 2], ProgramError> {
        if self.how == Attach::Clsact {
            prepare_clsact(index)?;
        }
        let [from_pod, to_pod] = HOOKS;
        Ok([self.attach_one(index, from_pod)?, self.attach_one(index, to_pod)?])
    }

    fn attach_one(
        &mut self,
        index: u32,
        (program, hook): (&str, TcAttachType),
    ) -> Result<SchedClassifierLink, ProgramError> {
        let attach = match self.how {
            Attach::Clsact => TcAttach::Netlink {
                parent: hook.into(),
                options: NlOptions { priority: FIRST, handle: HANDLE, ..NlOptions::default() },
            },
            Attach::Auto | Attach::Tcx => TcAttach::Tcx {
                attach_type: hook,
                order: match hook {
                    TcAttachType::Ingress => LinkOrder::first(),
                    TcAttachType::Egress => LinkOrder::last(),
                },
            },
        };
        let program: &mut SchedClassifier =
            self.ebpf.program_mut(program).ok_or(ProgramError::NotLoaded)?.try_into()?;
        let link = program.attach(index, attach)?;
        program.take_link(link)
    }
}

impl fmt::Debug for Interfaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interfaces")
            .field("how", &self.how)
            .field("attached", &self.attached().collect::<Vec<_>>())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// What becomes of interfaces that could not be attached to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Failed {
    AreLeft,
    AreTriedAgain,
}

/// How it was found that our programs are not in place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// The kernel reported a change, so that hardly a packet passed meanwhile.
    AtOnce,
    /// It was looked at.
    ByLooking,
}

/// Where our programs are among those of an interface.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FilterPlace {
    /// Before all others on the way from the pod; of filters also on the way to it.
    First,
    /// They are not.
    Behind,
    /// One of them is not there.
    Gone,
}

fn place_of_filters(index: u32) -> io::Result<FilterPlace> {
    let mut place = FilterPlace::First;
    for (_, hook) in HOOKS {
        let handles = netlink::filter_handles(index, TcHandle::from(hook).into())?;
        match handles.iter().position(|handle| *handle == u32::from(HANDLE)) {
            Some(0) => {}
            Some(_) => place = FilterPlace::Behind,
            None => return Ok(FilterPlace::Gone),
        }
    }
    Ok(place)
}

/// Makes sure that clsact is there, and that no filters of an earlier agent are.
fn prepare_clsact(index: u32) -> Result<(), ProgramError> {
    match qdisc_add_clsact(index) {
        Ok(()) => return Ok(()),
        Err(error) if errno(&error) == Some(libc::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    for (program, hook) in HOOKS {
        match qdisc_detach_program(index, hook.into(), program) {
            Ok(()) => {}
            Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Everything there is now.
fn listed() -> Result<Topology, Error> {
    let mut topology = Topology::default();
    // Links come first: routes are kept or not by the links they lead to.
    for message in netlink::list().map_err(Error::io("listing network interfaces"))? {
        topology.apply(message);
    }
    Ok(topology)
}

/// Why an interface cannot be attached to.
fn why(how: Attach, error: &ProgramError) -> String {
    /// What clsact is made of, as modules: without them the kernel knows no such kind.
    const MODULES: &str = "this kernel has no sch_ingress or no cls_bpf, which filters are made of";

    match errno(error) {
        Some(libc::ENOENT) if how == Attach::Clsact => format!("{MODULES}: {}", chain(error)),
        _ => chain(error),
    }
}

fn is_gone(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(ProgramError::UnknownInterface { .. }))
        || matches!(errno(error), Some(libc::ENODEV | libc::ENXIO))
}
