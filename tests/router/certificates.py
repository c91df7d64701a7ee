"""Certificates for a test, made on the spot: an authority and what it signs."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "Signed"]


@dataclass(frozen=True)
class Signed:
    """A certificate and its key, as files in PEM form."""

    cert_file: str
    key_file: str

    @property
    def cert(self) -> bytes:
        return Path(self.cert_file).read_bytes()

    @property
    def key(self) -> bytes:
        return Path(self.key_file).read_bytes()


class Authority:
    """Signs certificates for 127.0.0.1."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, None), critical=True)
        self.own = self._write(name, builder, self._key)

    def sign(self, name: str, password: bytes | None = None) -> Signed:
        """A certificate of this name, whose key is encrypted if there is a password."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = self._builder(subject, key).add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return self._write(name, builder, key, password)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )

    def _write(
        self,
        name: str,
        builder: x509.CertificateBuilder,
        key: ec.EllipticCurvePrivateKey,
        password: bytes | None = None,
    ) -> Signed:
        files = Signed(str(self._folder / f"{name}.pem"), str(self._folder / f"{name}.key"))
        certificate = builder.sign(self._key, hashes.SHA256())
        Path(files.cert_file).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        form = serialization.PrivateFormat.PKCS8
        Path(files.key_file).write_bytes(key.private_bytes(serialization.Encoding.PEM, form, hidden))
        return files
