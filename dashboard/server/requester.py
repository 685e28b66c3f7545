"""Whether a request comes from the machine that this server runs on.

Some things, such as names of files and addresses that the server asks, are for those who sit at it. The address that
the server listens on is not enough: behind a reverse proxy it listens on its own machine and yet serves others.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

OF_PROXIES = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")
"""Headers that only proxies add."""


def is_at_the_machine(address: str | None, headers: Mapping[str, str]) -> bool:
    """Whether who asks is at this machine, as far as one can tell.

    A proxy that adds no header and passes none on is still known by `Origin`, in which a browser names the page that it
    shows. Only a client that is no browser can leave that out or make it up.

    Args:
        address: that the server listens on; None for all.
        headers: of the request, found in any case of letters (`st.context.headers`); empty when there is none.
    """
    if not _is_loopback(address) or any(name in headers for name in OF_PROXIES):
        return False
    asked = f"//{headers['Host']}" if "Host" in headers else None
    return all(_is_loopback(_host_of(url)) for url in (asked, headers.get("Origin")) if url is not None)


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
