"""Which requests are answered: those of the page that this process has sent, and no other's.

A page of another place can make a browser send requests to this machine, also under a name of its own that it lets
point here (DNS rebinding). So the address has a secret part, `Host` must be this server's, and `Origin`, where a
browser sends it, too; what changes anything needs a header that no other page can send without asking first.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

HEADER = "X-Coadvise-View"
"""Sent with every request that carries an image or a question."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Sent with every answer."""


@dataclass(frozen=True)
class Guard:
    """What is known of a server's address.

    Attributes:
        host: the address that it is bound to.
        key: the secret first part of every path.
    """

    host: str
    port: int
    key: str = field(default_factory=lambda: secrets.token_urlsafe(16))

    @property
    def url(self) -> str:
        """The page's address, for a browser on this machine."""
        host = self.host
        if is_unspecified(host):
            host = "127.0.0.1"
        return f"http://{bracketed(host)}:{self.port}/{self.key}/"

    @property
    def url_elsewhere(self) -> str:
        """The page's address for other machines, where they are answered."""
        host = socket.gethostname() if is_unspecified(self.host) else self.host
        return f"http://{bracketed(host)}:{self.port}/{self.key}/"

    def refusal(self, headers: Mapping[str, str], changes: bool) -> str:
        """Why a request is refused; empty where it is answered.

        Args:
            changes: whether it carries an image or a question.
        """
        host = headers.get("Host", "")
        if not self._is_own(host):
            return f"'{host[:80]}' is no name of this server"
        origin = headers.get("Origin")
        if origin is not None and origin != f"http://{host}":
            return f"pages of '{origin[:80]}' get no answer"
        if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            return "pages of other places get no answer"
        if changes and headers.get(HEADER) != "1":
            return f"the header {HEADER} is missing"
        return ""

    def _is_own(self, host: str) -> bool:
        name, port = _split(host)
        if port != str(self.port):
            return False
        address, own = _address(name), _address("127.0.0.1" if self.host == "localhost" else self.host)
        if is_loopback(self.host):
            return name == "localhost" or (address is not None and address == own)
        # A rebound name is never a bare address, and no other machine has this one's name.
        return name in (self.host.lower(), "localhost", socket.gethostname().lower()) or address is not None


def _split(host: str) -> tuple[str, str]:
    """Name and port of a `Host`; browsers leave HTTP's own port out."""
    match = re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::(\d{1,5}))?", host, re.ASCII)
    if match is None:
        return "", ""
    return match[1].strip("[]").lower(), match[2] or "80"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches an address."""
    found = _address(host)
    return host == "localhost" if found is None else found.is_loopback


def is_unspecified(host: str) -> bool:
    """Whether an address stands for all of this machine's."""
    found = _address(host)
    return found is not None and found.is_unspecified


def bracketed(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host
