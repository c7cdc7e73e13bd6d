//! A real Kubernetes to test against, built from pinned Go modules and run without touching the
//! machine: no package installed, no daemon of the system's, no port but on loopback.
//!
//! [`parts`] builds the programs once and keeps them in the [`cache`]; [`api`] is an API server
//! with its etcd, ready in seconds, for tests that need objects, watches and rights; [`node`] is a
//! whole cluster of one node, for tests that need pods.

pub mod api;
pub mod cache;
pub mod calico;
pub mod cgroups;
pub mod daemon;
pub mod debian;
pub mod faulty;
pub mod image;
pub mod kubeconfig;
pub mod kubectl;
pub mod lab;
pub mod node;
pub mod parts;
pub mod pki;
pub(crate) mod ports;
pub mod proxy;
mod state;
pub mod wait;
