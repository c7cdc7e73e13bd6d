//! The stories on a whole Kubernetes node, with nothing but `kubectl`; `cargo xtask demo node` shows
//! the same. Needs root.

use whydrop_tests::{kube::stories, story::Story};

#[test]
fn kubectl_logs_name_the_policy_behind_a_real_drop() {
    let mut story = Story::plain(Vec::new());
    let played = stories::play(&mut story);
    let told = String::from_utf8_lossy(&story.into_inner()).into_owned();
    played.unwrap_or_else(|error| panic!("{told}\n{error:?}"));
}
