//! Facts in, actions out: the agent's decisions, in virtual time.

mod conservation;
mod late;
mod lifted;
mod lifetimes;
mod outcomes;
mod stage;
mod waits;
