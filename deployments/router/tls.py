"""The files of a listener's TLS, read and checked. For operators: errors name the setting, and the file."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from deployments.config import TlsArgs

__all__ = ["server_credentials"]


def server_credentials(args: TlsArgs) -> grpc.ServerCredentials:
    """Raises ValueError in one line, `setting: what is wrong`, for a file that is not there or not what it should be."""
    cert = _read("cert_file", args.cert_file)
    key = _read("key_file", args.key_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(args.cert_file, args.key_file, password=_no_password)
    except (ssl.SSLError, ValueError) as cause:
        what = f"{args.key_file} is not the unencrypted key to the certificate in {args.cert_file}, both in PEM form"
        raise ValueError(f"key_file: {what}") from cause
    ca = None
    if args.client_ca_file is not None:
        ca = _read("client_ca_file", args.client_ca_file)
        try:
            context.load_verify_locations(args.client_ca_file)
        except ssl.SSLError as cause:
            raise ValueError(f"client_ca_file: {args.client_ca_file} has no certificate in PEM form") from cause
    return grpc.ssl_server_credentials([(key, cert)], root_certificates=ca, require_client_auth=ca is not None)


def _read(setting: str, name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as cause:
        raise ValueError(f"{setting}: cannot read {name}: {cause.strerror}") from None


def _no_password() -> str:
    """Instead of asking for one on a terminal."""
    return ""
