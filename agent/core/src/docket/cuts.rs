//! Where what explains packets changes, what was seen before is reported by itself: a report has packets
//! of one cause, and of one pod at each end.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{Docket, Moment};
use crate::{
    cluster::{
        Name, Snapshot,
        history::SEEN_WITHIN,
        object::{Key, Kind},
        resolve::Holder,
    },
    correlate::{Cut, places::in_turn},
    diagnosis::{Case, Fate, diagnose},
    flow::{Direction, Flow},
    judgement::concerns,
    policy::PolicyRef,
    service::RefusalKind,
    verdict::Question,
};

/// How many flows are looked at when the cluster changes (about 0.1 ms each that the change concerns): a
/// node has fewer that are dropped at a time, or a flood, whose parts nobody reads one by one.
const EXAMINED_MAX: usize = 256;

/// How long after a denial was seen to be lifted packets are still dropped by it, and how long before one
/// that takes over is seen packets may be dropped by that already: about as long as a watch takes at most,
/// since the network plugin follows one as well.
const TAIL: SignedDuration = SignedDuration::from_secs(1);

/// The cluster as it was when it was last looked at, and when.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    before: Option<(Snapshot, Timestamp)>,
}

/// What explains the packets of a flow.
#[derive(PartialEq)]
struct Explanation {
    ends: [Option<Name>; 2],
    /// The direction that denies it, and all policies by which it is denied.
    denial: Option<(Option<Direction>, BTreeSet<PolicyRef>)>,
    refusal: Option<RefusalKind>,
}

impl Docket {
    /// Cuts the drops whose cause has changed since the last call.
    pub(super) fn cut(&mut self, moment: &Moment<'_>) {
        let after = &moment.snapshot;
        let before = self.cuts.before.replace((after.clone(), moment.now));
        let Some((before, since)) = before.filter(|(b, _)| b.generation() != after.generation())
        else {
            return;
        };
        // What came at the moment of the last look may have come after it.
        let changes = moment.history.between(since - SignedDuration::from_nanos(1), moment.now);
        let changed: Vec<&Key> = changes.map(|seen| &seen.change.object).collect();
        self.end_with_pods(moment);
        let unreported = self.correlator.unreported();
        let by_source = unreported.into_iter().map(|examined| (examined.0.source, examined));
        for (flow, dialled) in in_turn(by_source).take(EXAMINED_MAX) {
            let asked = |snapshot: &Snapshot| asked(snapshot, &flow);
            let (then, now) = (asked(&before), asked(after));
            let is_other_pod = names(&then) != names(&now);
            let may_differ = is_other_pod || changed.iter().any(|key| bears(key, [&then, &now]));
            if !may_differ {
                continue;
            }
            let [then, explained] =
                [&before, after].map(|snapshot| Explanation::of(snapshot, flow, dialled));
            if then != explained {
                // One that was lifted a moment ago, and whose tail is still to come, takes over all the same.
                let was_denied =
                    then.denial.is_some() || self.correlator.is_cut_later(&flow, moment.now);
                let is_to_service = matches!(now.destination.holder, Holder::Service(_));
                let takes_over = was_denied && then.ends == explained.ends;
                let cut = match (explained.denial, is_to_service) {
                    (None, _) => lifted(moment.now),
                    (Some(_), _) if takes_over => taken_over(moment.now),
                    (Some(_), true) => begun(moment.now, SignedDuration::ZERO),
                    (Some(_), false) => begun(moment.now, SEEN_WITHIN),
                };
                self.correlator.cut(&flow, cut, moment.now);
            }
        }
    }

    /// Ends the drops of which a pod has ended: who has its address next is somebody else.
    fn end_with_pods(&mut self, moment: &Moment<'_>) {
        let end = |(flow, first): (Flow, Timestamp)| {
            let ends = [flow.source, flow.destination].map(|address| {
                let (address, snapshot) = (address.to_canonical(), &moment.snapshot);
                let ended = snapshot.ended_between(address, first, moment.now);
                // That of another node may be learned long after it, and its heir's packets seen before.
                ended.filter(|_| !snapshot.is_held_since(address, first))
            });
            Some((flow, ends.into_iter().flatten().min()?))
        };
        for (flow, at) in self.correlator.going_on().filter_map(end).collect::<Vec<_>>() {
            self.correlator.end(&flow, at);
        }
    }
}

/// A filter goes on for a moment by what was lifted.
fn lifted(seen: Timestamp) -> Cut {
    Cut { at: seen + TAIL, unclear: (seen, seen + TAIL), seen, takes_over: false }
}

/// Where one denial takes over from another, it may be either for a moment: a connect is cut in two only if
/// packets of it were dropped well before and well after.
fn taken_over(seen: Timestamp) -> Cut {
    Cut { at: seen, unclear: (seen - TAIL, seen + TAIL), seen, takes_over: true }
}

/// A filter goes by what is new so long before that is seen.
fn begun(seen: Timestamp, before: SignedDuration) -> Cut {
    let at = seen - before;
    Cut { at, unclear: (at, at), seen, takes_over: false }
}

fn asked(snapshot: &Snapshot, flow: &Flow) -> Question {
    let Flow { source, destination, port, protocol } = *flow;
    let (source, destination) =
        (snapshot.resolve(source, None), snapshot.resolve(destination, None));
    Question::new(source, destination, port, protocol)
}

fn names(question: &Question) -> [Option<Name>; 2] {
    [&question.source, &question.destination]
        .map(|end| end.pod().map(|pod| (pod.namespace.clone(), pod.name.clone())))
}

/// Whether a change of this object can bear on a flow, by its ends before and after. What was not translated
/// is explained by all that is behind its Service, which is of the Service's namespace.
fn bears(changed: &Key, questions: [&Question; 2]) -> bool {
    questions.into_iter().any(|question| match &question.destination.holder {
        Holder::Service(service) => {
            let is_of_its = |namespace: &Arc<str>| *namespace == service.namespace;
            changed.namespace.as_ref().is_none_or(is_of_its) || concerns(changed, question)
        }
        _ if matches!(changed.kind, Kind::Service | Kind::EndpointSlice) => false,
        _ => concerns(changed, question),
    })
}

impl Explanation {
    fn of(snapshot: &Snapshot, flow: Flow, dialled: Option<(IpAddr, u16)>) -> Self {
        let case = Case { flow, dialled, at: None, fate: Fate::Policed };
        let diagnosis = diagnose(snapshot, &case);
        Self {
            ends: names(&diagnosis.question),
            denial: diagnosis.cause.class.is_denial().then(|| {
                let policies = diagnosis.responsible().into_iter();
                (diagnosis.cause.direction, policies.map(|p| p.reference.clone()).collect())
            }),
            refusal: diagnosis.cause.by_kube_proxy().map(|by| RefusalKind::from(by.refusal())),
        }
    }
}
