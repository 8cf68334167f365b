//! The cluster's certificate authority and the certificates it issues: ECDSA on P-256.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use troupe_protocol::id::NodeId;

use super::{Certificate, IdentityError, tls};

/// How long a node's certificate is valid.
const VALID_DAYS: i64 = 30;
/// A certificate is valid a little before it was made, for nodes whose clocks lag.
const VALID_BEFORE_DAYS: i64 = 1;
const DAY_S: i64 = 24 * 3600;

/// The cluster's certificate authority.
pub(super) struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A node's certificate with its key.
pub(super) struct NodeCertificate {
    certificate: Certificate,
    key: KeyPair,
}

pub(super) fn new_key() -> Result<KeyPair, IdentityError> {
    Ok(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?)
}

pub(super) fn key_from_pem(pem: &str) -> Result<KeyPair, IdentityError> {
    Ok(KeyPair::from_pem(pem)?)
}

/// The SHA-256 of the public key in a certificate, in hex.
pub(super) fn key_fingerprint(certificate: &CertificateDer<'_>) -> Result<String, IdentityError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| IdentityError::Certificate(error.to_string()))?;
    Ok(hex::encode(Sha256::digest(parsed.public_key().raw)))
}

/// The SHA-256 of a certificate.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate.as_ref()).into()
}

pub(super) fn to_pem(certificate: &Certificate) -> String {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(certificate.as_ref());
    let lines = encoded.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let body: Vec<_> = lines.collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        body.join("\n")
    )
}

pub(super) fn certificate_from_pem(pem: &str) -> Result<Certificate, IdentityError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| IdentityError::Certificate(error.to_string()))
}

/// Whether a third or less of a certificate's time is left; or more than it ever has: it was made while the clock was
/// ahead, and may not be valid for others yet.
pub(super) fn is_renewal_due(valid_until_s: i64, now: jiff::Timestamp) -> bool {
    let left_s = valid_until_s - now.as_second();
    left_s <= VALID_DAYS * DAY_S / 3 || left_s > (VALID_DAYS + 1) * DAY_S
}

impl Authority {
    /// A new authority, valid for as long as certificates can say.
    pub(super) fn create() -> Result<Self, IdentityError> {
        let key = new_key()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "troupe cluster");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.der().clone();
        Self::new(certificate, key)
    }

    pub(super) fn from_pem(certificate: &str, key: &str) -> Result<Self, IdentityError> {
        Self::new(certificate_from_pem(certificate)?, KeyPair::from_pem(key)?)
    }

    fn new(certificate: Certificate, key: KeyPair) -> Result<Self, IdentityError> {
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&certificate, key)?,
            certificate,
        })
    }

    pub(super) fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    pub(super) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for a node of ours.
    pub(super) fn issue(
        &self,
        node: NodeId,
        key: &KeyPair,
        now: jiff::Timestamp,
    ) -> Result<NodeCertificate, IdentityError> {
        let certificate = self.sign(node, key, now)?;
        NodeCertificate::from_pem(&to_pem(&certificate), &key.serialize_pem())
    }

    /// A certificate for who made this request and thereby proved that it has the key. Whatever else the request asks
    /// for is ignored.
    pub(super) fn sign_request(
        &self,
        node: NodeId,
        request: &[u8],
        now: jiff::Timestamp,
    ) -> Result<Certificate, IdentityError> {
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))?;
        self.sign(node, &request.public_key, now)
    }

    fn sign(
        &self,
        node: NodeId,
        key: &impl PublicKeyData,
        now: jiff::Timestamp,
    ) -> Result<Certificate, IdentityError> {
        let mut params = CertificateParams::new(tls::names_of(node))?;
        params
            .distinguished_name
            .push(DnType::CommonName, node.to_string());
        params.serial_number = Some(SerialNumber::from(fastrand::u64(1..1 << 63)));
        set_validity(&mut params, now);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &self.issuer)?.der().clone())
    }
}

/// A request for a certificate, which proves that who made it has the key.
pub(super) fn request(key: &KeyPair) -> Result<Vec<u8>, IdentityError> {
    let request = CertificateParams::default().serialize_request(key)?;
    Ok(request.der().to_vec())
}

/// Valid from a day before until so many days after, to the day.
fn set_validity(params: &mut CertificateParams, now: jiff::Timestamp) {
    let day = |days: i64| {
        let second = now.as_second() + days * DAY_S;
        let moment = jiff::Timestamp::from_second(second).unwrap_or(now);
        let date = moment.to_zoned(jiff::tz::TimeZone::UTC).date();
        let part = |number: i8| u8::try_from(number).unwrap_or(1);
        rcgen::date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()))
    };
    params.not_before = day(-VALID_BEFORE_DAYS);
    params.not_after = day(VALID_DAYS);
}

impl NodeCertificate {
    pub(super) fn from_pem(certificate: &str, key: &str) -> Result<Self, IdentityError> {
        Ok(Self {
            certificate: certificate_from_pem(certificate)?,
            key: KeyPair::from_pem(key)?,
        })
    }

    pub(super) fn new(certificate: Certificate, key: KeyPair) -> Self {
        Self { certificate, key }
    }

    pub(super) fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    pub(super) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    pub(super) fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }

    /// When it ends, in seconds since 1970.
    pub(super) fn valid_until_s(&self) -> Result<i64, IdentityError> {
        let (_, parsed) = x509_parser::parse_x509_certificate(&self.certificate)
            .map_err(|error| IdentityError::Certificate(error.to_string()))?;
        Ok(parsed.validity().not_after.timestamp())
    }
}
