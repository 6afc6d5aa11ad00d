"""The name or address by which devices reach the coordinator."""

import ipaddress
import re

from fedhw.errors import InputError

LONGEST_HOST_CHARACTERS = 253
"""RFC 1035, section 2.3.4, as text."""

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


def checked_host(host: str) -> str:
    """Return a host as certificates and addresses have it, a name in other scripts as IDNA.

    Raises InputError for what is no DNS name and no IP address, and for an address with a zone (%).

    >>> checked_host("bücher.example.org"), checked_host("2001:db8::1")
    ('xn--bcher-kva.example.org', '2001:db8::1')
    """
    try:
        if ":" in host and "%" not in host:
            return str(ipaddress.IPv6Address(host))
        name = host.encode("idna").decode("ascii").removesuffix(".")
    except ValueError:
        name = ""
    if len(name) > LONGEST_HOST_CHARACTERS or not all(map(_LABEL.fullmatch, name.split("."))):
        raise InputError(
            f"advertise: {host[:80]!r} is no name or address by which devices can reach this "
            "coordinator; give one without scheme, port or brackets with --advertise"
        )
    return name
