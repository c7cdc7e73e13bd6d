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
            NlOptions, SchedClassifierLink, TcAttach, TcError, qdisc_add_clsact,
            qdisc_detach_program,
        },
    },
    util::KernelVersion,
};
use nix::libc;
use tokio::io::unix::AsyncFd;

use super::{
    Attach, FROM_POD, TO_POD,
    error::{Error, errno},
    netlink, sys,
    topology::Topology,
};
use crate::chain::chain;

/// The first kernel with tcx.
const TCX_SINCE: KernelVersion = KernelVersion::new(6, 6, 0);

/// Priorities of clsact filters: the first to run, and the last.
const FIRST: u16 = 1;
const LAST: u16 = u16::MAX;

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
    /// Where attaching failed and why, so as to be told once.
    failed: BTreeMap<u32, String>,
    vanished: u64,
    relisted: u64,
}

/// Both programs on one interface; they are detached when this is dropped.
struct Attached {
    name: String,
    _links: [SchedClassifierLink; 2],
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
                    }
                    Err(error) => return Err(Error::io(DOING)(error)),
                }
            }
            if is_drained {
                ready.clear_ready();
            }
            let mut changes = self.settle();
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

    /// The interfaces that ought to be watched and are not, with the reason.
    pub fn failed(&self) -> impl Iterator<Item = (u32, &str)> {
        self.failed.iter().map(|(index, reason)| (*index, reason.as_str()))
    }

    /// How interfaces are attached to.
    pub fn how(&self) -> Attach {
        self.how
    }

    /// Interfaces that vanished while they were attached to.
    pub fn vanished(&self) -> u64 {
        self.vanished
    }

    /// How often changes came faster than they were read, and everything was listed anew.
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
                    let reason = chain(&error);
                    self.failed.insert(index, reason.clone());
                    changes.push(Change::Failed { index, name, reason });
                }
            }
        }
        changes
    }

    fn attach(&mut self, index: u32) -> Result<[SchedClassifierLink; 2], ProgramError> {
        if self.how == Attach::Clsact {
            prepare_clsact(index)?;
        }
        Ok([
            self.attach_one(index, FROM_POD, TcAttachType::Ingress)?,
            self.attach_one(index, TO_POD, TcAttachType::Egress)?,
        ])
    }

    fn attach_one(
        &mut self,
        index: u32,
        program: &str,
        hook: TcAttachType,
    ) -> Result<SchedClassifierLink, ProgramError> {
        let is_first = matches!(hook, TcAttachType::Ingress);
        let attach = match self.how {
            Attach::Clsact => TcAttach::Netlink {
                parent: hook.into(),
                options: NlOptions {
                    priority: if is_first { FIRST } else { LAST },
                    ..NlOptions::default()
                },
            },
            Attach::Auto | Attach::Tcx => TcAttach::Tcx {
                attach_type: hook,
                order: if is_first { LinkOrder::first() } else { LinkOrder::last() },
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

/// Sees to it that clsact is there, and that no filters of a former life of ours are.
fn prepare_clsact(index: u32) -> Result<(), ProgramError> {
    match qdisc_add_clsact(index) {
        Ok(()) => return Ok(()),
        Err(error) if errno(&error) == Some(libc::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    for (hook, program) in [(TcAttachType::Ingress, FROM_POD), (TcAttachType::Egress, TO_POD)] {
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

fn is_gone(error: &ProgramError) -> bool {
    matches!(error, ProgramError::UnknownInterface { .. })
        || matches!(errno(error), Some(libc::ENODEV | libc::ENXIO))
}
