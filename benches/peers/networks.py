"""The networks that are measured, with random weights."""

SHAPE = (1, 3, 224, 224)


def network(name):
    if name == "vit":
        import timm

        return timm.create_model("vit_small_patch16_224", pretrained=False).eval()
    import torchvision

    return getattr(torchvision.models, name)(weights=None).eval()
