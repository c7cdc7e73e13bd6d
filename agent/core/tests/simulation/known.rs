//! What the docket is known to get wrong, a line for each kind, with a run that shows it.

use crate::check::{Check, When};

/// A kind of fault.
pub(crate) struct Known {
    /// The world, and those that have all that this one has.
    pub(crate) world: &'static str,
    /// A run of it that has the fault.
    pub(crate) seed: u64,
    pub(crate) kind: (Check, When),
    pub(crate) why: &'static str,
}

pub(crate) const KNOWN: &[Known] = &[
    Known {
        world: "changes",
        seed: 83,
        kind: (Check::NotBlamed, When::PoliciesChanged),
        why: "the end of a connect whose packets an earlier drop counted is a drop of its own, judged as of that end",
    },
    Known {
        world: "changes",
        seed: 1,
        kind: (Check::Mixed, When::PoliciesChanged),
        why: "packets of before and after a change are one report, judged as its last one",
    },
    Known {
        world: "changes",
        seed: 14,
        kind: (Check::OpenedLate, When::Plain),
        why: "what is reported a minute late opens another incident, when its path works or is another pod's",
    },
    Known {
        world: "changes",
        seed: 112,
        kind: (Check::OpenedLate, When::Reopened),
        why: "an incident comes back by packets that were dropped before its path worked again",
    },
    Known {
        world: "churn",
        seed: 34,
        kind: (Check::WrongHolder, When::AddressReused),
        why: "an address is taken to be its pod's since that was created, and for 5 s after it has gone",
    },
    Known {
        world: "churn",
        seed: 101,
        kind: (Check::Blamed, When::NobodyThere),
        why: "the end of a connect, which names no new packet, is explained by what took most of all",
    },
    Known {
        world: "churn",
        seed: 108,
        kind: (Check::Mixed, When::NobodyThere),
        why: "packets that found no route are in one report with those that a policy denied",
    },
    Known {
        world: "churn",
        seed: 364,
        kind: (Check::UntrueEnd, When::Passes),
        why: "the answer to the pod that has the address now ends the path of the one before",
    },
    Known {
        world: "slow answers",
        seed: 154,
        kind: (Check::Answered, When::AnsweredLater),
        why: "of a drop that goes on while its report waits, what came last is answered before the report of what came first is taken back",
    },
    Known {
        world: "Services",
        seed: 0,
        kind: (Check::Overreported, When::SeveralBackends),
        why: "packets of one attempt count for the last of its backends, and of one Service for a backend that is open",
    },
    Known {
        world: "Services",
        seed: 0,
        kind: (Check::Underreported, When::SeveralBackends),
        why: "packets of one attempt count for the last of its backends, and of one Service for a backend that is open",
    },
    Known {
        world: "Services",
        seed: 113,
        kind: (Check::WrongService, When::Plain),
        why: "a drop that counters open does not take over what they say was dialled",
    },
    Known {
        world: "Services",
        seed: 24,
        kind: (Check::WrongPath, When::SeveralBackends),
        why: "signs of which only the Service is known count for a backend whose drop is open",
    },
    Known {
        world: "no endpoints",
        seed: 495,
        kind: (Check::FalseFinding, When::Plain),
        why: "where backends differ, egress is judged by the Service's address and port instead of theirs",
    },
    Known {
        world: "another node",
        seed: 15,
        kind: (Check::EndedEarly, When::Passes),
        why: "the answer of one backend through the Service ends the path to another one",
    },
    Known {
        world: "another node",
        seed: 15,
        kind: (Check::UntrueEnd, When::Passes),
        why: "the answer of one backend through the Service ends the path to another one",
    },
    Known {
        world: "another node",
        seed: 7,
        kind: (Check::Unreported, When::SeveralBackends),
        why: "signs of which only the Service is known count for a backend whose drop is open",
    },
    Known {
        world: "another node",
        seed: 184,
        kind: (Check::WrongPolicies, When::DroppedElsewhere),
        why: "where backends differ, egress is judged by the Service's address and port instead of theirs",
    },
    Known {
        world: "another node",
        seed: 184,
        kind: (Check::FalseFinding, When::Plain),
        why: "where backends differ, egress is judged by the Service's address and port instead of theirs",
    },
    Known {
        world: "everything",
        seed: 18,
        kind: (Check::EndedLate, When::PodsGone),
        why: "a pod of another node that is not followed is not known to have gone until it is looked up again",
    },
    Known {
        world: "everything",
        seed: 148,
        kind: (Check::Blamed, When::ByProxy),
        why: "what kube-proxy drops is judged by policies over its backends, and by endpoints of later",
    },
    Known {
        world: "everything",
        seed: 96,
        kind: (Check::Blamed, When::AnsweredLater),
        why: "what arrived, of a client that did not wait, is in one drop with what a filter dropped before, and is judged with it",
    },
    Known {
        world: "everything",
        seed: 47,
        kind: (Check::NotBlamed, When::AddressReused),
        why: "signs of which only the Service is known count for what kube-proxy refused of it before",
    },
    Known {
        world: "everything",
        seed: 2,
        kind: (Check::Mixed, When::SeveralBackends),
        why: "packets of before and after a change are one report, judged as its last one",
    },
    Known {
        world: "everything",
        seed: 141,
        kind: (Check::EndedLate, When::Passes),
        why: "what is reported a minute late opens another incident, which nothing ends",
    },
];
