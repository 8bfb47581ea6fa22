"""Tokens in a file: what they give, when they end, what a wrong file does."""

import hashlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.zoned.conftest import captured_logs
from zoned import policy
from zoned.api.problems import Problem
from zoned.auth import tokens
from zoned.auth.identity import ANONYMOUS
from zoned.auth.tokens import TokenFile, TokensWrong, entry_text, parse
from zoned.cli import main

ENTRY = entry_text("worker 7", "secret", "p", ["Member"], None)


def asking(token: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"h"), (b"x-auth-token", token)]


class Clock:
    """Two clocks in one."""

    def __init__(self) -> None:
        self.wall, self.now = 1_000.0, 50.0


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tokens.toml"
    path.write_text(ENTRY)
    path.chmod(0o600)
    return path


def opened(path: Path, clock: Clock, anonymous_read: bool = False) -> TokenFile:
    return TokenFile(path, policy.DEFAULT, anonymous_read, lambda: clock.wall, lambda: clock.now)


async def test_a_token_gives_its_project_and_roles(path, clock):
    door = opened(path, clock)
    caller = door.known(asking(b"secret"))
    assert caller is not None
    assert (caller.project, caller.roles, caller.user) == ("p", frozenset(("member",)), "worker 7")
    for wrong in (b"Secret", b"", b"secret ", b"x" * 20_000, b"\xff"):
        assert door.known(asking(wrong)) is None
        with pytest.raises(Problem) as problem:
            await door.identify(asking(wrong), None)
        assert problem.value.status == 401


async def test_who_shows_no_token(path, clock):
    caller = opened(path, clock, anonymous_read=True).known([(b"host", b"h")])
    assert caller is not None
    assert (caller.project, caller.roles, caller.user) == (None, frozenset(("reader",)), ANONYMOUS)
    door = opened(path, clock)
    assert door.known([(b"host", b"h")]) is None
    with pytest.raises(Problem):
        await door.identify([(b"host", b"h")], None)


def test_a_bearer_token_is_one_too(path, clock):
    assert opened(path, clock).known([(b"authorization", b"Bearer secret")]) is not None


def test_a_token_ends(path, clock):
    path.write_text(entry_text("w", "secret", "p", ["member"], 1_500.0))
    door = opened(path, clock)
    assert door.known(asking(b"secret")) is not None
    clock.wall = 1_500.0
    assert door.known(asking(b"secret")) is None


def test_the_file_is_read_again_when_it_changes(path, clock):
    door = opened(path, clock)
    path.write_text(entry_text("other", "newer", "q", ["reader"], None))
    assert door.known(asking(b"newer")) is None, "it is looked at once a second"
    clock.now += tokens.LOOK_S
    newer = door.known(asking(b"newer"))
    assert newer is not None
    assert newer.project == "q"
    assert door.known(asking(b"secret")) is None


def test_a_file_that_became_wrong_changes_nothing_and_is_told_of_once(path, clock):
    door = opened(path, clock)
    path.write_text("[[token]]\nname = 5\n")
    with captured_logs() as said:
        for _ in range(3):
            clock.now += tokens.LOOK_S
            assert door.known(asking(b"secret")) is not None
    assert [one["event"] for one in said] == ["token file is wrong, the tokens before stay in force"]
    assert "sha256 is missing" in said[0]["problem"]
    assert "secret" not in str(said)


def test_others_may_not_read_it(path, clock):
    path.chmod(0o644)
    with pytest.raises(TokensWrong, match="chmod 600"):
        opened(path, clock)


def test_what_is_written_is_read():
    text = entry_text('a "name"\n\U000e0001', "t", None, ["reader", "member"], 1_893_456_000.0)
    (token,) = parse(text).values()
    assert token.name == 'a "name"\n\U000e0001'
    assert (token.project, token.roles, token.expires) == (None, frozenset(("reader", "member")), 1_893_456_000.0)
    assert token.digest == hashlib.sha256(b"t").digest()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("token = 5\n", r"\[\[token\]\]"),
        ("[other]\n", "unknown table other"),
        (ENTRY + "colour = 1\n", "token 1: unknown key 'colour'"),
        (ENTRY.replace('name = "worker 7"\n', ""), "token 1: name is missing"),
        (ENTRY.replace('["Member"]', '"member"'), "token 1: roles must be a list"),
        ('[[token]]\nname = "x"\nsha256 = "zz"\nroles = []\n', "token 1: sha256 must be 64"),
        (ENTRY + "expires = 2027-01-01\n", "token 1: expires must be a time with its zone"),
        (ENTRY + ENTRY, "token 2: the same sha256 as 'worker 7'"),
        ("[[token]\n", "no TOML"),
    ],
)
def test_mistakes_are_named(text, told):
    with pytest.raises(TokensWrong, match=told):
        parse(text)


def test_the_command_makes_one_that_works(path, clock):
    done = CliRunner().invoke(main, ["token", "w", "--project", "p", "--role", "reader", "--days", "2"])
    assert done.exit_code == 0
    made = done.stderr.split()[-1]
    assert made not in done.stdout
    path.write_text(path.read_text() + done.stdout)
    caller = opened(path, clock).known(asking(made.encode()))
    assert caller is not None
    assert (caller.project, caller.roles) == ("p", frozenset(("reader",)))


def test_tokens_are_compared_in_constant_time_and_by_their_hashes(tmp_path, monkeypatch):
    """What is looked up is the hash, so nothing that depends on a token's characters takes longer or shorter."""
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("zoned.auth.tokens.hmac.compare_digest", compare)
    path = tmp_path / "tokens"
    path.write_text(entry_text("a", "good", None, ["admin"], None))
    path.chmod(0o600)
    door = TokenFile(path, policy.DEFAULT, False, lambda: 0.0, lambda: 0.0)
    digest = hashlib.sha256(b"good").digest()
    assert door.known([(b"x-auth-token", b"good")]) is not None
    for wrong in (b"goo", b"goodd", b"", digest, digest.hex().encode()):
        assert door.known([(b"x-auth-token", wrong)]) is None
    assert compared == [(digest, digest)]
