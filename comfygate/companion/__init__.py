"""What the backends that we start load: a folder of custom nodes for ``--extra-model-paths-config``."""
