"""Python's garbage collector, told what lives as long as the server.

Streamlit collects after every run of a page's script. That looks at every object there is: with torch, transformers and
plotly some 460,000, which takes 0.2 s on two cores, twice for every press of a button that starts work, while no other
thread can run. What is alive once a model is loaded mostly stays, so collections pass over it.
"""

from __future__ import annotations

import gc


def set_aside_what_lives() -> None:
    """Let later collections pass over all objects that are alive now.

    What was set aside earlier and has become garbage since is collected first. A model is no such garbage: it is freed
    when nobody refers to it any more, whatever the collector does. A visitor who has left may be, until the next call:
    after edits the device queue makes one when it is idle, and a full server before it turns anybody away.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
