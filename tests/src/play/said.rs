//! What the running kernel says of a drop, and what a record that is expected of a newer one is here.

use serde_json::{Value, json};

/// A reason of kernels that give none.
const NO_REASON: &str = "NOT_SPECIFIED";

/// What the running kernel does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Said {
    /// Why a packet is dropped (before Linux 5.17).
    lacks_reasons: bool,
    /// In which function (before Linux 5.13).
    lacks_locations: bool,
}

impl Said {
    /// As the agent says it of itself when it gets ready.
    pub fn of<'r>(mut records: impl Iterator<Item = &'r Value>) -> Self {
        let ready = records.find(|record| record["state"] == "ready");
        let lacks = |part: &str| {
            let cannot = ready.and_then(|ready| ready["cannot"].as_array());
            cannot.is_some_and(|all| {
                all.iter().any(|text| text.as_str().is_some_and(|text| text.starts_with(part)))
            })
        };
        Self {
            lacks_reasons: lacks("use drop reasons: "),
            lacks_locations: lacks("use drop locations: "),
        }
    }

    /// What is expected here of a record that is expected of a kernel that says all.
    pub fn expect(self, record: &Value) -> Value {
        let mut record = record.clone();
        if let Some(reason) = record.pointer_mut("/evidence/reason")
            && self.lacks_reasons
            && reason.is_string()
        {
            *reason = NO_REASON.into();
        }
        if self.lacks_locations {
            if let Some(evidence) = record.pointer_mut("/evidence").and_then(Value::as_object_mut) {
                evidence.remove("location");
            }
            // A filter's drop is known by its place where it has no reason.
            if let Some(class) = record.pointer_mut("/cause/class")
                && self.lacks_reasons
                && *class == "out-of-sync"
            {
                *class = json!("not-policy");
            }
        }
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_kernel_says_less() {
        let wanted = json!({
            "evidence": {"reason": "NETFILTER_DROP", "location": {"$contains": "nft"}},
            "cause": {"class": "out-of-sync"},
        });
        let ready = |cannot: Value| json!({"kind": "agent", "state": "ready", "cannot": cannot});
        let said = |cannot| Said::of([&ready(cannot)].into_iter());
        assert_eq!(said(json!([])).expect(&wanted), wanted);
        let reasons = "use drop reasons: kfree_skb gives no reason before Linux 5.17";
        assert_eq!(
            said(json!([reasons])).expect(&wanted),
            json!({
                "evidence": {"reason": "NOT_SPECIFIED", "location": {"$contains": "nft"}},
                "cause": {"class": "out-of-sync"},
            })
        );
        assert_eq!(
            said(json!([reasons, "use drop locations: no"])).expect(&wanted),
            json!({"evidence": {"reason": "NOT_SPECIFIED"}, "cause": {"class": "not-policy"}})
        );
    }
}
