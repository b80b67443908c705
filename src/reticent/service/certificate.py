"""Certificates: the server's TLS files, and self-signed ones for tests and demonstrations."""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """The PEM files of a server certificate and its key.

    `self_signed` ones prove nothing to a client that wasn't given `certificate` beforehand, and
    every output says so.
    """

    certificate: Path
    key: Path
    self_signed: bool = False


def make_self_signed(
    folder: Path,
    *,
    hosts: Sequence[str] = LOCAL_HOSTS,
    now: datetime.datetime | None = None,
    days: int = 7,
) -> TlsFiles:
    """A P-256 certificate for `hosts`, valid `days` days, with its key (mode 0600) in `folder`.

    For tests and demonstrations. `now` is the clock's; a client is given the certificate itself
    as its only authority.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Reticent SELF-SIGNED")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(list(map(_host, hosts))), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    made = TlsFiles(
        certificate=folder / "certificate.pem", key=folder / "key.pem", self_signed=True
    )
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    made.key.unlink(missing_ok=True)
    with open(os.open(made.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
    return made


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
