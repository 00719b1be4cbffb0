"""What all benchmarks of erasure share.

From the ground up: ``storage`` keeps results, ``prompts`` says what is asked for, ``outcomes`` counts what the judges
see, ``facts`` says how it was made, ``tables`` prints or writes it, ``settings`` spells a way to erase, ``world`` has
the model and its judges, and ``runs`` puts them together.
"""
