//! The `ConfigMap` by which EKS Auto Mode enforces policies, or none.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Duration, sleep},
};
use whydrop_core::cluster::profile::detect::{AWS_CONFIG, Sign, signs, unreadable_switch};

use super::News;
use crate::api_error::{ApiError, answered};

/// How often it is asked for: it is set once in a cluster's life.
const ASKED_EVERY: Duration = Duration::from_secs(60);
/// How long the API server may take.
const WAIT: Duration = Duration::from_secs(5);

/// Asks for it again and again, until nobody listens.
pub(super) async fn follow(client: Client, news: mpsc::Sender<News>) {
    let mut last = None;
    while !news.is_closed() {
        let sign = read(&client).await;
        if last.as_ref() != Some(&sign) {
            last = Some(sign.clone());
            if news.send(News::Switch(sign)).await.is_err() {
                return;
            }
        }
        sleep(ASKED_EVERY).await;
    }
}

/// What it says. One that is not there is as one that says nothing; one that may not be read is no
/// answer.
pub(crate) async fn read(client: &Client) -> Sign {
    let (namespace, name) = AWS_CONFIG;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let asked = async { api.get_opt(name).await.map_err(ApiError::from) };
    let Ok(found) = answered(WAIT, asked).await else { return unreadable_switch() };
    let data = found.and_then(|map| map.data).unwrap_or_default();
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "namespace": namespace, "name": name }, "data": data,
    });
    signs(&object).into_iter().next().unwrap_or_else(unreadable_switch)
}
