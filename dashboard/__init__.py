"""What the pages share: state, widgets, charts and the look. Imports go encore_core → dashboard → pages."""
