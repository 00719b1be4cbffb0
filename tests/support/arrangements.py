"""Ways in which nodes ask the model for several prompts, images and tiles: guiders, wrappers, windows.

A guider case makes a guider of a model; a wrapper case puts something between ComfyUI and the model, as packs do. What
each row of a call truly is, the tests read from the text embedding that came with it.
"""

import torch

PROMPTS = {"cat": "A cat image in photo style", "dog": "A dog image in comic style", "nothing": ""}


def encode(clip, text):
    """A conditioning, as CLIP Text Encode makes it."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def guider_of(model, conds, order, scales):
    """A guider with prompts by role that asks for them in some order and adds them up with some scales."""
    import comfy.samplers

    class Ordered(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options=None, seed=None):
            asked = [self.conds[role] for role in order]
            results = comfy.samplers.calc_cond_batch(self.inner_model, asked, x, timestep, model_options)
            return sum(scale * result for scale, result in zip(scales, results, strict=True))

    guider = Ordered(model)
    guider.inner_set_conds(conds)
    return guider


def dual(style, first, second):
    """ComfyUI's own guider of two positive prompts, with the positive one at place 2."""

    def make(model, prompts):
        from comfy_extras.nodes_custom_sampler import DualCFGGuider

        return DualCFGGuider.execute(model, prompts[first], prompts[second], prompts["nothing"], 4.5, 2.0, style)[0]

    return make


def ordered(*order):
    """Prompts asked for in some order: "+cat" is a positive one, "-nothing" the negative one."""

    def make(model, prompts):
        names = {name: "negative" if name[0] == "-" else f"positive {i}" for i, name in enumerate(order)}
        conds = {role: prompts[name[1:]] for name, role in names.items()}
        scales = [-1.0 if name[0] == "-" else 2.0 / (len(order) - 1) for name in order]
        return guider_of(model, conds, list(names.values()), scales)

    return make


def plain(model, prompts):
    """ComfyUI's own guider of a KSampler."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(prompts["cat"], prompts["nothing"])
    guider.set_cfg(4.5)
    return guider


GUIDERS = {
    "KSampler": plain,
    "positive, negative": ordered("+cat", "-nothing"),
    "negative, positive": ordered("-nothing", "+cat"),
    "positive first of three": ordered("+cat", "+dog", "-nothing"),
    "negative between": ordered("+dog", "-nothing", "+cat"),
    "negative first of three": ordered("-nothing", "+dog", "+cat"),
    "DualCFG, cat first": dual("regular", "cat", "dog"),
    "DualCFG, cat second": dual("regular", "dog", "cat"),
    "nested DualCFG": dual("nested", "cat", "dog"),
}


def wrapped(function):
    """A case that puts a model_function_wrapper on a model."""

    def put(model):
        model = model.clone()
        model.set_model_unet_function_wrapper(function)
        return model

    return put


def parts_of(c, rows):
    """The conditioning of some rows."""
    return {
        key: value[rows] if torch.is_tensor(value) and value.ndim and len(value) > max(rows) else value
        for key, value in c.items()
    }


def row_by_row(apply, args):
    x, t, c = args["input"], args["timestep"], args["c"]
    return torch.cat([apply(x[[i]], t[[i]], **parts_of(c, [i])) for i in range(len(x))])


def two_by_two(apply, args):
    """Every second row together, so that neither call holds what its length suggests."""
    x, t, c = args["input"], args["timestep"], args["c"]
    out = torch.zeros_like(x)
    for start in (0, 1):
        rows = list(range(start, len(x), 2))
        out[rows] = apply(x[rows], t[rows], **parts_of(c, rows))
    return out


def reversed_rows(apply, args):
    """As many rows as before, in another order."""
    rows = list(reversed(range(len(args["input"]))))
    result = apply(args["input"][rows], args["timestep"][rows], **parts_of(args["c"], rows))
    return result[rows]


def tiles_of(x):
    """Two halves, left and right."""
    return x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]


def tile_major(apply, args):
    """Both tiles in one call: all rows of the left one, then all of the right one."""
    x, t, c = args["input"], args["timestep"], args["c"]
    rows = list(range(len(x))) * 2
    left, right = apply(torch.cat(tiles_of(x)), t[rows], **parts_of(c, rows)).chunk(2)
    return torch.cat([left, right], -1)


def image_major(apply, args):
    """Both tiles of the first row, then both of the second."""
    x, t, c = args["input"], args["timestep"], args["c"]
    rows = [i for i in range(len(x)) for _ in range(2)]
    result = apply(torch.stack(tiles_of(x), 1).flatten(0, 1), t[rows], **parts_of(c, rows))
    return torch.cat([result[::2], result[1::2]], -1)


def tile_after_tile(apply, args):
    x, t, c = args["input"], args["timestep"], args["c"]
    return torch.cat([apply(tile.contiguous(), t, **c) for tile in tiles_of(x)], -1)


def twice(apply, args):
    """The same question twice, the second time of the mirrored image."""
    x, t, c = args["input"], args["timestep"], args["c"]
    return (apply(x, t, **c) + apply(x.flip(-1), t, **c).flip(-1)) / 2


def same_again(apply, args):
    """A wrapper that passes everything on."""
    return apply(args["input"], args["timestep"], **args["c"])


def other_prompt(apply, args):
    """What is asked is a prompt that the guider does not have."""
    c = {**args["c"], "c_crossattn": args["c"]["c_crossattn"] * 1.5}
    return apply(args["input"], args["timestep"], **c)


def sliding(model):
    """Windows of two images that do not announce themselves."""
    import comfy.samplers

    def windows(args):
        x, conds = args["input"], args["conds"]
        outs = [torch.zeros_like(x) for _ in conds]
        for start in range(0, len(x), 2):
            part = slice(start, start + 2)
            found = comfy.samplers.calc_cond_batch(
                args["model"], conds, x[part], args["sigma"][part], args["model_options"]
            )
            for out, result in zip(outs, found, strict=True):
                out[part] = result
        return outs

    model = model.clone()
    model.model_options["sampler_calc_cond_batch_function"] = windows
    return model


def walks_the_blocks(apply, args):
    """Calls the UNet's layers itself, as DeepCache-like nodes do, and never its forward."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import forward_timestep_embed, timestep_embedding

    base, x, t, c = apply.__self__, args["input"], args["timestep"], args["c"]
    unet, options = base.diffusion_model, {**args["c"]["transformer_options"], "transformer_index": 0}
    h = base.model_sampling.calculate_input(t, x)
    options["original_shape"] = list(h.shape)
    emb = unet.time_embed(timestep_embedding(base.model_sampling.timestep(t).float(), unet.model_channels).to(h.dtype))
    skips, more = [], {"time_context": None, "num_video_frames": None, "image_only_indicator": None}
    for i, module in enumerate(unet.input_blocks):
        options["block"] = ("input", i)
        h = forward_timestep_embed(module, h, emb, c["c_crossattn"], options, **more)
        skips.append(h)
    options["block"] = ("middle", 0)
    h = forward_timestep_embed(unet.middle_block, h, emb, c["c_crossattn"], options)
    for i, module in enumerate(unet.output_blocks):
        options["block"] = ("output", i)
        h = torch.cat([h, skips.pop()], 1)
        h = forward_timestep_embed(module, h, emb, c["c_crossattn"], options, skips[-1].shape if skips else None)
    return base.model_sampling.calculate_denoised(t, unet.out(h).float(), x)


# Cases that leave every row attributable, and whether each row's image is known for certain.
WRAPPERS = {
    "passed on": (wrapped(same_again), True),
    "rows one by one": (wrapped(row_by_row), False),
    "rows two by two": (wrapped(two_by_two), False),
    "rows in another order": (wrapped(reversed_rows), False),
    "tile-major": (wrapped(tile_major), False),
    "image-major": (wrapped(image_major), False),
    "tile after tile": (wrapped(tile_after_tile), False),
    "called twice": (wrapped(twice), False),
    "windows that do not announce themselves": (sliding, False),
}
