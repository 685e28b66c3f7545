"""The search for a method's hyper-parameters on a model (`encore tune`)."""
