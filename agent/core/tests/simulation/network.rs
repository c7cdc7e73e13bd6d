//! What becomes of every packet, and what the node's kernel sees of it.

use std::{collections::BTreeSet, net::IpAddr};

use whydrop_core::{
    flow::{Flow, Protocol},
    observation::{AttemptId, Rejection},
};

use crate::{
    cluster::{CAST, Cluster, Course, FIRST_REMOTE, SERVICE_PORT, address, service_address},
    kernel::{ECONNREFUSED, ETIMEDOUT, Freed, Kernel, PORT_UNREACHABLE},
    plan::{Connect, To},
    policies::{Denial, denials},
    time::Ms,
};

/// When Linux sends a SYN again, and when it gives up (RFC 6298; `tcp_syn_retries` is 6).
const SYNS: [Ms; 7] = [0, 1_000, 3_000, 7_000, 15_000, 31_000, 63_000];
const KERNEL_GIVES_UP: Ms = 127_000;

/// The interface to other nodes, and the first of pods' veths.
pub(crate) const UPLINK: u32 = 2;
pub(crate) const FIRST_VETH: u32 = 100;

/// A connection that a client tries to open.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) plan: Connect,
    pub(crate) begun: Ms,
    /// Who connects, and whom it dials: a Service, or the pod that has an address.
    pub(crate) client: usize,
    pub(crate) dialled: (IpAddr, u16),
    pub(crate) service: Option<usize>,
    /// How many SYNs it has sent.
    syns: usize,
    /// The backend that conntrack keeps to, once a SYN has left the client's node.
    kept: Option<u8>,
    /// Whose answer is on its way.
    answering: Option<u8>,
    pub(crate) answered: Option<Ms>,
    /// When it ended otherwise.
    pub(crate) ended: Option<Ms>,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Delivered,
    /// The network plugin dropped it.
    Denied(Denial),
    /// kube-proxy did, and said so or not.
    ByProxy {
        rejected: bool,
    },
    /// Nobody had the address.
    Gone,
    /// Who has it does not listen on the port, and says so.
    Refused,
    /// The server had it already.
    Duplicate,
}

/// A SYN, and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) attempt: usize,
    pub(crate) at: Ms,
    /// Whose address it was for, and which port: after translation.
    pub(crate) to: (IpAddr, u16),
    /// The pod that had that address then.
    pub(crate) server: Option<usize>,
    pub(crate) fate: Fate,
    /// This node's kernel freed it, and the agent can know.
    pub(crate) is_freed_here: bool,
}

/// What is to be done later about an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    Syn,
    Answer,
    GiveUp,
}

/// Every attempt and packet so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) packets: Vec<Packet>,
}

impl Attempt {
    pub(crate) fn is_open(&self) -> bool {
        self.answered.is_none() && self.ended.is_none()
    }

    /// Whether its client ended it before an answer reached it, if one was on its way.
    pub(crate) fn is_in_vain(&self) -> bool {
        self.answered.is_none() && self.ended.is_some()
    }
}

impl Fate {
    /// Whether it reached its server: one that the server has already, and frees, is no drop.
    pub(crate) const fn has_arrived(&self) -> bool {
        matches!(self, Self::Delivered | Self::Duplicate)
    }
}

impl Network {
    /// A client connects, if it and what it dials are there.
    pub(crate) fn connect(&mut self, cluster: &Cluster, plan: Connect, now: Ms) -> Vec<(Ms, Next)> {
        let up = |deployment, slot| {
            let is_it = |pod: &crate::cluster::Pod| {
                (pod.deployment, pod.slot) == (deployment, slot) && pod.is_up(now)
            };
            cluster.pods.iter().rposition(is_it)
        };
        let Some(client) = up(plan.deployment, plan.slot) else { return Vec::new() };
        let (dialled, service) = match plan.to {
            To::Service(service) => ((service_address(service), SERVICE_PORT), Some(service)),
            To::Pod { deployment, slot } => {
                let Some(server) = up(deployment, slot) else { return Vec::new() };
                let port = CAST[deployment].port.expect("a server");
                ((address(cluster.pods[server].address), port), None)
            }
        };
        let (syns, kept, answering) = (0, None, None);
        let (answered, ended) = (None, None);
        let attempt = Attempt {
            plan,
            begun: now,
            client,
            dialled,
            service,
            syns,
            kept,
            answering,
            answered,
            ended,
        };
        self.attempts.push(attempt);
        vec![(now, Next::Syn), (now + plan.patience.min(KERNEL_GIVES_UP), Next::GiveUp)]
    }

    pub(crate) fn id(&self, attempt: usize, cluster: &Cluster) -> AttemptId {
        let number = u16::try_from(attempt).expect("some hundreds");
        AttemptId {
            protocol: Protocol::Tcp,
            source: address(cluster.pods[self.attempts[attempt].client].address),
            source_port: 30_000 + number,
            sequence: u32::from(number) + 1,
            foreign: None,
        }
    }

    fn flow(&self, attempt: usize, cluster: &Cluster, to: (IpAddr, u16)) -> Flow {
        Flow {
            source: address(cluster.pods[self.attempts[attempt].client].address),
            destination: to.0,
            port: to.1,
            protocol: Protocol::Tcp,
        }
    }

    /// What was to be done about an attempt, and what then.
    pub(crate) fn go_on(
        &mut self,
        attempt: usize,
        next: Next,
        (cluster, kernel): (&Cluster, &mut Kernel),
        now: Ms,
    ) -> Vec<(Ms, Next)> {
        let of = &mut self.attempts[attempt];
        let client = &cluster.pods[of.client];
        if !of.is_open() {
            return Vec::new();
        }
        if !client.is_up(now) {
            // Its sockets went with it.
            of.ended = Some(now);
            return Vec::new();
        }
        let (is_local, dialled, patience) = (client.is_local, of.dialled, of.plan.patience);
        match next {
            Next::Answer => of.answered = Some(now),
            Next::GiveUp => of.ended = Some(now),
            Next::Syn => return self.syn(attempt, cluster, kernel, now),
        }
        let (id, flow) = (self.id(attempt, cluster), self.flow(attempt, cluster, dialled));
        match next {
            _ if !is_local => {}
            Next::Answer => kernel.answer_to_pod(now, id, flow),
            _ => {
                let errno = if patience >= KERNEL_GIVES_UP { ETIMEDOUT } else { 0 };
                kernel.closed(now, id, flow, errno);
            }
        }
        Vec::new()
    }

    fn syn(
        &mut self,
        attempt: usize,
        cluster: &Cluster,
        kernel: &mut Kernel,
        now: Ms,
    ) -> Vec<(Ms, Next)> {
        let of = &mut self.attempts[attempt];
        of.syns += 1;
        let again = SYNS.get(of.syns).map(|after| (of.begun + after, Next::Syn));
        let (client, dialled, syns) = (of.client, of.dialled, of.syns);
        let is_local = cluster.pods[client].is_local;
        let (id, flow) = (self.id(attempt, cluster), self.flow(attempt, cluster, dialled));
        let veth = veth(client);
        if is_local {
            kernel.request_from_pod(now, id, flow, veth);
        }
        let course = match (self.attempts[attempt].kept, self.attempts[attempt].service) {
            (Some(kept), _) => Course::To(kept),
            (None, Some(service)) => {
                let salt = self.attempts[attempt].plan.salt.wrapping_mul(syns as u64 * 2 + 1) >> 33;
                let salt = usize::try_from(salt).expect("31 bits");
                cluster.course(service, is_local, salt, now)
            }
            (None, None) => Course::To(last_of(dialled.0)),
        };
        let mut follows: Vec<(Ms, Next)> = again.into_iter().collect();
        let packet = match course {
            Course::To(backend) => {
                let (packet, answer) = self.reach(attempt, backend, (cluster, kernel), now);
                follows.extend(answer);
                packet
            }
            Course::Rejected | Course::Dropped => {
                let rejected = course == Course::Rejected;
                if is_local && rejected {
                    kernel.rejected(now, id, flow, PORT_UNREACHABLE);
                }
                if is_local {
                    kernel.freed(now, id, flow, Freed::Filter, veth);
                }
                if rejected {
                    // The client hears of it.
                    self.attempts[attempt].ended = Some(now);
                    kernel.closed(now, id, flow, ECONNREFUSED);
                }
                let fate = Fate::ByProxy { rejected };
                let is_freed_here = is_local;
                Packet { attempt, at: now, to: dialled, server: None, fate, is_freed_here }
            }
        };
        self.packets.push(packet);
        follows
    }

    /// A SYN with its destination translated.
    fn reach(
        &mut self,
        attempt: usize,
        backend: u8,
        (cluster, kernel): (&Cluster, &mut Kernel),
        now: Ms,
    ) -> (Packet, Option<(Ms, Next)>) {
        let client = self.attempts[attempt].client;
        let source = &cluster.pods[client];
        let port = match self.attempts[attempt].service {
            Some(service) => CAST[service].port.expect("a server"),
            None => self.attempts[attempt].dialled.1,
        };
        let to = (address(backend), port);
        let (id, flow) = (self.id(attempt, cluster), self.flow(attempt, cluster, to));
        let server = cluster.holder(backend, now);
        let goes_to_this_node = backend < FIRST_REMOTE;
        let device = if source.is_local { veth(client) } else { UPLINK };
        let packet =
            |fate, is_freed_here| Packet { attempt, at: now, to, server, fate, is_freed_here };
        let denied = denied(cluster, source.address, backend, port, now);
        let mut free = |why, here: bool| {
            if here {
                kernel.freed(now, id, flow, why, device);
            }
        };
        // On the client's node: a route first, then the policies over the client.
        let is_one_node = source.is_local == goes_to_this_node;
        if server.is_none() && is_one_node {
            free(Freed::NoRoute, source.is_local);
            return (packet(Fate::Gone, source.is_local), None);
        }
        let at_client = denied.iter().find(|denial| denial.is_egress);
        let at_server = denied.iter().find(|denial| !denial.is_egress);
        if let Some(denial) = at_client.or(at_server.filter(|_| is_one_node)) {
            free(Freed::Filter, source.is_local);
            return (packet(Fate::Denied(denial.clone()), source.is_local), None);
        }
        self.attempts[attempt].kept = Some(backend);
        if server.is_none() {
            free(Freed::NoRoute, goes_to_this_node);
            return (packet(Fate::Gone, goes_to_this_node), None);
        }
        if let Some(denial) = at_server {
            free(Freed::Filter, goes_to_this_node);
            return (packet(Fate::Denied(denial.clone()), goes_to_this_node), None);
        }
        let listens =
            server.is_some_and(|server| cluster.pods[server].workload().port == Some(port));
        if goes_to_this_node {
            kernel.request_to_pod(now, id, flow);
        }
        if !listens {
            self.attempts[attempt].ended = Some(now);
            if goes_to_this_node || source.is_local {
                kernel.rejected(now, id, flow, Rejection::Reset);
            }
            if goes_to_this_node {
                kernel.freed(now, id, flow, Freed::NoSocket, 0);
            }
            if source.is_local {
                kernel.closed(now, id, flow, ECONNREFUSED);
            }
            return (packet(Fate::Refused, goes_to_this_node), None);
        }
        if goes_to_this_node {
            kernel.answer_from_pod(now, id, flow);
        }
        if self.attempts[attempt].answering == Some(backend) {
            // It is answered again, and freed.
            let is_seen = goes_to_this_node && source.is_local;
            if is_seen {
                kernel.freed(now, id, flow, Freed::Duplicate, 0);
            }
            return (packet(Fate::Duplicate, is_seen), None);
        }
        self.attempts[attempt].answering = Some(backend);
        let answer = (now + self.attempts[attempt].plan.delay, Next::Answer);
        (packet(Fate::Delivered, false), Some(answer))
    }

    /// Whether all that was seen of a SYN here is that it was sent again.
    pub(crate) fn is_from_here(&self, packet: &Packet, cluster: &Cluster) -> bool {
        cluster.pods[self.attempts[packet.attempt].client].is_local
    }
}

/// What the network plugin denies then, by what it enforces.
fn denied(cluster: &Cluster, source: u8, destination: u8, port: u16, now: Ms) -> Vec<Denial> {
    let (source, destination) =
        (cluster.enforced_end(source, now), cluster.enforced_end(destination, now));
    let policies = cluster.enforced_policies(now);
    let mut denied = denials(&policies, source.as_ref(), destination.as_ref(), port);
    denied.retain(|denial| denial.by != BTreeSet::new());
    denied
}

pub(crate) fn veth(pod: usize) -> u32 {
    FIRST_VETH + u32::try_from(pod).expect("a few pods")
}

pub(crate) fn last_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(_) => unreachable!("addresses are IPv4"),
    }
}
