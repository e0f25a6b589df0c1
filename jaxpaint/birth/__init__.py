"""The birth of an induction head: Bietti et al., "Birth of a Transformer: A Memory Viewpoint" (arXiv 2306.00802).

A small model learns to copy what followed a token earlier in the text, while what its matrices store is read off them
step by step: `data` makes the texts, `model` and `general` run, `ideal` writes the matrices down, `probes` and
`behaviour` measure, `train` trains many arms at once, `findings` says which of the paper's claims hold.
"""
