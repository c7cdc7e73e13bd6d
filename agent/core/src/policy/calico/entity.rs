//! What a rule says of one end: its `source` or `destination`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{both, given, label_selector, wire::WireEntity};
use crate::{
    policy::{Accounts, Block, Namespaces, Peer, Peers, PodPeer, ServicePeer, selector::Selector},
    problem::{FieldPath, Problem},
};

/// The packets that a rule is about by their family.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Any,
    V4,
    V6,
}

impl Family {
    fn includes(self, network: &IpNet) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => matches!(network, IpNet::V4(_)),
            Self::V6 => matches!(network, IpNet::V6(_)),
        }
    }
}

/// All that is said of an end must be so; where nothing is, any end will do.
pub(super) fn entity(
    entity: &WireEntity,
    namespace: Option<&Arc<str>>,
    family: Family,
    path: &FieldPath,
) -> Result<Peers, Problem> {
    let mut peers = Peers::Everyone;
    let unwanted = given(entity.not_selector.as_deref())
        .map(|text| label_selector(Some(text), &path.field("notSelector")))
        .transpose()?;
    match (selected(entity, namespace, path)?, unwanted) {
        // Felix folds the one into the other (`combineMatchesIfPossible`): it filters pods and network
        // sets by their own labels, and takes no pod out whose address some other set holds.
        (Some(wanted), Some(_)) => {
            let pods = without_unwanted(entity, path)?;
            peers = both(peers, Peers::AnyOf(vec![Peer::Members(PodPeer { pods, ..wanted })]));
        }
        (Some(wanted), None) => {
            peers = both(peers, Peers::AnyOf(vec![Peer::Members(wanted)]));
        }
        (None, Some(unwanted)) => {
            let anywhere = Namespaces::Selected(Selector::EVERYTHING);
            let unwanted = Peer::NotMembers(PodPeer::new(anywhere, unwanted));
            peers = both(peers, Peers::AnyOf(vec![unwanted]));
        }
        (None, None) => {}
    }
    if let Some(blocks) = blocks(entity, family, path)? {
        peers = both(peers, Peers::AnyOf(blocks));
    }
    if let Some(service) = &entity.services {
        let path = path.field("services");
        let Some(name) = given(service.name.as_deref()) else {
            return Err(path.field("name").expected("the name of a Service", "none"));
        };
        // "If not specified, the namespace of the policy."
        let Some(namespace) = given(service.namespace.as_deref()).or(namespace.map(|n| &**n))
        else {
            return Err(path.field("namespace").expected("the Service's namespace", "none"));
        };
        let service = ServicePeer { namespace: namespace.into(), name: name.into() };
        peers = both(peers, Peers::AnyOf(vec![Peer::Service(service)]));
    }
    Ok(peers)
}

/// `selector`, without what `notSelector` selects. Both have been read by themselves.
fn without_unwanted(entity: &WireEntity, path: &FieldPath) -> Result<Selector, Problem> {
    let unwanted = entity.not_selector.as_deref().unwrap_or_default();
    let text = match given(entity.selector.as_deref()) {
        Some(wanted) => format!("({wanted}) && !({unwanted})"),
        None => format!("!({unwanted})"),
    };
    Selector::read(&text, &path.field("notSelector"))
}

/// The pods and network sets that an end must be among, if it must be among any.
///
/// "If any of the selectors is set and no namespaceSelector is, a rule of a namespaced policy is
/// about that namespace alone"; with none of them it is about any address.
fn selected(
    entity: &WireEntity,
    namespace: Option<&Arc<str>>,
    path: &FieldPath,
) -> Result<Option<PodPeer>, Problem> {
    let accounts = accounts(entity, path)?;
    let asks_for_pods = given(entity.selector.as_deref()).is_some() || accounts.is_some();
    let namespaces = match (given(entity.namespace_selector.as_deref()), namespace) {
        (Some(text), _) => {
            Namespaces::Selected(Selector::read(text, &path.field("namespaceSelector"))?)
        }
        (None, Some(own)) if asks_for_pods || given(entity.not_selector.as_deref()).is_some() => {
            Namespaces::Own(own.clone())
        }
        (None, None) if asks_for_pods => Namespaces::Selected(Selector::EVERYTHING),
        (None, _) => return Ok(None),
    };
    let pods = label_selector(entity.selector.as_deref(), &path.field("selector"))?;
    Ok(Some(PodPeer { namespaces, pods, accounts }))
}

fn accounts(entity: &WireEntity, path: &FieldPath) -> Result<Option<Accounts>, Problem> {
    let Some(accounts) = &entity.service_accounts else { return Ok(None) };
    let names = accounts.names.as_deref().unwrap_or_default();
    let text = given(accounts.selector.as_deref());
    if names.is_empty() && text.is_none() {
        return Ok(None);
    }
    let selector = label_selector(text, &path.field("serviceAccounts").field("selector"))?;
    Ok(Some(Accounts { names: names.iter().map(|name| name.as_str().into()).collect(), selector }))
}

/// The addresses of an end, if anything is said of them. A rule of which a list of networks holds
/// none of a packet's family is not about that packet, be it the list of those that are left out.
fn blocks(
    entity: &WireEntity,
    family: Family,
    path: &FieldPath,
) -> Result<Option<Vec<Peer>>, Problem> {
    let mut wanted = networks(entity.nets.as_deref(), &path.field("nets"))?;
    let unwanted = networks(entity.not_nets.as_deref(), &path.field("notNets"))?;
    if wanted.is_empty() && unwanted.is_empty() && family == Family::Any {
        return Ok(None);
    }
    let is_like = |a: &IpNet, b: &IpNet| matches!(a, IpNet::V4(_)) == matches!(b, IpNet::V4(_));
    if wanted.is_empty() {
        let any = [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
        wanted.extend(any.into_iter().filter_map(|address| IpNet::new(address, 0).ok()));
    }
    wanted.retain(|network| {
        family.includes(network)
            && (unwanted.is_empty() || unwanted.iter().any(|other| is_like(network, other)))
    });
    let blocks = wanted.into_iter().map(|network| {
        let except = unwanted.iter().filter(|other| is_like(&network, other)).copied().collect();
        Peer::Block(Block { network, except })
    });
    Ok(Some(blocks.collect()))
}

pub(super) fn networks(texts: Option<&[String]>, path: &FieldPath) -> Result<Vec<IpNet>, Problem> {
    let texts = texts.unwrap_or_default().iter().enumerate();
    texts.map(|(index, text)| network(text, &path.index(index))).collect()
}

/// A CIDR; Felix takes a bare address as well.
fn network(text: &str, path: &FieldPath) -> Result<IpNet, Problem> {
    match IpAddr::from_str(text) {
        Ok(address) => Ok(address.into()),
        Err(_) => crate::policy::network_policy::network(text, path),
    }
}
