"""Names for runs that were given none, like `gallant-water-62`."""

from __future__ import annotations

import secrets

_ADJECTIVES = (
    "amber ancient autumn bold brave bright brisk calm candid clear clever cosmic crimson crisp curious daring "
    "deep eager early earnest electric fair fearless floral frosty gallant gentle giddy glad golden graceful "
    "grand hardy hidden honest humble jolly keen kind late light lively lucky lunar mellow merry mild misty "
    "modest morning noble olive patient playful polar polished proud quick quiet rapid rare ruby rustic sandy "
    "scarlet serene sharp shy silent silver sincere smooth snowy solar spring steady still stoic sunny swift tidy "
    "tranquil upbeat vivid warm whole wild winter wise witty young zesty"
).split()
_NOUNS = (
    "anchor aspen aurora badger bay beacon birch bird bloom breeze bridge brook canyon cedar cliff cloud comet "
    "coral creek dawn deer delta dew dune dusk eagle ember falcon feather fern field finch fire firefly fjord "
    "flower fog forest fox frost garden glacier glade grove harbor hare haven hawk heron hill island juniper "
    "lagoon lake lantern lark leaf lily lynx maple meadow mist moon moss mountain oak ocean orchard otter owl "
    "peak pebble pine planet pond prairie rain raven reef ridge river robin sea shore sky snow sound sparrow star "
    "stone storm stream summit sun swan thunder tide trail tree valley violet water wave willow wind wolf wood"
).split()


def generate_name() -> str:
    """Return a name of an adjective, a noun and a number from the operating system's randomness."""
    return f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_NOUNS)}-{secrets.randbelow(99) + 1}"
