"""CUDA kernels on the host: the very ``.cu`` files that ship, compiled by g++ and run on a CPU.

``HostDevice`` (``host_device.py``) is a ``coop_edge.kernels.device.Device`` whose arrays are NumPy arrays. The
backends that are written against ``Device`` therefore run unchanged: ``CudaRenderer(meshes, device=HostDevice())``.

How it works
------------
g++ compiles the ``.cu`` file with ``cuda_shim.h`` in front, which gives CUDA's words a host meaning. Blocks run one
after another. Within a block every CUDA thread that has to wait gets a stack of its own (a fiber); fibers are
switched at ``__syncthreads`` and at warp collectives only, in a fixed order, so results are exact and the same on
every run. A thread that never waits costs a function call. The library is cached by the content of everything that
went into it.

What a kernel has to look like
------------------------------
- ``extern "C" __global__ void name(...)`` in a ``.cu`` file; parameters are pointers, arithmetic scalars and
  structures of these (by value, at most 16 members, no arrays), which are given as NamedTuples.
  Templates and helpers go into ``.cuh`` files, which are found by ``#include "name.cuh"``.
- No ``#include <...>``: NVRTC has no host headers. Integer widths are spelt ``int``, ``unsigned``, ``long long``.
- Shared memory is static (``__shared__ float sums[256];``), declared in a plain function: inside a template it works,
  but is not filled with garbage (see below).
- ``__syncthreads`` is reached by all threads of the block, at one place in the source. CUDA lets threads that have
  returned stay away; here that is an error. So: no early ``return`` above a barrier.
- A warp collective is reached by exactly the lanes of its mask, at one place in the source. A shuffle reads from a
  lane of its mask. In a block whose size is no multiple of 32, lanes beyond the block are left out of the mask
  silently.
- No waiting on another thread by polling memory, no dynamic shared memory, no ``printf``.

What is caught
--------------
Each of these raises ``KernelError``, with the place in the source or the CUDA thread: barriers and collectives that
can never complete, lanes that read from lanes that take no part, undefined behaviour that UBSan sees (index outside an
array of known size, signed overflow, misaligned ``float4``, null pointers, a float cast to an integer that cannot hold
it: CUDA saturates there, other machines don't), writes outside the arrays of a launch (``guard=True``), segmentation
faults and stack overflows. Shared memory starts as garbage (bytes 0xCD) in every block, and so do arrays from
``device.xp.empty``. ``reverse=True`` runs blocks and threads in descending order: a result that changes has a race or
depends on the order.

What is not caught: reads slightly outside an array, data races that both orders happen to survive, endless loops, and
all that concerns speed.
"""
