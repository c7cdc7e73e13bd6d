//! What an image says of itself to anyone who wants to run it: what it is made of (an SBOM), how it
//! was made (a provenance), and that who has a key stands for both (signatures). All of it lies
//! beside the image in its OCI layout, as referrers.

pub mod attach;
pub mod compare;
pub mod crates;
pub mod fault;
pub mod layout;
pub mod provenance;
pub mod sbom;
pub mod sign;
pub mod statement;
pub mod verify;
