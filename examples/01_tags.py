"""Tags: a pointer is 16 bytes and one bit, and no bytes in the world can set the bit.

Memory has a tag for each granule of 16 bytes. Storing a capability sets it; whatever else changes the bytes clears it,
whoever does so. What is loaded without a tag can be looked at, and never be used. (cheribsd:D10)

    stored and loaded: tag                               True
    its bytes, copied as data: tag                       False
    and yet they are the same bytes                      True
    copied as capabilities are: tag                      True
    one of its bytes changed and changed back: tag       False
    changed by a plain store, past the library: tag      False
    used without a tag                                   TagViolation
    made up from its address                             TypeError
"""

import capshm
from capshm import cheribsd as bsd
from course import expect, show

with capshm.Machine():
    memory, secret = bsd.malloc(64), bsd.malloc(32)

    memory.store_capability(0, secret)
    show("stored and loaded: tag", memory.load_capability(0).tag, True)

    memory.write(16, memory.read(0, 16))  # as a program does that knows nothing of capabilities
    show("its bytes, copied as data: tag", memory.load_capability(16).tag, False)
    show("and yet they are the same bytes", memory.read(16, 16) == memory.read(0, 16), True)

    memory.copy_to(memory + 32, 16)  # as memcpy, which moves whole granules by capability loads and stores
    show("copied as capabilities are: tag", memory.load_capability(32).tag, True)

    last = memory.read(47, 1)
    memory.write(47, bytes([last[0] ^ 1]))
    memory.write(47, last)
    show("one of its bytes changed and changed back: tag", memory.load_capability(32).tag, False)

    memory.view(0, 16, writable=True)[15] ^= 1  # as NumPy would, or another program
    dead = memory.load_capability(0)
    show("changed by a plain store, past the library: tag", dead.tag, False)

    with expect(capshm.TagViolation, "used without a tag"):
        dead.read(0, 1)
    try:
        capshm.Capability(secret.address)
    except TypeError as error:
        show("made up from its address", type(error).__name__, "TypeError")
    else:
        raise AssertionError("a capability was made up")
