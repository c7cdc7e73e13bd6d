//! Objects as YAML that `kubectl apply -f -` takes.

use serde::Serialize;

/// Writes objects as a stream of YAML documents.
pub fn documents<T: Serialize>(objects: &[T]) -> String {
    // Objects of the API are maps of strings, numbers and lists: nothing that YAML cannot hold.
    let documents = objects.iter().filter_map(|object| serde_saphyr::to_string(object).ok());
    documents.collect::<Vec<_>>().join("---\n")
}
