//! Short names for things that several nodes see.

/// The first 64 bits of a hash of a text, the same on every node.
pub(crate) fn hash64(text: &str) -> u64 {
    let hash = blake3::hash(text.as_bytes());
    let (first, _) = hash.as_bytes().split_at(8);
    first.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
