"""The keys that seal what members say, and how they change while everybody goes on talking. Sans-IO.

A keyring is one small versioned document, the same on all nodes: one key is *primary* (seals), others are *accepted*
(open). It travels inside sealed full states, the highest version wins, and its hash is part of the digest on acks, so
a change made on one node is everywhere within seconds. A *retired* key opens nothing but the question of a member that
slept through the rotation, and the answer is the keyring alone. A stolen key is revoked: then it opens nothing at all.
"""

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from gossip.errors import KeyringError

KEYS_MAX = 8
SECRET_BYTES = 32  # AES-256
KEYRING_BYTES_MAX = 2048
ID_BYTES = 4


class Role(Enum):
    """What a key is good for."""

    PRIMARY = "primary"
    ACCEPTED = "accepted"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class Key:
    """One key; its ID is derived from it."""

    secret: bytes
    role: Role

    @property
    def raw_id(self) -> bytes:
        return hashlib.sha256(b"zoned gossip key " + self.secret).digest()[:ID_BYTES]

    @property
    def key_id(self) -> str:
        return self.raw_id.hex()

    def __repr__(self) -> str:
        return f"Key({self.key_id}, {self.role.value})"  # never the secret: this ends in logs


@dataclass(frozen=True, slots=True)
class Keyring:
    """An immutable keyring; every change is a new one with the next version. Changes raise `KeyringError`."""

    version: int
    keys: tuple[Key, ...]

    @classmethod
    def fresh(cls, secret: bytes) -> "Keyring":
        return cls(1, (Key(secret, Role.PRIMARY),))

    @property
    def primary(self) -> Key:
        return next(key for key in self.keys if key.role is Role.PRIMARY)

    def find(self, raw_id: bytes) -> Key | None:
        return next((key for key in self.keys if key.raw_id == raw_id), None)

    def install(self, secret: bytes) -> "Keyring":
        """Open with this key as well."""
        new = Key(secret, Role.ACCEPTED)
        if len(secret) != SECRET_BYTES:
            raise KeyringError(f"a key has {SECRET_BYTES} bytes, this has {len(secret)}")
        if self.find(new.raw_id) is not None:
            raise KeyringError(f"key {new.key_id} is installed already")
        if len(self.keys) >= KEYS_MAX:
            raise KeyringError(f"{KEYS_MAX} keys are installed; revoke one that is no longer needed")
        return Keyring(self.version + 1, (*self.keys, new))

    def use(self, key_id: str) -> "Keyring":
        """Seal with this key; the primary until now is still accepted."""
        self._get(key_id)
        keys = tuple(
            replace(key, role=Role.PRIMARY)
            if key.key_id == key_id
            else replace(key, role=Role.ACCEPTED if key.role is Role.PRIMARY else key.role)
            for key in self.keys
        )
        return Keyring(self.version + 1, keys)

    def remove(self, key_id: str) -> "Keyring":
        """Retire this key: it only helps those who slept through the rotation."""
        self._not_primary(key_id)
        keys = tuple(replace(key, role=Role.RETIRED) if key.key_id == key_id else key for key in self.keys)
        return Keyring(self.version + 1, keys)

    def revoke(self, key_id: str) -> "Keyring":
        """Forget this key: who knows no other is locked out until somebody gives it a new keyring file."""
        self._not_primary(key_id)
        return Keyring(self.version + 1, tuple(key for key in self.keys if key.key_id != key_id))

    def beats(self, other: "Keyring") -> bool:
        """The newer wins; of two changes made at once, the same one everywhere."""
        return (self.version, self.fingerprint) > (other.version, other.fingerprint)

    @property
    def fingerprint(self) -> int:
        """63 bits of all that is in it."""
        return int.from_bytes(hashlib.sha256(self.encode()).digest()[:8]) >> 1

    def encode(self) -> bytes:
        """The document that is kept in the file and travels in sealed full states."""
        keys = [
            {"id": key.key_id, "secret": base64.b64encode(key.secret).decode(), "role": key.role.value}
            for key in self.keys
        ]
        return json.dumps({"version": self.version, "keys": keys}, indent=1).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> "Keyring":
        """Raises `KeyringError` for anything but a keyring with exactly one primary key."""
        try:
            if len(data) > KEYRING_BYTES_MAX:
                raise ValueError
            document: Any = json.loads(data)
            version, raw = document["version"], document["keys"]
            keys = tuple(Key(base64.b64decode(one["secret"], validate=True), Role(one["role"])) for one in raw)
        except (ValueError, TypeError, KeyError, binascii.Error, RecursionError):
            raise KeyringError("this is no keyring") from None
        primaries = sum(key.role is Role.PRIMARY for key in keys)
        if type(version) is not int or not 0 < version < 2**53 or not 0 < len(keys) <= KEYS_MAX or primaries != 1:
            raise KeyringError(f"a keyring has a version, 1 to {KEYS_MAX} keys, and one of them is primary")
        if any(len(key.secret) != SECRET_BYTES for key in keys) or len({key.raw_id for key in keys}) < len(keys):
            raise KeyringError(f"the keys of a keyring have {SECRET_BYTES} bytes each and differ")
        return cls(version, keys)

    def _get(self, key_id: str) -> Key:
        known = next((key for key in self.keys if key.key_id == key_id), None)
        if known is None:
            raise KeyringError(f"there is no key {key_id[:16]!r}; these are installed: {self._listed()}")
        return known

    def _not_primary(self, key_id: str) -> None:
        if self._get(key_id).role is Role.PRIMARY:
            raise KeyringError(f"key {key_id} seals what we say; use another one first")

    def _listed(self) -> str:
        return ", ".join(key.key_id for key in self.keys)
