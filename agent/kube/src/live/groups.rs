//! What the API server serves, asked again and again: somebody installs something some day.
//!
//! Rights are looked at before what there is: who asks for a kind that the API server does not have, and
//! has no right to it, is refused. So what is served is asked first, which anyone with a token may
//! (`system:discovery`).

use std::{collections::BTreeSet, sync::Arc};

use kube::Client;
use tokio::{
    sync::{mpsc, watch},
    time::{Duration, sleep},
};
use whydrop_core::kinds::{KindRow, group_of, served::Served};

use super::News;
use crate::api_error::{ApiError, answered};

/// How often it is asked: an answer is a few kilobytes, and no kind that is not served is asked for by
/// itself.
const ASKED_EVERY: Duration = Duration::from_secs(30);
/// How long the API server may take.
const WAIT: Duration = Duration::from_secs(5);

/// What is known of what the API server serves.
#[derive(Clone, Debug)]
pub(super) enum Known {
    /// It has not been asked yet.
    NotAsked,
    /// It does not say: anything may be served.
    Nothing,
    /// What it said last.
    Served(Arc<Served>),
}

impl Known {
    /// In which versions a kind may be had; `None`: that is about to be known.
    fn versions_of(&self, row: &KindRow) -> Option<Vec<&'static str>> {
        match self {
            Self::NotAsked => None,
            Self::Nothing => Some(row.api_versions.to_vec()),
            Self::Served(served) => Some(served.versions_of(row)),
        }
    }
}

/// In which versions a kind may be had, as soon as the API server has been asked; the error: nobody asks
/// it any more.
pub(super) async fn versions_of(
    known: &mut watch::Receiver<Known>,
    row: &KindRow,
) -> Result<Vec<&'static str>, watch::error::RecvError> {
    let known = known.wait_for(|known| known.versions_of(row).is_some()).await?;
    Ok(known.versions_of(row).unwrap_or_default())
}

/// Waits until a kind may be had, and in which versions; the error: nobody asks any more.
pub(super) async fn until_served(
    known: &mut watch::Receiver<Known>,
    row: &KindRow,
) -> Result<Vec<&'static str>, watch::error::RecvError> {
    let is_served = |known: &Known| known.versions_of(row).is_some_and(|all| !all.is_empty());
    let known = known.wait_for(is_served).await?;
    Ok(known.versions_of(row).unwrap_or_default())
}

/// Whether the API server has a kind in a version, as it says itself; that it has where it does not say.
pub async fn lists(client: &Client, row: &KindRow, api_version: &str) -> bool {
    let asked = async {
        match group_of(api_version) {
            "" => client.list_core_api_resources(api_version).await,
            _ => client.list_api_group_resources(api_version).await,
        }
    };
    match answered(WAIT, asked).await {
        Ok(listed) => listed.resources.iter().any(|resource| resource.name == row.plural),
        Err(error) => !ApiError::is_not_found(&error),
    }
}

/// What the API server serves.
///
/// # Errors
/// Why it does not say.
pub(super) async fn served(client: &Client) -> Result<Served, ApiError> {
    let listed = answered(WAIT, client.list_api_groups()).await?;
    let versions = listed.groups.into_iter().flat_map(|group| group.versions);
    Ok(Served::new(versions.map(|version| version.group_version)))
}

/// Says what is served, until nobody listens.
pub(super) async fn follow(client: Client, known: watch::Sender<Known>, news: mpsc::Sender<News>) {
    let mut last = None;
    while !news.is_closed() {
        match served(&client).await {
            Ok(served) if last.as_ref() == Some(&served) => {}
            Ok(served) => {
                let groups: BTreeSet<String> =
                    served.groups().into_iter().map(str::to_owned).collect();
                last = Some(served.clone());
                known.send_replace(Known::Served(Arc::new(served)));
                if news.send(News::Groups(groups)).await.is_err() {
                    return;
                }
            }
            // What it said last is more than nothing.
            Err(_) => {
                known.send_if_modified(|known| {
                    let is_first = matches!(known, Known::NotAsked);
                    if is_first {
                        *known = Known::Nothing;
                    }
                    is_first
                });
            }
        }
        sleep(ASKED_EVERY).await;
    }
}
