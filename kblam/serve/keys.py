"""Keys from the environment: who asks."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable

from kblam.errors import ServingError
from kblam.serve.bases import Place, is_name
from kblam.serve.failures import ApiError

VARIABLE, METRICS_VARIABLE = "KBLAM_API_KEYS", "KBLAM_METRICS_KEY"
SHORTEST = 16  # characters: what is shorter is guessed


class Keys:
    """Which key belongs to which tenant. Only digests are kept, and all are compared, each in constant time.

    Args:
        of_tenants: (tenant, key) pairs; several keys of one tenant let it change them one by one.
        of_metrics: the key that reads /metrics.
    """

    def __init__(self, of_tenants: Iterable[tuple[str, str]] = (), of_metrics: str | None = None) -> None:
        self._tenants = [(_digest(key), tenant) for tenant, key in of_tenants]
        self._metrics = None if of_metrics is None else _digest(of_metrics)

    def __bool__(self) -> bool:
        return bool(self._tenants)

    @property
    def tenants(self) -> list[str]:
        """All that have a key."""
        return list(dict.fromkeys(tenant for _, tenant in self._tenants))

    @classmethod
    def from_environment(cls) -> Keys:
        """Those of `KBLAM_API_KEYS`, written TENANT:KEY with commas between, and of `KBLAM_METRICS_KEY`.

        Raises:
            ServingError: one cannot be read, is too short, or belongs to two tenants. No message shows a key.
        """
        pairs: list[tuple[str, str]] = []
        for place, entry in enumerate(filter(None, map(str.strip, os.environ.get(VARIABLE, "").split(","))), start=1):
            tenant, colon, key = entry.partition(":")
            if not colon or not is_name(tenant):
                raise ServingError(f"entry {place} of {VARIABLE} is not TENANT:KEY; write acme:KEY,globex:KEY")
            _check(key, f"the key of {tenant} in {VARIABLE}")
            if any(key == other and tenant != whose for whose, other in pairs):
                raise ServingError(f"{VARIABLE} has one key for two tenants, {tenant} and another; give each its own")
            pairs.append((tenant, key))
        metrics = os.environ.get(METRICS_VARIABLE) or None
        if metrics is not None:
            _check(metrics, METRICS_VARIABLE)
        return cls(pairs, metrics)

    def tenant_of(self, authorization: str | None) -> str | None:
        """Whose request it is; None where the server has no keys.

        Args:
            authorization: the header, "Bearer KEY".

        Raises:
            ApiError: 401, the key is missing or wrong.
        """
        if not self:
            return None
        given, found = _digest(_bearer(authorization)), ""
        for digest, tenant in self._tenants:
            found = tenant if hmac.compare_digest(digest, given) else found
        if not found:
            raise _refused()
        return found

    def check_metrics(self, authorization: str | None) -> None:
        """Lets metrics, which name all tenants' bases, be read by their own key; by anybody if there are no keys.

        Raises:
            ApiError: 401.
        """
        if self._metrics is None and not self:
            return
        if self._metrics is None or not hmac.compare_digest(self._metrics, _digest(_bearer(authorization))):
            raise _refused()


def check_places(keys: Keys, places: Iterable[Place]) -> None:
    """Checks that each base belongs to somebody who can ask for it.

    Raises:
        ServingError: one has no tenant though there are keys, or a tenant that has no key.
    """
    for place in places:
        if keys and place.tenant is None:
            raise ServingError(
                f"the knowledge base {place.name!r} belongs to nobody, and {VARIABLE} is set; write "
                f"--kb TENANT/{place.name}=FILE"
            )
        if place.tenant is not None and place.tenant not in keys.tenants:
            raise ServingError(
                f"the knowledge base {place.label!r} belongs to {place.tenant!r}, which has no key; add "
                f"{place.tenant}:KEY to {VARIABLE}"
            )


def _bearer(authorization: str | None) -> str:
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _check(key: str, whose: str) -> None:
    if len(key) < SHORTEST:
        raise ServingError(f"{whose} is shorter than {SHORTEST} characters; make one: openssl rand -hex 24")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ServingError(f"{whose} holds white space or characters beyond ASCII, which no header carries")


def _refused() -> ApiError:
    return ApiError(
        401,
        "the key is missing or wrong; send it as: Authorization: Bearer KEY",
        "invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )
