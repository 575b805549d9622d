"""Whom the page answers: requests to an address that it is served at, from pages of that address.

Otherwise a page of somebody else's, open in the same browser, could have the visitor's browser talk
to this one: by a name of its own that it lets point here (DNS rebinding), or from its own origin.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

#: Further names that the page may be asked by, separated by commas: for a proxy in front of it.
VARIABLE = "CFT_HOSTS"

#: Where a Space is shown in a frame.
_HUB = frozenset({"huggingface.co", "hf.co"})

# What no host and port has, but an address around them, or what would be passed over in one.
_NO_HOST = frozenset("/\\?#@ \t\r\n")


@dataclass(frozen=True)
class Addresses:
    """Names of hosts, in lower case and without a port.

    Attributes
    ----------
    hosts
        Names that the page is served at. An IP address always is one: no other name leads to it.
    framing
        Names of the pages that hold it in a frame.
    """

    hosts: frozenset[str]
    framing: frozenset[str] = frozenset()

    @classmethod
    def of(cls, listening: str | None, environment: Mapping[str, str] = os.environ) -> Addresses:
        """Of a page that listens at an address, on this machine or as a Space."""
        space = _names(environment.get("SPACE_HOST", ""))
        here = socket.gethostname().lower()
        names = {"localhost", here, f"{here}.local", (listening or "").lower()} - {"", ".local"}
        hosts = frozenset({*names, *space, *_names(environment.get(VARIABLE, ""))})
        return cls(hosts, _HUB if space else frozenset())

    def refusal(self, host: str | None, origin: str | None) -> str:
        """The sentence against a request with these headers; empty if nothing is."""
        asked = _host(f"//{host}") if host and not _NO_HOST.intersection(host) else ""
        if not asked or not (asked in self.hosts or _is_ip(asked)):
            return (
                "The page is not served at this address; who runs it can allow the name in "
                f"{VARIABLE}."
            )
        if origin is None or self._is_own(origin, host or ""):
            return ""
        return "The page answers no requests of other pages."

    def _is_own(self, origin: str, host: str) -> bool:
        parts = urlsplit(origin) if origin.isprintable() else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.netloc:
            return False
        if parts.netloc.lower() == host.lower():
            return True
        # Behind a proxy the host may be another than the browser asked, on a port of its own.
        name, public = _host(origin), self.hosts - {"localhost"}
        return parts.scheme == "https" and (name in self.framing or name in public)


def _names(listed: str) -> set[str]:
    return {name.strip().lower() for name in listed.split(",") if name.strip()}


def _host(address: str) -> str:
    """The host of an address, without port and brackets; empty if it has none."""
    try:
        return (urlsplit(address).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
