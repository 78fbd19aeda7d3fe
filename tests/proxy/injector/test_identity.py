"""The certificate: what is wrong with one in words, and a pair that fails changes nothing."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from proxy.injector.identity import Identity, WrongIdentity
from tests.proxy.injector.authority import certificate, key_text, mounted, pair


def wrong(folder: Path, **files: bytes | None) -> str:
    """What is said of a pair. None: there is no such file."""
    for name, content in ({"tls_crt": certificate("web"), "tls_key": key_text("web")} | files).items():
        if content is not None:
            (folder / name.replace("_", ".")).write_bytes(content)
    with pytest.raises(WrongIdentity) as error:
        Identity(folder / "tls.crt", folder / "tls.key").load()
    return str(error.value).replace(str(folder), "DIR")


def test_what_is_wrong_is_told_with_its_file(tmp_path: Path) -> None:
    assert wrong(tmp_path, tls_crt=None, tls_key=None) == "DIR/tls.crt: cannot be read: No such file or directory"
    assert wrong(tmp_path, tls_key=None) == "DIR/tls.key: cannot be read: No such file or directory"
    assert wrong(tmp_path, tls_key=key_text("other")) == "DIR/tls.key: this is not the key of the certificate in DIR/tls.crt"
    rsa = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert wrong(tmp_path, tls_key=rsa) == "DIR/tls.key: this is not the key of the certificate in DIR/tls.crt"
    assert wrong(tmp_path, tls_crt=b"") == "DIR/tls.crt: there is no certificate in it, in PEM"
    assert wrong(tmp_path, tls_crt=key_text("web")) == "DIR/tls.crt: there is no certificate in it, in PEM"
    assert wrong(tmp_path, tls_key=certificate("web")) == "DIR/tls.key: there is no private key in it, in PEM"
    damaged = certificate("web").replace(b"MI", b"AA", 1)
    assert wrong(tmp_path, tls_crt=damaged) == "DIR/tls.crt or DIR/tls.key: damaged, or of a kind that is not supported"


def test_nobody_is_asked_for_a_password(tmp_path: Path) -> None:
    told = wrong(tmp_path, tls_key=key_text("web", password=b"x"))
    assert told == "DIR/tls.key: the key is encrypted, and nobody is there to type a password"


def test_a_folder_is_no_certificate(tmp_path: Path) -> None:
    with pytest.raises(WrongIdentity, match="cannot be read: Is a directory"):
        Identity(tmp_path, tmp_path).load()


def test_a_mounted_secret_is_read_through_its_symlinks(tmp_path: Path) -> None:
    folder = mounted(tmp_path / "tls", pair("web"))
    Identity(folder / "tls.crt", folder / "tls.key").load()
