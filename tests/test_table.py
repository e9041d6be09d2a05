"""The URLs of one process: what is put there, found, and leaves."""

from hypothesis import given
from hypothesis import strategies as st

from presign_middleware.local import Entry, Service, Table
from presign_middleware.metrics import Counts, Tally
from presign_middleware.objects import S3Object
from presign_middleware.policy import FOREVER

SERVICE = Service(0.0, 1.0, 2.0, 3.0, "lifetime", FOREVER)

#: Numbers of objects, and whether each is found by its text too.
pages = st.lists(
    st.lists(st.tuples(st.integers(0, 12), st.booleans()), unique_by=lambda pair: pair[0], max_size=8)
)


def entry(number: int) -> Entry:
    """Return a new URL of the object of that *number*."""
    obj = S3Object.of("media", "media", "", f"{number}", "GET", (), 3600)
    return SERVICE.entry(obj, f"https://media/{number}", 0, 0.0, Tally())


def found(table: Table) -> object:
    """Return all that *table* finds, by object and by text, and what leaves it next."""
    by_text = {number: one.object for number in range(13) if (one := table.by_alias(f"s3://media/{number}"))}
    held = [(obj, one.alias, one.used) for obj in table._queue if (one := table.get(obj)) is not None]
    return by_text, held, len(table), len(table._aliases)


@given(pages, st.integers(1, 10))
def test_many_are_put_as_each_would_be(pages: list[list[tuple[int, bool]]], size: int) -> None:
    """Whether there is room for all of them, some are held already, or some have no text that names them."""
    together, alone = Table(size, Counts()), Table(size, Counts())
    for page in pages:
        aliases = [f"s3://media/{number}" if is_named else None for number, is_named in page]
        together.put_all([entry(number) for number, _ in page], aliases)
        for (number, _), alias in zip(page, aliases, strict=True):
            alone.put(entry(number), alias)
        assert found(together) == found(alone)
        assert len(together) <= size
