"""
Takes dashboard-light.webp and dashboard-dark.webp: the page of three processes under load, by Chromium.

    python docs/pictures/dashboard.py
"""

import random
import sys
import time
from pathlib import Path
from threading import Event, Thread

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "tests"))

from dashboards import CHROMIUM, Browser, Serving  # noqa: E402  # which are not installed

from presign_middleware.testing import Memcached  # noqa: E402

#: Seconds of load: six slots of the chart and more.
LOAD = 100


def load(process: Serving, closing: Event) -> None:
    """Have *process* hand out URLs of objects some of which are asked for more often than others."""
    chance = random.Random(process.pid)
    while not closing.wait(0.1):
        process.sign(chance.randrange(10, 60), int(chance.paretovariate(0.8)) * 5 % 5000)


def main() -> None:
    """Take the pictures."""
    if CHROMIUM is None:
        sys.exit("there is no Chromium here, so the pictures of the dashboard stay as they are")
    with Memcached() as memcached:
        shared = f"memcached://{memcached.address}"
        closing = Event()
        with Serving(shared) as one, Serving(shared, shown="publish") as two, Serving(shared) as three:
            threads = [Thread(target=load, args=(each, closing)) for each in (one, two, three)]
            for thread in threads:
                thread.start()
            time.sleep(LOAD)
            with Browser() as browser:
                for scheme, width, height in (
                    ("light", 1200, 1000),
                    ("dark", 1200, 1000),
                    ("dark", 360, 780),
                ):
                    browser.open(one.base, width=width, height=height, scheme=scheme)
                    name = "dashboard-narrow" if width < 600 else f"dashboard-{scheme}"
                    (HERE / f"{name}.webp").write_bytes(browser.picture())
            closing.set()
            for thread in threads:
                thread.join()


if __name__ == "__main__":
    main()
