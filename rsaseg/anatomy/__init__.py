"""Where things lie in a head: the brain's region, the ventricles, and lesions beside them."""

from rsaseg.anatomy.brain import brain_region
from rsaseg.anatomy.location import LOCATIONS, Anatomy, Place, find_anatomy, locate

__all__ = ["LOCATIONS", "Anatomy", "Place", "brain_region", "find_anatomy", "locate"]
