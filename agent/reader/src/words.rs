//! Words that the view and the page share.

use whydrop_core::diagnosis::Class;
use whydrop_report::{Word, records::board::Count, text::count};

/// A number and its noun, of a number that may be greater.
pub(crate) fn at_least(number: Count, noun: &str) -> String {
    let known = count(number.at_least, noun);
    if number.is_exact { known } else { format!("at least {known}") }
}

/// What a class of causes means, as a sentence goes on.
pub(crate) fn class_meaning(class: &Word<Class>) -> &'static str {
    match class {
        Word::Known(Class::ExplicitDeny) => "a Deny rule matched",
        Word::Known(Class::NamespaceSelectorMismatch) => {
            "the nearest rule selects other namespaces"
        }
        Word::Known(Class::PodSelectorMismatch) => "the nearest rule selects other pods",
        Word::Known(Class::PortMismatch) => "the nearest rule admits another port",
        Word::Known(Class::ProtocolMismatch) => "the nearest rule admits another protocol",
        Word::Known(Class::IpBlockMismatch) => "the nearest rule admits other addresses",
        Word::Known(Class::IpBlockExcept) => "the nearest rule excepts this address",
        Word::Known(Class::NamedPortUnresolved) => {
            "the nearest rule names a port that the pod does not have"
        }
        Word::Known(Class::DefaultDeny) => {
            "policies isolate the pod, and no rule comes near to admitting it"
        }
        Word::Known(Class::NotEnforced) => "policies deny it, and it was answered anyway",
        Word::Known(Class::OutOfSync) => "policies allow it, and this node's filter dropped it",
        Word::Known(Class::NotPolicy) => "something other than a policy dropped it",
        Word::Known(Class::CannotTell | Class::None) | Word::Other(_) => "the cause is unknown",
    }
}
