"""GLUE (Wang et al., arXiv 1804.07461) for encoders under layer plans."""
