//! The certificates of one cluster, from an authority of its own.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

/// Signs the certificates of one cluster; the key is never written to disk.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// Who shows a certificate.
#[derive(Debug)]
pub enum Holder<'a> {
    /// A server, under these names and addresses.
    Server(&'a [&'a str]),
    /// A client of this group (`O`), as Kubernetes reads it.
    Client {
        /// The group.
        group: &'a str,
    },
}

impl Authority {
    /// A new authority.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([])?;
        params.distinguished_name = name("whydrop-lab", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Its own certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Writes `NAME.crt` and `NAME.key` into a folder.
    pub fn issue(&self, folder: &Path, common_name: &str, holder: &Holder<'_>) -> Result<()> {
        let key = KeyPair::generate()?;
        let names = if let Holder::Server(names) = holder { *names } else { &[] };
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        let (group, usage) = match holder {
            Holder::Server(_) => (None, ExtendedKeyUsagePurpose::ServerAuth),
            Holder::Client { group } => (Some(*group), ExtendedKeyUsagePurpose::ClientAuth),
        };
        params.distinguished_name = name(common_name, group);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        write(folder, &format!("{common_name}.crt"), &certificate.pem())?;
        write(folder, &format!("{common_name}.key"), &key.serialize_pem())
    }
}

/// Writes `sa.key` and `sa.pub`, which sign and check the tokens of service accounts.
pub fn service_account_keys(folder: &Path) -> Result<()> {
    let key = KeyPair::generate()?;
    write(folder, "sa.key", &key.serialize_pem())?;
    write(folder, "sa.pub", &key.public_key_pem())
}

fn name(common_name: &str, group: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| path.display().to_string())
}
