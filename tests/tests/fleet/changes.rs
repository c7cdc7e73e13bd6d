//! What changed, why that cut a flow off, and that the fix by the incident's id ends it: each of
//! `changes/*.yaml` on real enforcement, with the agents' records from onset to recovery.

use whydrop_tests::{
    play::{
        stage::{OVER_WAIT, Stage},
        story::stories,
    },
    world::fleet::{Fleet, Settings},
};

use crate::TWO_NODES;

#[test]
fn each_change_is_named_and_its_incident_ends_with_the_fix() {
    let stories = stories("changes").expect("stories");
    let mut stage = Stage::new(Fleet::start(Settings::default(), TWO_NODES).expect("a fleet"));
    stage.serve_all(stories.values()).expect("servers");
    stage.watch().expect("agents");
    let mut incidents = Vec::new();
    for (name, story) in &stories {
        let played = stage.play(name, story).unwrap_or_else(|error| panic!("{error:?}"));
        incidents.push((name, played.incident));
    }
    for (name, id) in &incidents {
        let is_over = |record: &serde_json::Value| {
            record["kind"] == "incident" && record["id"] == **id && record["happened"] == "resolved"
        };
        let over = stage.record(name, OVER_WAIT, is_over).unwrap_or_else(|e| panic!("{e:#}"));
        let why = &over["resolution"]["why"];
        assert!(why == "passes" || why == "allowed", "{name}: {over}");
    }
}
