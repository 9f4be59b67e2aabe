"""Accelerators: published peak figures, dense bfloat16, links counted one way; none measured here.

The network is assumed to be one adapter of 400 Gbit/s per device, of 200 Gbit/s for the A100.
"""

from typing import NamedTuple


class Chip(NamedTuple):
    """The peak figures of one device.

    Attributes:
      flops: FLOP/s of dense bfloat16 matrix products.
      memory: bytes.
      bandwidth: of its memory, bytes/s.
      link: bytes/s to the devices of its domain.
      domain: devices that `link` connects: a node, a slice.
      network: bytes/s to all other devices.
      source: the product that the figures are published for.
    """

    flops: float
    memory: float
    bandwidth: float
    link: float
    domain: int
    network: float
    source: str


CHIPS = {
    "a100": Chip(312e12, 80e9, 2.039e12, 300e9, 8, 25e9, "NVIDIA A100 80GB SXM, DGX A100"),
    "h100": Chip(989e12, 80e9, 3.35e12, 450e9, 8, 50e9, "NVIDIA H100 SXM, DGX H100"),
    "h200": Chip(989e12, 141e9, 4.8e12, 450e9, 8, 50e9, "NVIDIA H200 SXM, DGX H200"),
    "b200": Chip(2250e12, 180e9, 8.0e12, 900e9, 8, 50e9, "NVIDIA DGX B200"),
    "mi300x": Chip(1307e12, 192e9, 5.3e12, 448e9, 8, 50e9, "AMD Instinct MI300X, OAM platform"),
}
