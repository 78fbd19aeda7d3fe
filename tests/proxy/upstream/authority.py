"""A certificate authority for one test, made by the `openssl` command in a folder of the test's own."""

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

_CONFIG = """
[ca]
default_ca = own
[own]
database = {folder}/index
new_certs_dir = {folder}
rand_serial = yes
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = name
[name]
[root]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign
subjectKeyIdentifier = hash
"""
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """`certificate` is its own, in PEM. Skips the test where there is no openssl."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("the openssl command is not installed")
        self._folder = folder
        self._config = folder / "config"
        self._config.write_text(_CONFIG.format(folder=folder))
        (folder / "index").touch()
        self.certificate = folder / "ca.pem"
        self._run("req", "-x509", *_KEY, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test", "-extensions", "root")

    def serving(self, name: str, *, expired: bool = False, self_signed: bool = False) -> ssl.SSLContext:
        """What a server of that name shows. name: as in subjectAltName, such as DNS:localhost."""
        leaf = ("-keyout", "leaf.key", "-subj", "/CN=leaf", "-addext", f"subjectAltName={name}")
        if self_signed:
            self._run("req", "-x509", *_KEY, *leaf, "-out", "leaf.pem")
        else:
            self._run("req", *_KEY, *leaf, "-out", "leaf.csr")
            dates = ("20200101000000Z", "20200102000000Z") if expired else ("20200101000000Z", "20991231000000Z")
            signing = ("-cert", "ca.pem", "-keyfile", "ca.key", "-in", "leaf.csr", "-out", "leaf.pem")
            self._run("ca", "-batch", "-notext", *signing, "-startdate", dates[0], "-enddate", dates[1])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / "leaf.pem", self._folder / "leaf.key")
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    def trusting(self) -> ssl.SSLContext:
        """A client that trusts this authority and no other."""
        return ssl.create_default_context(cafile=self.certificate)

    def _run(self, verb: str, *words: str) -> None:
        subprocess.run(["openssl", verb, "-config", self._config, *words], cwd=self._folder, check=True, capture_output=True)
