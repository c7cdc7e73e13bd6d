//! Attaching to pods' veths as they come and go.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    os::fd::OwnedFd,
};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        tc::{
            NlOptions, SchedClassifierLink, TcAttach, TcError, TcHandle, qdisc_add_clsact,
            qdisc_detach_program,
        },
    },
    util::KernelVersion,
};
use nix::libc;
use tokio::io::unix::AsyncFd;

use super::{
    config::Attach,
    error::{Error, errno},
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

/// How often our filter is put in front again of one that another program put before it, on one
/// interface. Beyond that the other program has its way.
const DISPLACED_MAX: u32 = 8;

/// Both programs, and where they are attached.
const HOOKS: [(&str, TcAttachType); 2] =
    [(FROM_POD, TcAttachType::Ingress), (TO_POD, TcAttachType::Egress)];

/// Datagrams taken in before changes are acted on: a burst is one change, but not without end.
const BURST_MAX: usize = 256;

/// The pods' veths: what is attached to them, and what is routed to them.
///
/// Owns the loaded object: when this is dropped, every program is detached.
pub struct Interfaces {
    ebpf: Ebpf,
    how: Attach,
    changes: AsyncFd<OwnedFd>,
    topology: Topology,
    attached: BTreeMap<u32, Attached>,
    /// How often others got before us, where they did.
    displaced: BTreeMap<u32, u32>,
    /// Where attaching failed and why, so as to be reported once.
    failed: BTreeMap<u32, Unwatched>,
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
    /// Addresses or routes changed: see [`Interfaces::topology`].
    Routes,
}

impl Interfaces {
    /// Subscribes to changes and attaches to everything that is there.
    pub(crate) fn new(ebpf: Ebpf, how: Attach) -> Result<Self, Error> {
        let how = match how {
            Attach::Auto if KernelVersion::current().is_ok_and(|now| now >= TCX_SINCE) => {
                Attach::Tcx
            }
            Attach::Auto => Attach::Clsact,
            how => how,
        };
        let changes = netlink::subscribe()
            .and_then(sys::watch_socket)
            .map_err(Error::io("subscribing to changes of network interfaces"))?;
        let mut interfaces = Self {
            ebpf,
            how,
            changes,
            topology: Topology::default(),
            attached: BTreeMap::new(),
            displaced: BTreeMap::new(),
            failed: BTreeMap::new(),
            vanished: 0,
            relisted: 0,
        };
        // After subscribing, so that nothing falls in between.
        interfaces.topology = listed()?;
        interfaces.settle();
        Ok(interfaces)
    }

    /// The next changes, at least one, after acting on them. Losing the future loses none of them.
    pub async fn next(&mut self) -> Result<Vec<Change>, Error> {
        const DOING: &str = "following changes of network interfaces";
        loop {
            let mut ready = self.changes.readable().await.map_err(Error::io(DOING))?;
            let mut routes = false;
            let mut touched = BTreeSet::new();
            let mut is_drained = false;
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
                        self.topology = listed()?;
                        routes = true;
                        touched.extend(self.attached.keys());
                    }
                    Err(error) => return Err(Error::io(DOING)(error)),
                }
            }
            if is_drained {
                ready.clear_ready();
            }
            let mut changes = self.settle();
            for index in touched {
                changes.extend(self.keep(index));
            }
            changes.extend(routes.then_some(Change::Routes));
            if !changes.is_empty() {
                return Ok(changes);
            }
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
    fn settle(&mut self) -> Vec<Change> {
        let pods = self.topology.pods();
        let mut changes = Vec::new();
        let gone: BTreeSet<u32> =
            self.attached.keys().copied().filter(|index| !pods.contains(index)).collect();
        for index in gone {
            if let Some(Attached { name, .. }) = self.attached.remove(&index) {
                changes.push(Change::Detached { index, name });
            }
        }
        self.failed.retain(|index, _| pods.contains(index));
        self.displaced.retain(|index, _| pods.contains(index));
        for index in pods {
            if self.attached.contains_key(&index) || self.failed.contains_key(&index) {
                continue;
            }
            let name = self.topology.name(index).unwrap_or_default().to_owned();
            match self.attach(index) {
                Ok(links) => {
                    self.attached.insert(index, Attached { name: name.clone(), _links: links });
                    changes.push(Change::Attached { index, name });
                }
                // Its removal is on the way to us.
                Err(error) if is_gone(&error) => self.vanished += 1,
                Err(error) => {
                    let reason = why(self.how, &error);
                    let unwatched = Unwatched { name: name.clone(), reason: reason.clone() };
                    self.failed.insert(index, unwatched);
                    changes.push(Change::Failed { index, name, reason });
                }
            }
        }
        changes
    }

    /// Attaches again where others have removed our filters or put theirs before them.
    ///
    /// Cilium before 1.16 removes all filters of a hook that it does not use itself, whenever it
    /// compiles a pod's programs.
    fn keep(&mut self, index: u32) -> Option<Change> {
        if self.how != Attach::Clsact || !self.attached.contains_key(&index) {
            return None;
        }
        match place(index) {
            Ok(FilterPlace::First) => return None,
            Ok(FilterPlace::Gone) => {}
            Ok(FilterPlace::Behind) => {
                let displaced = self.displaced.entry(index).or_default();
                *displaced += 1;
                if *displaced > DISPLACED_MAX {
                    if *displaced == DISPLACED_MAX + 1 {
                        tracing::warn!(
                            index,
                            "another program keeps attaching ahead of our filters, so some packets are not seen"
                        );
                    }
                    return None;
                }
            }
            Err(error) => {
                tracing::warn!(%error, index, "cannot check whether our filters are in place");
                return None;
            }
        }
        // What is left of them is detached first, because it has the same handle.
        let Attached { name, .. } = self.attached.remove(&index)?;
        let changes = self.settle();
        if self.attached.contains_key(&index) {
            tracing::debug!(name, "attached again beside others");
            return None;
        }
        // Failed, or gone by now, as the next message will say.
        changes.into_iter().find(|change| matches!(change, Change::Failed { .. }))
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

/// Where our filters are among those of an interface.
enum FilterPlace {
    First,
    /// One of them is not the first at its hook.
    Behind,
    /// One of them is not there.
    Gone,
}

fn place(index: u32) -> io::Result<FilterPlace> {
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

fn is_gone(error: &ProgramError) -> bool {
    matches!(error, ProgramError::UnknownInterface { .. })
        || matches!(errno(error), Some(libc::ENODEV | libc::ENXIO))
}
