"""Certificates of the peer plane: an authority of one's own, a certificate for each node, and reading them. No sockets.

A node's certificate names it as `zoned://LABEL/NODE-ID` (a URI in the subject's alternative names, RFC 5280), so that
it proves which node of which cluster speaks, wherever it runs; host names say nothing here. A node makes its key itself
and asks for a certificate (a request, PKCS #10); the key never leaves it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SCHEME = "zoned"
SKEW = timedelta(hours=1)  # a certificate is good a little before it was made: clocks differ

# What reading a certificate, a request or a key may raise, found by `make fuzz`; not all of it is a ValueError.
WRONG = (
    *(ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion),
    *(x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)


class CertificateWrong(ValueError):
    """A certificate, key or request cannot be used; the text says why. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Named:
    """Whom a certificate names, and when it ends (seconds since 1970)."""

    label: str
    node_id: str
    not_after: float


def make_authority(label: str, now: float, days: int) -> tuple[bytes, bytes]:
    """A certificate authority for the cluster `label`: (certificate, key), both PEM. `now`: seconds since 1970."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"zoned {label}"[:64])])
    built = (
        _builder(name, name, now, days)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM), private(key)


def make_key() -> bytes:
    """A new private key, PEM."""
    return private(ec.generate_private_key(ec.SECP256R1()))


def request(key_pem: bytes, label: str, node_id: str) -> bytes:
    """A request for a certificate of node `node_id`, PEM. Raises CertificateWrong."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)]))
        .add_extension(_alternative(label, node_id), critical=False)
        .sign(_key(key_pem), hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def issue(authority: bytes, authority_key: bytes, request_pem: bytes, now: float, days: int) -> bytes:
    """A certificate for the node that a request names, PEM. Raises CertificateWrong for what is no sound request."""
    try:
        asked = x509.load_pem_x509_csr(request_pem)
        found = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        sound = asked.is_signature_valid
    except WRONG as error:
        raise CertificateWrong(f"no request for a node's certificate: {error}") from None
    if not sound:
        raise CertificateWrong("the request is not signed with its own key")
    label, node_id = _names(found)
    issuer, key = _certificate(authority), _key(authority_key)
    if issuer.public_key() != key.public_key():
        raise CertificateWrong("the authority's certificate and key do not belong together")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)])
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        _builder(subject, issuer.subject, now, days)
        .public_key(asked.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(_alternative(label, node_id), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def named(certificate: bytes) -> Named:
    """Whom a node's certificate (PEM or DER) names. Raises CertificateWrong."""
    found = _certificate(certificate)
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return Named(*_names(names), found.not_valid_after_utc.timestamp())
    except WRONG as error:
        raise CertificateWrong(f"no certificate of a node: {error}") from None


def check_pair(certificate: bytes, key_pem: bytes) -> None:
    """Raises CertificateWrong unless the certificate is for this key."""
    found = _certificate(certificate)
    try:
        certified = found.public_key()
    except WRONG as error:
        raise CertificateWrong(f"no certificate of a node: {error}") from None
    if certified != _key(key_pem).public_key():
        raise CertificateWrong("the certificate is not for this node's key: it was asked for with another one")


def ends(bundle: bytes) -> list[float]:
    """When each certificate of a bundle (PEM) ends. Raises CertificateWrong."""
    try:
        return [one.not_valid_after_utc.timestamp() for one in x509.load_pem_x509_certificates(bundle)]
    except WRONG as error:
        raise CertificateWrong(f"no certificates: {error}") from None


def private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(subject: x509.Name, issuer: x509.Name, now: float, days: int) -> x509.CertificateBuilder:
    at = datetime.fromtimestamp(now, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - SKEW)
        .not_valid_after(at + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(label: str, node_id: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"{SCHEME}://{label}/{node_id}")])


def _names(names: x509.SubjectAlternativeName) -> tuple[str, str]:
    """(label, node ID) of the one URI of ours."""
    found = [urlsplit(uri) for uri in names.get_values_for_type(x509.UniformResourceIdentifier)]
    ours = [one for one in found if one.scheme == SCHEME]
    if len(ours) != 1 or not ours[0].netloc or len(ours[0].path) < 2:
        raise CertificateWrong(f"it names no node: a URI {SCHEME}://LABEL/NODE-ID is expected")
    return ours[0].netloc, ours[0].path[1:]


def _certificate(data: bytes) -> x509.Certificate:
    try:
        if data.lstrip().startswith(b"-----"):
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    except WRONG as error:
        raise CertificateWrong(f"no certificate: {error}") from None


def _key(data: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        found = serialization.load_pem_private_key(data, None)
    except WRONG as error:
        raise CertificateWrong(f"no private key: {error}") from None
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise CertificateWrong("the private key must be of an elliptic curve")
    return found
