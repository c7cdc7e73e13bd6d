//! What the agent may do: of its node, and of the API server. It runs under exactly what `deploy/` gives it,
//! on real kernels and API servers. Needs root.

mod healer;
mod kept;
mod rights;
mod seccomp;
mod shipped;
