"""Does an edited image show artifacts? Measures that stand in for the paper's vision-language judge.

``errors`` measures an image; ``round_trip`` and ``both`` set limits by ``unedited`` images and judge; ``deliberate``
and ``spots`` damage images on purpose, for validation and for choosing; ``own`` asks a judge of the user's.
"""
