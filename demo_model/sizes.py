"""The sizes of the demo model's images and latents; nothing else in the repository writes them down."""

FACTOR = 8  # pixels of an image for each cell of its latent, along either side
LATENT_CHANNELS = 4
SIDE = 256  # pixels
GRID = SIDE // FACTOR  # cells of the latent
