"""Certificates of the server, taken anew from their files when those change.

gRPC asks for the certificate at every handshake: what is replaced on disk serves the next
connection, and connections that are open keep theirs.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
from cryptography import x509

log = structlog.get_logger()


class TlsError(RuntimeError):
    """Certificates that cannot be served; one line, names the files."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files.

    Attributes:
        certificate: of the server, followed by intermediate ones.
        key: its private key, not encrypted.
        client_ca: whose clients are let in, and no others; None lets in every client.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Changes when a file is written, replaced or linked elsewhere; raises OSError."""
        files = [self.certificate, self.key, *([self.client_ca] if self.client_ca else [])]
        stats = [file.stat() for file in files]
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)

    def read(self) -> grpc.ServerCertificateConfiguration:
        """What is in the files.

        Raises:
            TlsError: a file is missing, none of its kind, or key and certificate do not match.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # Checked here, because gRPC would only fail each handshake. The password keeps
            # OpenSSL from asking for one on the terminal.
            context.load_cert_chain(self.certificate, self.key, password=b"")
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"certificate {self.certificate}, key {self.key}: {error}") from error
        roots = None
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
                roots = self.client_ca.read_bytes()
            except (OSError, ssl.SSLError) as error:
                raise TlsError(f"client CA {self.client_ca}: {error}") from error
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)

    def expiry(self) -> dict[str, float]:
        """When the first certificate of a file expires, Unix time, by file.

        Returns:
            "server" and, where there is one, "client_ca".

        Raises:
            TlsError: a file cannot be read.
        """
        files = {"server": self.certificate, "client_ca": self.client_ca}
        found = {}
        for name, file in files.items():
            if file is not None:
                try:
                    held = x509.load_pem_x509_certificates(file.read_bytes())
                except (OSError, ValueError) as error:
                    raise TlsError(f"certificate {file}: {error}") from error
                found[name] = min(each.not_valid_after_utc.timestamp() for each in held)
        return found


class Certificates:
    """The certificates in use.

    Attributes:
        expiry: see :meth:`TlsFiles.expiry`.

    Raises:
        TlsError: they cannot be served.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._initial = files.read()
        self.expiry = files.expiry()
        self._stamp = files.stamp()

    def credentials(self) -> grpc.ServerCredentials:
        """For ``add_secure_port``."""
        return grpc.dynamic_ssl_server_credentials(
            self._initial,
            self._changed,  # type: ignore[arg-type] # None is "as before", says gRPC
            require_client_authentication=self._files.client_ca is not None,
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """New certificates if the files have changed; asked at every handshake, by gRPC."""
        try:
            stamp = self._files.stamp()
            if stamp == self._stamp:
                return None
            fresh, expiry = self._files.read(), self._files.expiry()
        except (OSError, TlsError) as error:
            log.error("certificates_reload_failed", reason=str(error))  # noqa: TRY400 - no traceback needed
            return None
        self._stamp, self.expiry = stamp, expiry
        log.info("certificates_changed", certificate=str(self._files.certificate))
        return fresh
