"""What a model writes, measured: its spectrum under a frozen encoder, and how varied it is.

`writing` lets the model write from prompts, `completions` takes what the training samples itself,
and `diversity` counts n-grams and compresses, without any model.
"""
