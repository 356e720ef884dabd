"""Certificates of the server, reloaded when their files change.

gRPC requests the certificate at every handshake: a replaced file applies to the next connection,
and open connections keep the old certificate.
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
    """Certificates cannot be used; the message is one line with the files."""


@dataclass(frozen=True)
class TlsFiles:
    """Paths of the PEM files.

    Attributes:
        certificate: certificate of the server, followed by intermediate ones.
        key: private key, not encrypted.
        client_ca: authority of accepted clients; None accepts clients without certificate.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Return a value that changes with any of the files; raises OSError."""
        files = [self.certificate, self.key, *([self.client_ca] if self.client_ca else [])]
        stats = [file.stat() for file in files]
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Read and check the files.

        Raises:
            TlsError: a file is missing or not valid, or key and certificate do not match.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # Checked here, because gRPC would only fail each handshake. The empty password keeps
            # OpenSSL from prompting for one on the terminal.
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
        """Return the Unix time at which the first certificate of each file expires.

        Returns:
            Times by file: "server" and, if configured, "client_ca".

        Raises:
            TlsError: a file cannot be read.
        """
        files = {"server": self.certificate, "client_ca": self.client_ca}
        expiry = {}
        for name, file in files.items():
            if file is not None:
                try:
                    certificates = x509.load_pem_x509_certificates(file.read_bytes())
                except (OSError, ValueError) as error:
                    raise TlsError(f"certificate {file}: {error}") from error
                expiry[name] = min(c.not_valid_after_utc.timestamp() for c in certificates)
        return expiry


class Certificates:
    """Certificates in use.

    Attributes:
        expiry: see :meth:`TlsFiles.expiry`.

    Raises:
        TlsError: the certificates cannot be used.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._initial = files.read()
        self.expiry = files.expiry()
        self._stamp = files.stamp()

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials for ``add_secure_port``."""
        return grpc.dynamic_ssl_server_credentials(
            self._initial,
            self._reload_if_changed,  # type: ignore[arg-type] # None keeps the current ones
            require_client_authentication=self._files.client_ca is not None,
        )

    def _reload_if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return new certificates if the files have changed; gRPC calls this at every handshake."""
        try:
            stamp = self._files.stamp()
            if stamp == self._stamp:
                return None
            fresh, expiry = self._files.read(), self._files.expiry()
        except (OSError, TlsError) as error:
            log.error("certificates_reload_failed", reason=str(error))  # noqa: TRY400
            return None
        self._stamp, self.expiry = stamp, expiry
        log.info("certificates_changed", certificate=str(self._files.certificate))
        return fresh
