"""A certificate authority in a folder of the test's own. Keys are made once: what differs from test to test is what they sign."""

import datetime
import ssl
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

_FROM, _TO = datetime.datetime(2020, 1, 1), datetime.datetime(2099, 1, 1)

_USES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_text(name: str, *, password: bytes | None = None) -> bytes:
    how: KeySerializationEncryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key(name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


def certificate(name: str, *, host: str = "localhost") -> bytes:
    """The certificate of the key of that name, for a server of that host."""
    use = dict.fromkeys(_USES, False) | {"key_cert_sign" if name == "root" else "digital_signature": True}
    signed = (
        x509.CertificateBuilder()
        .subject_name(_called(name))
        .issuer_name(_called("root"))
        .public_key(key(name).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_TO)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=name == "root", path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**use), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key(name).public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key("root").public_key()), critical=False)
        .sign(key("root"), hashes.SHA256())
    )
    return signed.public_bytes(Encoding.PEM)


def trusting() -> ssl.SSLContext:
    """A client that trusts this authority and no other."""
    return ssl.create_default_context(cadata=certificate("root").decode())


def mounted(folder: Path, files: dict[str, bytes]) -> Path:
    """Files as a kubelet mounts a Secret or a ConfigMap: reached through `..data`, which is exchanged by one rename. Returns the folder."""
    folder.mkdir(exist_ok=True)
    version = folder / f"..{len(list(folder.iterdir()))}"
    version.mkdir()
    for name, content in files.items():
        (version / name).write_bytes(content)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    (folder / "..new").symlink_to(version.name)
    (folder / "..new").rename(folder / "..data")
    return folder


def pair(name: str) -> dict[str, bytes]:
    """As in a Secret of type kubernetes.io/tls."""
    return {"tls.crt": certificate(name), "tls.key": key_text(name)}


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
