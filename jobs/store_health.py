"""Whether a store can be written to in the way that a run needs."""

import uuid

from mmcsal_core.credentials import mask_credentials
from mmcsal_core.filesystems import is_local, store_errors
from mmcsal_core.settings import Settings
from mmcsal_core.storage import Store


class StoreHealth(Settings):
    """What a store can do. Without conditional writes two runs on one output are not kept apart."""

    url: str
    writable: bool
    conditional_writes: bool
    problem: str | None = None


def probe_store(store: Store) -> StoreHealth:
    """Write, read and delete a probe file, and try whether put-if-absent is honoured."""
    name = f"_probe-{uuid.uuid4().hex}"
    try:
        first = store.create_bytes(name, b"probe")
        second = store.create_bytes(name, b"probe again")
        readable = store.read_bytes(name) == b"probe"
        store.remove(name)
    except store_errors() as error:
        problem = mask_credentials(f"{type(error).__name__}: {error}")
        return StoreHealth(url=store.url, writable=False, conditional_writes=False, problem=problem)
    return StoreHealth(url=store.url, writable=first, conditional_writes=first and not second and readable)


def warn_of_store(store: Store) -> str | None:
    """Return why two runs on one output would not be kept apart in a store, None where they would or where it is local.

    Some imitations of S3 accept the condition of a conditional PUT and ignore it.
    """
    if is_local(store.url):
        return None
    health = probe_store(store)
    if not health.writable or health.conditional_writes:
        return None  # what cannot be written to fails by itself, with the store's own words
    return (
        f"{store.url} ignores the condition of a put-if-absent, so that it cannot keep two runs on one output apart; "
        "make sure that no other run writes there"
    )
