//! Names of the programs.

/// Each is the name in the object, in the kernel, and of filters at clsact.
pub(crate) const FROM_POD: &str = "whydrop_from_pod";
pub(crate) const TO_POD: &str = "whydrop_to_pod";
pub(crate) const KFREE_SKB: &str = "whydrop_kfree_skb";
pub(crate) const SOCK_STATE: &str = "whydrop_sock_state";
