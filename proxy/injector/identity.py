"""The certificate that the webhook shows, and its exchange without a restart.

The socket's own context never changes: at each handshake it hands over to the one in force. (Loading a new chain into a context that is
in use could leave it with the new certificate and the old key.) The rule a reader could break: a pair that does not fit together, as
between the writes of its two files, is never in force.
"""

import ssl
from pathlib import Path

# What OpenSSL says of a key that is not the certificate's; the last, of one of another kind.
_STRANGERS = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")


class WrongIdentity(Exception):
    """Why the certificate or the key cannot be used, in words, with the file."""


class Identity:
    """certificate: the chain, the server's own first; key: not encrypted; both in PEM. `load` comes first."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self.files = (certificate, key)
        self._context = _bare()
        self.context = _bare()  # for the socket
        self.context.sni_callback = self._hand_over

    def __repr__(self) -> str:
        return f"<Identity {self.files[0]}>"

    def load(self) -> None:
        """Put what the files hold in force. Errors: WrongIdentity, and then nothing changed."""
        certificate, key = self.files
        for file in self.files:
            try:
                file.open("rb").close()
            except OSError as error:
                raise WrongIdentity(f"{file}: cannot be read: {error.strerror}") from None
        context = _bare()
        try:
            context.load_cert_chain(certificate, key, password=_refuse)
        except _Encrypted:
            raise WrongIdentity(f"{key}: the key is encrypted, and nobody is there to type a password") from None
        except (ssl.SSLError, OSError) as error:
            raise WrongIdentity(_said(error, certificate, key)) from None
        self._context = context

    def _hand_over(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Called at each handshake, whether the client names a server or not."""
        connection.context = self._context


class _Encrypted(Exception):
    """The key file asks for a password."""


def _refuse() -> str:
    raise _Encrypted


def _bare() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _said(error: OSError, certificate: Path, key: Path) -> str:
    """OpenSSL says what it met, and not in which of the files."""
    if getattr(error, "reason", None) in _STRANGERS:
        return f"{key}: this is not the key of the certificate in {certificate}"
    if b"-----BEGIN CERTIFICATE-----" not in certificate.read_bytes():
        return f"{certificate}: there is no certificate in it, in PEM"
    if b"PRIVATE KEY-----" not in key.read_bytes():
        return f"{key}: there is no private key in it, in PEM"
    return f"{certificate} or {key}: damaged, or of a kind that is not supported"
