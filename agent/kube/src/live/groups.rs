//! Which groups the API server has, asked again and again: somebody installs one some day.

use std::collections::BTreeSet;

use kube::Client;
use tokio::{
    sync::mpsc,
    time::{Duration, sleep},
};

use super::News;
use crate::api_error::answered;

/// How often it is asked: an answer is a few kilobytes.
const ASKED_EVERY: Duration = Duration::from_secs(300);
/// How soon after a failure.
const AGAIN: Duration = Duration::from_secs(30);
/// How long the API server may take.
const WAIT: Duration = Duration::from_secs(5);

/// Says which groups there are, until nobody listens.
pub(super) async fn follow(client: Client, news: mpsc::Sender<News>) {
    let mut known = BTreeSet::new();
    while !news.is_closed() {
        let asked = answered(WAIT, client.list_api_groups()).await;
        let pause = if asked.is_ok() { ASKED_EVERY } else { AGAIN };
        if let Ok(listed) = asked {
            let groups: BTreeSet<String> = listed.groups.into_iter().map(|g| g.name).collect();
            if groups != known {
                known.clone_from(&groups);
                if news.send(News::Groups(groups)).await.is_err() {
                    return;
                }
            }
        }
        sleep(pause).await;
    }
}
