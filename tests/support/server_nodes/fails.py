"""A node for the test server that lets a run end in an error while it samples."""


class FailsAtAStep:
    CATEGORY = "tests"
    FUNCTION = "put"
    RETURN_TYPES = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "step": ("INT", {"default": 1})}}

    def put(self, model, step):
        seen = []

        def fail(args):
            seen.append(args["sigma"])
            if len(seen) > step:
                raise RuntimeError("made to fail")
            return args["denoised"]

        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(fail)
        return (patched,)


NODE_CLASS_MAPPINGS = {"TestFailsAtAStep": FailsAtAStep}
