"""Python's garbage collector, told what lives as long as the server.

Streamlit collects after every run of a page's script. That looks at every object there is: with torch, transformers and
plotly some 460,000, which takes 0.2 s on two cores, twice for every press of a button that starts work, while no other
thread can run. The libraries stay, so collections pass over them.
"""

from __future__ import annotations

import gc


def set_aside_what_lives() -> None:
    """Let later collections pass over all objects that are alive now; call it before there are visitors."""
    gc.collect()
    gc.freeze()


def look_through_what_was_set_aside() -> None:
    """Collect what has become garbage among it: a visitor who came while the libraries were read, and has left."""
    if gc.get_freeze_count():
        gc.unfreeze()
        set_aside_what_lives()
