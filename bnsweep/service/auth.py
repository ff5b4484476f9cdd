"""Who asks, and what they may do: tokens, roles, and proofs that a form is ours.

A token is 256 random bits, shown once when it is made; the store holds its SHA-256, so that who reads the store cannot
sign in. (A slow hash guards guessable passwords; nobody guesses 256 bits.)
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from dataclasses import dataclass
from enum import IntEnum
from time import monotonic

from bnsweep.errors import InputError, UnknownNameError
from bnsweep.service.records import Records, now

__all__ = ["ANYONE", "NO_ADMIN", "Role", "Token", "Tokens", "User", "form_proof", "is_form_proof"]

PREFIX = "bnsweep"
NO_ADMIN = (
    "No valid token is an admin's, and where there are tokens nobody else is one: nobody changes others' sweeps or "
    "reads the audit log. Who can write to the store makes one: bnsweep token create NAME --role admin --store {}"
)
FRESH_S = 2.0  # how long a revoked token may go on working
NEWS_S = 0.2  # between looks for a token that nobody knows


class Role(IntEnum):
    """What a user may do; each may do what those before may."""

    VIEWER = 1  # read everything, ask questions
    RUNNER = 2  # submit sweeps; cancel and retry their own
    ADMIN = 3  # the same with everybody's; the audit log

    @classmethod
    def parse(cls, name: str) -> Role:
        """A role by its name. Raises UnknownNameError."""
        names = {role.name.lower(): role for role in cls}
        if name not in names:
            raise UnknownNameError("role", name, names)
        return names[name]

    @property
    def label(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class User:
    """Who asks."""

    name: str
    role: Role
    key: str  # what forms are proved with, and what limits are counted by


ANYONE = User("local", Role.ADMIN, "")  # where no token was ever made: this machine's user, over loopback


@dataclass(frozen=True, slots=True)
class Token:
    """What the store knows of a token."""

    id: str
    name: str
    role: Role
    sha256: str
    created: str
    revoked: str  # when; empty: it is valid


class Tokens:
    """The tokens of a store; reads them again after two seconds."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._lock = threading.Lock()
        self._known: dict[str, Token] = {}
        self._read_at = float("-inf")

    def create(self, name: str, role: Role) -> str:
        """Make a token; its text, which is nowhere else. Raises InputError for a name that is none."""
        if not name or len(name) > 64 or not all(c.isalnum() or c in "._-@" for c in name):
            raise InputError(f"a token's name has 1 to 64 letters, digits, dots, dashes or @, but got {name!r}")
        if any(token.name == name and not token.revoked for token in self.list()):
            raise InputError(f"there is a valid token for {name!r}; revoke it first, or choose another name")
        ident = secrets.token_hex(4)
        text = f"{PREFIX}-{ident}-{secrets.token_urlsafe(32)}"
        fields = {"name": name, "role": role.label, "sha256": _digest(text), "created": now()}
        self._records.create(f"tokens/{ident}", fields)
        self._read_at = float("-inf")
        return text

    def revoke(self, which: str) -> Token:
        """Make a token worthless, by its id or its user's name. Raises UnknownNameError."""
        valid = [token for token in self.list() if not token.revoked]
        for token in valid:
            if which in (token.id, token.name):
                self._records.create(f"revoked/{token.id}", {"revoked": now()})
                self._read_at = float("-inf")
                return token
        raise UnknownNameError("token", which, [t.name for t in valid])

    def list(self) -> list[Token]:
        """Every token ever made."""
        with self._lock:
            if monotonic() - self._read_at > FRESH_S:
                self._known = self._read()
                self._read_at = monotonic()
            return list(self._known.values())

    def lack_an_admin(self) -> bool:
        """Whether nobody is an admin: there are tokens, or were some, and no valid one is an admin's."""
        known = self.list()
        return bool(known) and not any(token.role is Role.ADMIN and not token.revoked for token in known)

    def _read(self) -> dict[str, Token]:
        found = {}
        revoked = {name.removeprefix("revoked/") for name in self._records.names("revoked")}
        for name in self._records.names("tokens"):
            ident = name.removeprefix("tokens/")
            known = self._known.get(ident)
            fields = None if known else self._records.read(name)
            if known is None and fields:
                known = Token(
                    ident, fields["name"], Role.parse(fields["role"]), fields["sha256"], fields["created"], ""
                )
            if known and ident in revoked and not known.revoked:
                at = (self._records.read(f"revoked/{ident}") or {}).get("revoked", "?")
                known = Token(known.id, known.name, known.role, known.sha256, known.created, at)
            if known:
                found[ident] = known
        return found

    def user(self, text: str) -> User | None:
        """Whose token this is; None if it is nobody's."""
        parts = text.split("-", 2)
        if len(parts) != 3 or parts[0] != PREFIX or len(text) > 200:
            return None
        digest = _digest(text)
        if parts[1] not in self._known and monotonic() - self._read_at > NEWS_S:
            self._read_at = float("-inf")  # it may have been made a moment ago
        for token in self.list():
            if token.id == parts[1] and not token.revoked and hmac.compare_digest(token.sha256, digest):
                return User(token.name, token.role, digest)
        return None


def form_proof(secret: str) -> str:
    """What a form carries to show that it is from this site: another site cannot read the cookie that it is made of."""
    return hmac.new(secret.encode(), b"bnsweep form", hashlib.sha256).hexdigest()


def is_form_proof(secret: str, given: str) -> bool:
    """Whether a form's proof belongs to the cookie."""
    return bool(secret) and hmac.compare_digest(form_proof(secret).encode(), given.encode())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
