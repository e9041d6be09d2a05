"""What ``shared=`` may say, and in which words the rest is refused. Bad input is told at start-up."""

import ssl
from pathlib import Path
from typing import Any, Final

import pytest
from memcacheds import Authority

from presign_middleware import ConfigurationError, Origin, Presigner
from presign_middleware.addresses import Address, Addresses

ELSEWHERE: Final = "10.0.0.1:11211"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.parametrize(
    ("setting", "servers"),
    [
        ("memcached://localhost:11211", [("localhost", 11211)]),
        ("memcached://localhost", [("localhost", 11211)]),
        ("MEMCACHED://Cache_1.Internal/", [("cache_1.internal", 11211)]),
        ("memcached://[::1]:1/", [("::1", 1)]),
        ("memcached://[::1]", [("::1", 11211)]),
        ("memcached://10.0.0.1:65535", [("10.0.0.1", 65535)]),
        ("memcached://cache.1,a-b.internal.", [("cache.1", 11211), ("a-b.internal.", 11211)]),
        ("memcached://a,b:1,[2001:DB8::1]:2", [("a", 11211), ("b", 1), ("2001:db8::1", 2)]),
        ("memcached:///run/memcached.sock", [("/run/memcached.sock", None)]),
        (
            "memcached:///run/a.sock,/run/b%2Cc.sock,d",
            [("/run/a.sock", None), ("/run/b,c.sock", None), ("d", 11211)],
        ),
        ("memcacheds://a,b:1", [("a", 11211), ("b", 1)]),
        ("elasticache://x.cfg.use1.cache.amazonaws.com", [("x.cfg.use1.cache.amazonaws.com", 11211)]),
        ("elasticaches://x.cfg:1", [("x.cfg", 1)]),
    ],
)
def test_what_is_understood(setting: str, servers: list[Any]) -> None:
    """M7: servers, unix sockets, TLS and ElastiCache; the port may be left out; names are in lower case."""
    found = Addresses.parse(setting)
    assert list(found.servers) == servers
    assert (found.tls is not None) == ("s:" in setting)
    assert found.are_discovered == setting.startswith("elasticache")


def test_names_of_servers() -> None:
    """M7: a server is called as it would be written."""
    texts = ["a:1", "[::1]:2", "/run/a.sock"]
    assert [str(Address.parse(text)) for text in texts] == texts


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("", "''"),
        ("localhost", "'localhost'"),
        ("localhost:11211", "'localhost:11211'"),
        ("http://localhost:11211", "'http://localhost:11211'"),
        ("unix:///run/a.sock", "'unix:///run/a.sock'"),
        ("memcached:localhost", "'memcached:localhost'"),
        ("memcached://", "server '' is neither host:port nor"),
        ("memcached://:11211", "':11211'"),
        ("memcached://localhost:port", "'localhost:port'"),
        ("memcached://localhost:", "'localhost:'"),
        ("memcached://localhost:-1", "'localhost:-1'"),
        ("memcached://localhost:٣", "'localhost:٣'"),
        ("memcached://localhost:0", "'localhost:0' has a port that is not 1 to 65535"),
        ("memcached://localhost:99999", "'localhost:99999' has a port"),
        ("memcached://localhost:" + "9" * 5_000, "'localhost:999"),
        ("memcached://localhost:11211/1", "'localhost:11211/1'"),
        ("memcached://::1:11211", "'::1:11211'"),
        ("memcached://[::1:11211", "'[::1:11211'"),
        ("memcached://[::g]:11211", "'[::g]:11211' has no IPv6 address"),
        ("memcached://local host:11211", "'local host:11211'"),
        ("memcached://a,.", "'.' has neither the name of a host nor an IPv4 address"),
        ("memcached://a..b:1", "'a..b:1' has neither"),
        ("memcached://-a", "'-a' has neither"),
        ("memcached://" + "a" * 64, "has neither"),
        ("memcached://" + "a." * 127 + "a", "has neither"),
        ("memcached://10.0.0.256:1", "'10.0.0.256:1' has neither"),
        ("memcached://10.0.1", "'10.0.1' has neither"),
        ("memcached://local\nhost:11211", r"'local\nhost:11211'"),
        ("memcached://a:1,b:0,c:1", "'b:0'"),
        ("memcached://a:1, b:1", "' b:1'"),
        ("memcached://a:1,,b:1", "server ''"),
        ("memcached://a:1,", "server ''"),
        ("memcached://a:1,b,A:1", "'a:1' twice"),
        ("memcached:///", "'/' is no path of a unix socket"),
        ("memcached:///run/", "'/run/' is no path"),
        ("memcached:///run/a%00b", "'/run/a%00b' is no path"),
        ("memcached:///" + "a" * 107, "is no path of a unix socket, 107 bytes"),
        ("memcacheds:///run/a.sock", "'/run/a.sock': a unix socket"),
        ("elasticache:///run/a.sock", "'/run/a.sock': a unix socket"),
        ("elasticache://a,b", "2 servers; elasticache:// has one"),
        ("memcached://a?cafile=/x", "option cafile, which memcached:// has not"),
        ("elasticache://a?verify=none", "option verify, which elasticache:// has not"),
        ("memcacheds://a?timeout=1", "option 'timeout'; there are cafile, certfile, keyfile, verify"),
        ("memcacheds://a?verify", "option ''"),
        ("memcacheds://a?verify=full&verify=ca", "an option twice"),
        ("memcacheds://a?verify=yes", "verify='yes'; wanted one of full, ca, none"),
        (
            "memcacheds://a?cafile=/no/such.pem",
            "cafile='/no/such.pem', which cannot be used: FileNotFoundError",
        ),
        ("memcacheds://a?cafile=", "option cafile without a value"),
        ("memcacheds://a?certfile=/no/such.pem", "certfile='/no/such.pem', which cannot be used"),
        ("memcacheds://a?keyfile=/no/such.pem", "a keyfile without its certfile"),
        (f"memcacheds://a?verify=none&cafile={__file__}", "a cafile, which verify=none does not use"),
        (f"memcacheds://a?cafile={__file__}", "which cannot be used: SSLError"),
        (b"memcached://localhost:11211", "got bytes"),
        (11211, "got int"),
        (["memcached://localhost:11211"], "got list"),
    ],
    ids=lambda text: repr(text)[:40],
)
def test_what_is_refused(setting: Any, named: str) -> None:
    """M7: a ConfigurationError names the server, port, option or file that cannot work, briefly."""
    with pytest.raises(ConfigurationError, match=r"^shared ") as found:
        Presigner(Origin("media", bucket="acme-media", region="eu-west-1"), shared=setting)
    assert named in str(found.value)
    assert len(str(found.value)) < 400


@pytest.mark.parametrize(
    "setting",
    [
        "memcached://user:pa55word@localhost:11211",
        "http://user:pa55@pa55word@h",
        "user:pa55word@localhost",
        "memcached://a:1,user:pa55word@b:1",
        "memcached://user:pa55,word@b:1",
        "memcached://user:pa55/word@b:1",
        "memcached://user:pa55?word@b:1",
        "memcacheds://user:pa55@a:0",
        "memcacheds://a?password=pa55",
        "memcache://a?password=pa55",
        "memcacheds://a?pa55&pa55",
    ],
)
def test_passwords_are_not_repeated(setting: str) -> None:
    """L1: a password in shared= has no meaning, is refused, and is not in the message."""
    with pytest.raises(ConfigurationError) as found:
        Addresses.parse(setting)
    assert "pa55" not in str(found.value)
    assert found.value.__cause__ is None


def test_an_encrypted_key_does_not_ask_for_its_password(authority: Authority, tmp_path: Path) -> None:
    """M7: a key that wants a password is refused; nobody is asked on the terminal."""
    from cryptography.hazmat.primitives import serialization

    certificate, key = authority.certify("a")
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ConfigurationError, match=r"certfile=.*cannot be used"):
        Addresses.parse(f"memcacheds://a?certfile={certificate}&keyfile={key}")


@pytest.mark.parametrize(
    ("verify", "checks_name", "mode"),
    [("full", True, ssl.CERT_REQUIRED), ("ca", False, ssl.CERT_REQUIRED), ("none", False, ssl.CERT_NONE)],
)
def test_what_is_verified(verify: str, checks_name: bool, mode: ssl.VerifyMode) -> None:
    """M7: by default certificate and name are verified; it takes a word to have less."""
    found = Addresses.parse(f"memcacheds://a?verify={verify}").tls
    assert found is not None
    assert (found.check_hostname, found.verify_mode) == (checks_name, mode)
    default = Addresses.parse("memcacheds://a").tls
    assert default is not None
    assert (default.check_hostname, default.verify_mode) == (True, ssl.CERT_REQUIRED)


def test_the_environment_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """M7: PRESIGN_SHARED is what shared= is, and its errors are told as early."""
    monkeypatch.setenv("PRESIGN_ORIGINS", "s3://acme-media/?region=eu-west-1")
    monkeypatch.setenv("PRESIGN_SHARED", "memcached://a,b:0")
    with pytest.raises(ConfigurationError, match="'b:0'"):
        Presigner.from_env()
