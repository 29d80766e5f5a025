"""A process with no descriptor to spare maps the store's memory, or gets an error that says why; it never ends."""

from __future__ import annotations

import mmap
import os
import resource

from ray_zerocopy import core, errors

SIZE = 1 << 20

limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))


def take_all() -> list[int]:
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        return taken


taken = take_all()
try:
    core._call("FormatVersion")
except core.Scarce as error:
    assert "ulimit -n" in str(error), error
else:
    raise AssertionError("the core was loaded")
for descriptor in taken:
    os.close(descriptor)
core._call("FormatVersion")
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (256, limits[1]), "Go has raised the limit of open files"

file = os.memfd_create("plasma")
os.truncate(file, SIZE)
store = mmap.mmap(file, SIZE)
store[:4] = b"data"
start = core.address(core.np.frombuffer(store, core.np.uint8))

taken = take_all()
core._call("Sleep", 1)  # has Go set a timer, as its runtime does by itself now and then

outcomes = []
for _ in range(6):
    for mode in (core.COPY_ON_WRITE, core.READ_ONLY):
        mapping = core.Mapping()
        try:
            address = mapping.map(start, SIZE, 0, mode)
        except errors.MappingError as error:
            assert isinstance(error, core.Scarce), error
            assert "too many open files" in str(error), error
            outcomes.append("refused")
        else:
            assert bytes(core.view(address, 4, mapping)) == b"data"
            outcomes.append("mapped")
    os.close(taken.pop())
assert outcomes[0] == "refused" and outcomes[-2:] == ["mapped", "mapped"], outcomes
print(outcomes)
