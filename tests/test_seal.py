"""Seals: what opens one, what does not, and which secrets make none."""

import hashlib
import hmac
import logging
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from presign_middleware import ConfigurationError, Presigner
from presign_middleware.seal import Seal, tell_if_in_clear
from presign_middleware.testing import Clock

SECRET: Final = "a-secret-of-the-tests-and-nobody-else"
OTHER: Final = b"another secret, of thirty-two bytes or more"

KEY: Final = "p1:" + "5e" * 32
DATA: Final = b"1 1767268800 AKIATEST " + b"a5" * 32

#: Noon of 2026-01-01, day 20454.
NOON: Final = 1_767_268_800
DAY: Final = 86_400

texts: Final = st.text(st.characters(exclude_categories=["Cs"]))


def seal(secret: Any = SECRET, now: float = NOON) -> Seal:
    return Seal(secret, Clock(now))


# What opens.


@given(texts, st.binary())
def test_what_was_sealed(key: str, data: bytes) -> None:
    """K5: whatever was sealed for a key comes out again under that key, in another process too."""
    assert seal().unseal(key, seal().seal(key, data)) == data


@given(texts, texts)
def test_under_another_key(key: str, other: str) -> None:
    """K5: what was sealed for one key opens under no other."""
    assert (seal().unseal(other, seal().seal(key, DATA)) == DATA) is (key == other)


def test_altered_anywhere() -> None:
    """K5: with one bit flipped, wherever it is, nothing opens."""
    one = seal()
    sealed = one.seal(KEY, DATA)
    for at in range(len(sealed)):
        for bit in range(8):
            altered = bytes([*sealed[:at], sealed[at] ^ (1 << bit), *sealed[at + 1 :]])
            assert one.unseal(KEY, altered) is None, (at, bit)


def test_cut_anywhere() -> None:
    """K5: with an end cut off or something put on, nothing opens."""
    one = seal()
    sealed = one.seal(KEY, DATA)
    for at in range(len(sealed)):
        assert one.unseal(KEY, sealed[:at]) is None
        assert at == 0 or one.unseal(KEY, sealed[at:]) is None
    assert one.unseal(KEY, sealed + b"\0") is None


@given(st.binary(max_size=100) | st.binary(max_size=100).map(lambda data: b"s\0O\xe6" + data))
def test_anything_else(data: bytes) -> None:
    """K5: what nobody sealed does not open, and raises nothing."""
    assert seal().unseal(KEY, data) is None


def test_what_is_in_clear() -> None:
    """K5: what is not sealed does not open."""
    assert seal().unseal(KEY, DATA) is None


@pytest.mark.parametrize("other", [OTHER, SECRET.encode() + b"\0", SECRET.upper()])
def test_another_secret(other: bytes | str) -> None:
    """K5: what was sealed with one secret does not open with another."""
    assert seal(other).unseal(KEY, seal().seal(KEY, DATA)) is None


def test_text_and_bytes() -> None:
    """K5: a secret that is text is its UTF-8."""
    for text in (SECRET, "ß" * 15 + "äö"):
        assert seal(text.encode()).unseal(KEY, seal(text).seal(KEY, DATA)) == DATA


# How it is sealed.


def test_the_form_of_a_seal() -> None:
    """K5: a seal is version, day and nonce in clear, then AES-GCM; its key is HKDF of secret and day."""
    sealed = seal().seal(KEY, DATA)
    header, nonce, ciphertext = sealed[:4], sealed[4:16], sealed[16:]
    assert header == b"s" + (NOON // DAY).to_bytes(3, "big")
    extracted = hmac.digest(bytes(32), SECRET.encode(), "sha256")  # RFC 5869, written out
    derived = hmac.digest(extracted, b"presign-middleware " + header + b"\x01", hashlib.sha256)
    assert AESGCM(derived).decrypt(nonce, ciphertext, header + KEY.encode()) == DATA


def test_a_seal_of_an_earlier_version() -> None:
    """K5: what version s has sealed opens for ever; another form needs another version."""
    sealed = bytes.fromhex(
        "73004fe6000102030405060708090a0b65ffe14e1c055dec70aca35a0b9b61915b026f8b9a91a972f57d6b41"
    )
    assert seal().unseal(KEY, sealed) == b"1 1767268800"


@given(st.binary(max_size=2_000))
def test_its_size(data: bytes) -> None:
    """K5: a seal adds 32 bytes."""
    assert len(seal().seal(KEY, data)) == len(data) + 32


def test_no_two_are_alike() -> None:
    """K5: each seal has a nonce of its own, so the same data never looks the same."""
    one = seal()
    assert len({one.seal(KEY, DATA)[4:16] for _ in range(1_000)}) == 1_000


def test_it_hides_what_it_holds() -> None:
    """K5: no four bytes of what was sealed can be read."""
    sealed = seal().seal(KEY, DATA)
    assert [DATA[at : at + 4] for at in range(len(DATA) - 3) if DATA[at : at + 4] in sealed] == []


# Days.


@pytest.mark.parametrize(
    ("days", "opens"), [(-2, False), (-1, True), (0, True), (1, True), (7, True), (8, False), (9_999, False)]
)
def test_for_how_long(days: int, opens: bool) -> None:
    """K5: a seal opens for the seven days that a URL can live, and a day early where clocks differ."""
    sealed = seal().seal(KEY, DATA)
    assert (seal(now=NOON + days * DAY).unseal(KEY, sealed) == DATA) is opens


def test_a_day_has_a_key_of_its_own() -> None:
    """K5: what was sealed before midnight UTC opens after it, and does not as if it were of the next day."""
    midnight = NOON + DAY // 2
    before, after = seal(now=midnight - 1), seal(now=midnight)
    sealed, later = before.seal(KEY, DATA), after.seal(KEY, DATA)
    assert after.unseal(KEY, sealed) == before.unseal(KEY, later) == DATA
    assert sealed[:4] != later[:4]
    assert after.unseal(KEY, later[:4] + sealed[4:]) is None


def test_keys_are_bounded() -> None:
    """K5: derived keys are kept, for the days in use and no more, whatever days strangers write."""
    clock = Clock(NOON)
    one = Seal([SECRET, OTHER], clock)
    for _ in range(50):
        one.seal(KEY, DATA)
        for day in range(100):
            one.unseal(KEY, b"s" + (int(clock.time()) // DAY - 50 + day).to_bytes(3, "big") + bytes(60))
        assert len(one._ciphers) <= 9
        clock.advance(DAY)


def test_keys_are_derived_once() -> None:
    """K5: one key serves a day, for all that is sealed and opened on it."""
    one = seal()
    sealed = one.seal(KEY, DATA)
    (ciphers,) = one._ciphers.values()
    one.unseal(KEY, sealed)
    one.seal("another", DATA)
    assert [*one._ciphers.values()] == [ciphers]
    assert one._ciphers[sealed[:4]] is ciphers


def test_threads() -> None:
    """K5: any number of threads use one seal, and those that derive a day's key at once derive the same."""
    clock = Clock(NOON)
    one = Seal([SECRET, OTHER], clock)

    def use(number: int) -> bool:
        sealed = one.seal(f"{KEY}{number}", DATA)
        clock.advance(DAY / 200)  # five days in all: whoever is held up between the two lines can still open
        return one.unseal(f"{KEY}{number}", sealed) == DATA

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(1_000)))


# Rotation.


def test_the_first_seals() -> None:
    """K5: of several secrets the first one seals and each one opens."""
    both = seal([SECRET, OTHER])
    assert seal(SECRET).unseal(KEY, both.seal(KEY, DATA)) == DATA
    assert seal(OTHER).unseal(KEY, both.seal(KEY, DATA)) is None
    for secret in (SECRET, OTHER):
        assert both.unseal(KEY, seal(secret).seal(KEY, DATA)) == DATA


@pytest.mark.parametrize("order", [list, tuple])
def test_both_orders(order: Callable[[Any], Any]) -> None:
    """K5: processes that have two secrets in different order open each other's seals."""
    one, other = seal(order([SECRET, OTHER])), seal(order([OTHER, SECRET]))
    assert other.unseal(KEY, one.seal(KEY, DATA)) == one.unseal(KEY, other.seal(KEY, DATA)) == DATA


# Secrets.

MEDIA: Final = "media=s3://acme-media/?region=eu-west-1"


def presigner(secret: Any) -> Presigner:
    return Presigner(MEDIA, shared="memcached://127.0.0.1:1", secret=secret)


@pytest.mark.parametrize(
    "secret", ["x" * 31 + "y", b"x" * 31 + b"y", [SECRET], (OTHER, SECRET), "ß" * 15 + "äö"]
)
def test_good_secrets(secret: Any) -> None:
    """K5: 32 bytes will do, as bytes or text, alone or in a sequence."""
    presigner(secret)


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("", "32 bytes or more"),
        (b"", "32 bytes or more"),
        ("Geheim-Geheim-Geheim-Geheim-Geh", "of 31"),
        (b"Geheim-Geheim-Geheim-Geheim-Geh", "of 31"),
        (["Geheim-Geheim-Geheim-Geheim-Geheim-Geheim", "Geheim"], "of 6"),
        ("Q" * 64, "one character"),
        (b"\0" * 32, "one character"),
        ([SECRET, "Q" * 64], "one character"),
        ([], "none"),
        ((), "none"),
        (0x47656865696D, "int"),
        (bytearray(b"Geheim" * 9), "int"),
        ([["Geheim" * 9]], "list"),
        ({"Geheim" * 9}, "set"),
        ({"Geheim" * 9: 1}, "dict"),
        ([None, "Geheim" * 9], "NoneType"),
        ("Geheim-\udcff", "of 10"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_bad_secrets(secret: Any, said: str) -> None:
    """K5, L1: what is no secret is a ConfigurationError that says what is wanted, and does not show it."""
    with pytest.raises(ConfigurationError, match="secret") as found:
        presigner(secret)
    text = "".join(traceback.format_exception(found.value))
    assert said in str(found.value)
    assert "token_hex" in str(found.value)
    assert found.value.__cause__ is None
    assert found.value.__context__ is None
    for hidden in ("Geheim", "QQQ", r"\x00", "\0", SECRET, str(0x47656865696D)):
        assert hidden not in text


def test_it_is_refused_without_a_shared_cache_too() -> None:
    """K5: a secret that cannot work is told of where nothing is shared yet, as in development."""
    with pytest.raises(ConfigurationError, match="secret"):
        Presigner(MEDIA, secret="short")


@pytest.fixture
def without_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)


@pytest.mark.usefixtures("without_cryptography")
def test_without_cryptography() -> None:
    """K5: where cryptography is missing a secret is a ConfigurationError that names the extra."""
    with pytest.raises(ConfigurationError, match=r"pip install presign-middleware\[crypto\]"):
        presigner(SECRET)


@pytest.mark.usefixtures("without_cryptography")
def test_nobody_else_needs_it() -> None:
    """K5: without a secret nothing asks for cryptography."""
    presigner(None)


def test_reprs() -> None:
    """L1: nothing that can be printed shows a secret."""
    one = presigner([SECRET, OTHER])
    assert repr(one) == "Presigner(media)"
    texts = [repr(one), repr(one._seal), repr(seal()), repr(one.stats()), repr(vars(one))]
    assert [text for text in texts if SECRET in text or OTHER.decode() in text] == []


# The environment.


def from_env(monkeypatch: pytest.MonkeyPatch, secret: str) -> Presigner:
    monkeypatch.setenv("PRESIGN_ORIGINS", MEDIA)
    monkeypatch.setenv("PRESIGN_SECRET", secret)
    return Presigner.from_env()


def test_a_secret_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """K5: PRESIGN_SECRET is one secret."""
    one = from_env(monkeypatch, SECRET)._seal
    assert one is not None
    assert Seal(SECRET, one._clock).unseal(KEY, one.seal(KEY, DATA)) == DATA


def test_secrets_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """K5: PRESIGN_SECRET is several secrets parted by spaces, the first of which seals."""
    one = from_env(monkeypatch, f"{SECRET}  {'b7' * 32}\n")._seal
    assert one is not None
    first, second = Seal(SECRET, one._clock), Seal("b7" * 32, one._clock)
    assert first.unseal(KEY, one.seal(KEY, DATA)) == one.unseal(KEY, second.seal(KEY, DATA)) == DATA


def test_a_changed_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """K5, S7: once the variable says something else another presigner is made, without the old keys."""
    old = from_env(monkeypatch, SECRET)._seal
    new = from_env(monkeypatch, "b7" * 32)._seal
    assert old is not None
    assert new is not None
    assert new.unseal(KEY, old.seal(KEY, DATA)) is None


@pytest.mark.parametrize("secret", ["", " ", "a pass phrase of many words which has 32 bytes", "Geheim"])
def test_bad_secrets_of_the_environment(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    """K5: a variable that is empty or too short is refused, and is not as if there were none."""
    with pytest.raises(ConfigurationError, match="PRESIGN_SECRET") as found:
        from_env(monkeypatch, secret)
    assert "phrase" not in str(found.value)
    assert "Geheim" not in str(found.value)


# Servers that others may read.


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "::1", "0:0:0:0:0:0:0:1", "localhost", "LocalHost"]
)
def test_this_machine(host: str, caplog: pytest.LogCaptureFixture) -> None:
    """K5: of a server on this machine nothing is said."""
    tell_if_in_clear(host, is_private=False)
    assert caplog.records == []


@pytest.mark.parametrize(
    "host",
    ["10.0.0.1", "0.0.0.0", "fe80::1", "cache.internal", "localhost.evil.com", "127.0.0.1.nip.io", "127"],
)
def test_the_network(host: str, caplog: pytest.LogCaptureFixture) -> None:
    """K5: a server that is elsewhere is told of in one WARNING, which names both cures."""
    tell_if_in_clear(host, is_private=False)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert vars(record)["presign_event"] == "shared_in_clear"
    assert vars(record)["presign_server"] == host
    for words in (host, "secret=", "memcacheds://"):
        assert words in record.getMessage()


def test_a_private_way(caplog: pytest.LogCaptureFixture) -> None:
    """K5: of TLS and unix sockets nothing is said."""
    tell_if_in_clear("10.0.0.1", is_private=True)
    assert caplog.records == []
