"""An edited model as an ordinary transformers folder (`folder`), with a model card (`card`)."""
