"""TLS of connections: the context that the parameters of libpq describe, and a sentence for each failure."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from graphjobs.errors import ConfigurationError, DatabaseUnavailable, GraphJobsError

_OTHER_HOST: Final = {62, 64}
_TIME: Final = {9: "is not valid yet", 10: "has expired"}
_REVOKED: Final = 23
VERIFYING: Final = ("verify-ca", "verify-full")


class NoTlsError(ConnectionError):
    """The server answered that it has no TLS."""


class HandshakeEndedError(ConnectionError):
    """The server closed the connection during the handshake."""


def tls_context(parameters: Mapping[str, str], mode: str) -> ssl.SSLContext:
    """Build the context of a mode other than `disable`.

    Raises:
        ConfigurationError: a file is missing or unusable; the message names the parameter.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if mode in ("require", *VERIFYING):
        _load_roots(context, parameters, mode)
    _load_client_certificate(context, parameters)
    # Python names them TLSv1_2 where libpq writes TLSv1.2.
    lowest = parameters.get("ssl_min_protocol_version", "TLSv1.2")
    context.minimum_version = ssl.TLSVersion[lowest.replace(".", "_")]
    if highest := parameters.get("ssl_max_protocol_version"):
        context.maximum_version = ssl.TLSVersion[highest.replace(".", "_")]
    if log := parameters.get("sslkeylogfile"):
        try:
            context.keylog_filename = log
        except OSError as error:
            raise _unusable("sslkeylogfile", log, error) from None
    context.set_alpn_protocols(["postgresql"])
    return context


def _load_roots(context: ssl.SSLContext, parameters: Mapping[str, str], mode: str) -> None:
    roots = parameters.get("sslrootcert")
    if roots == "system":
        context.load_default_certs()
    else:
        file = roots or _default("root.crt")
        if file is None:
            if mode in VERIFYING:
                raise ConfigurationError(
                    f"sslmode={mode} needs the certificate of an authority: set sslrootcert, or sslrootcert=system"
                )
            return
        _load(context, "sslrootcert", cafile=file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = mode == "verify-full"
    revoked, folder = parameters.get("sslcrl") or _default("root.crl"), parameters.get("sslcrldir")
    if revoked:
        _load(context, "sslcrl", cafile=revoked)
    if folder:
        if not Path(folder).is_dir():
            raise ConfigurationError(f"sslcrldir names a folder that does not exist: {folder}")
        _load(context, "sslcrldir", capath=folder)
    if revoked or folder:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def _load_client_certificate(context: ssl.SSLContext, parameters: Mapping[str, str]) -> None:
    certificate = parameters.get("sslcert") or _default("postgresql.crt")
    if certificate is None or parameters.get("sslcertmode") == "disable":
        return
    key = parameters.get("sslkey") or _default("postgresql.key")
    for name, file in (("sslcert", certificate), ("sslkey", key)):
        try:
            if file:
                Path(file).open("rb").close()
        except OSError as error:
            raise _unusable(name, file, error) from None
    try:
        # Without a function OpenSSL would ask for the password of an encrypted key on the terminal.
        context.load_cert_chain(certificate, key, password=lambda: parameters.get("sslpassword", ""))
    except (OSError, ValueError):  # SSLError is an OSError
        raise ConfigurationError(
            "sslcert and sslkey are unusable: check that they belong together, and sslpassword"
        ) from None


def _load(context: ssl.SSLContext, name: str, *, cafile: str | None = None, capath: str | None = None) -> None:
    try:
        context.load_verify_locations(cafile, capath)
    except OSError as error:
        raise _unusable(name, cafile or capath, error) from None


def _unusable(name: str, file: str | None, error: OSError) -> ConfigurationError:
    reason = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
    return ConfigurationError(f"{name} names an unusable file: {file}: {reason}")


def _default(name: str) -> str | None:
    try:
        file = Path.home() / ".postgresql" / name
        return str(file) if file.is_file() else None
    except (OSError, RuntimeError):  # no home, or none that this user may read
        return None


def tls_failure(error: BaseException, location: str) -> GraphJobsError | None:
    """Return the error to raise for a failure of TLS, or None for another one."""
    match error:
        case NoTlsError():
            reason = "has no TLS, and sslmode asks for it: turn TLS on there, or change sslmode"
            return ConfigurationError(f"the server at {location} {reason}")
        case ssl.SSLCertVerificationError(verify_code=code) if code in _OTHER_HOST:
            reason = "is for another host name: check the host, or set sslmode=verify-ca"
        case ssl.SSLCertVerificationError(verify_code=code) if code in _TIME:
            reason = f"{_TIME[code]}: renew it, and check the clocks"
        case ssl.SSLCertVerificationError(verify_code=code) if code == _REVOKED:
            reason = "is revoked by sslcrl: renew it"
        case ssl.SSLCertVerificationError():
            reason = "is not trusted: sslrootcert must hold the authority that signed it"
        case HandshakeEndedError():
            return DatabaseUnavailable(
                f"the server at {location} closed the connection during the TLS handshake: see its log"
            )
        case ssl.SSLError():
            return ConfigurationError(
                f"the TLS handshake with {location} failed: check ssl_min_protocol_version and the certificates"
            )
        case _:
            return None
    return ConfigurationError(f"the certificate of the server at {location} {reason}")
