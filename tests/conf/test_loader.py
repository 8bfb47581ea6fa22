"""Loading TOML: defaults, types, bounds, and every mistake in one go."""

from pathlib import Path

import pytest

from conf import Config, ConfigError, load, parse


def mistakes(text: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return {mistake.key: mistake.problem for mistake in caught.value.mistakes}


def test_no_file_is_one_zone_on_loopback():
    assert load(None) == parse("") == Config()
    assert Config().registry.expect == 1
    assert Config().http.listen == "127.0.0.1:9292"


def test_values_are_taken():
    config = parse(
        '[node]\nzone = "b"\n[registry]\nexpect = 3\nwait_s = 1\n[peers]\nseeds = ["a:1", "[::1]:2", "c:3"]\n'
    )
    assert (config.node.zone, config.registry.expect, config.registry.wait_s) == ("b", 3, 1.0)
    assert isinstance(config.registry.wait_s, float)
    assert config.peers.seeds == ("a:1", "[::1]:2", "c:3")


def test_every_mistake_is_reported_at_once_with_its_dotted_key():
    found = mistakes(
        '[node]\nzone = "a b"\n[registry]\nexpct = 3\nwait_s = "2"\n[htttp]\n[http]\nbody_bytes_max = 1\n'
        "[peers]\nseeds = [1]\n[log]\nrequests = 1\n"
    )
    assert set(found) == {
        "node.zone",
        "registry.expct",
        "registry.wait_s",
        "htttp",
        "http.body_bytes_max",
        "peers.seeds",
        "log.requests",
    }
    assert "did you mean registry.expect" in found["registry.expct"]
    assert "must be a number, is text" in found["registry.wait_s"]
    assert "between 4096 and" in found["http.body_bytes_max"]


@pytest.mark.parametrize(
    ("text", "key", "part"),
    [
        ("http = 3", "http", "must be a table"),
        ("a =\n", "(syntax)", "line 1"),
        ('[http]\nlisten = "127.0.0.1"', "http.listen", "HOST:PORT"),
        ('[http]\nlisten = "::1:80"', "http.listen", "brackets"),
        ('[http]\nlisten = "localhost:70000"', "http.listen", "65535"),
        ('[http]\nlisten = "0.0.0.0:80"', "http.listen", "without authentication"),
        ('[peers]\nlisten = "127.0.0.1:9292"', "peers.listen", "same address"),
        ('[http]\nregistry_listen = "127.0.0.1:9292"', "http.registry_listen", "same address as http.listen"),
        ('[http]\nregistry_listen = "127.0.0.1:9293"', "http.registry_listen", "same address as peers.listen"),
        ('[auth]\nkeystone_url = "keystone:5000"', "auth.keystone_url", "must be a URL"),
        ("[registry]\nexpect = 3", "peers.seeds", "needs other nodes"),
        ('[node]\nrole = "witness"', "registry.expect", "a witness serves nobody; set it to 0"),
        ('[node]\nrole = "half"', "node.role", "one of 'full', 'witness'"),
        (
            '[node]\nrole = "witness"\n[http]\nregistry_listen = "127.0.0.1:9191"\n[registry]\nexpect = 0\n'
            '[peers]\nseeds = ["a:1"]',
            "http.registry_listen",
            "leave it empty",
        ),
        ("[registry]\nremove_after_s = -1", "registry.remove_after_s", "at least 0"),
        ("[registry]\nexpect = 0", "peers.seeds", "needs other nodes"),
        ('[peers]\nseeds = ["a:1"]', "registry.expect", "set it to 0 to join"),
        ("[registry]\nexpect = 2", "registry.expect", "one of 0, 1, 3, 5, 7"),
        ("[ids]\nceiling = 5", "ids.ceiling", "must be one of"),
        ('[admin]\nsocket = "/' + "x" * 120 + '"', "admin.socket", "107 bytes"),
    ],
)
def test_a_mistake_names_its_key_and_its_mend(text: str, key: str, part: str):
    found = mistakes(text)
    assert list(found) == [key]
    assert part in found[key]


def test_a_file_that_cannot_be_read_is_a_clear_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "binary.toml")


def test_insecure_listening_is_possible_when_written_down():
    text = '[http]\nlisten = "0.0.0.0:80"\n[security]\ninsecure_listen = true\n'
    assert parse(text).http.listen == "0.0.0.0:80"
