//! The edge to the kernel.
