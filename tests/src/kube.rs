//! A real Kubernetes to test against, built from pinned Go modules and run without touching the
//! machine: no package installed, no daemon of the system's, no port but on loopback.
//!
//! [`parts`] builds the programs once and keeps them in the [`cache`]; [`api`] is an API server
//! with its etcd, ready in seconds, for tests that need objects, watches and rights.

pub mod api;
pub mod cache;
pub mod daemon;
pub mod kubeconfig;
pub mod kubectl;
pub mod lab;
pub mod parts;
pub mod pki;
mod ports;
pub mod wait;
