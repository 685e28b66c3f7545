"""What the pages share: state, widgets, charts and the style. Imports go encore_core → dashboard → pages."""
