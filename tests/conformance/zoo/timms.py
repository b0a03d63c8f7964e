"""timm: families that torchvision does not have."""

import timm
from timm.models.mlp_mixer import GatedMlp, MlpMixer, SpatialGatingBlock
from timm.models.volo import VOLO

from . import architecture, noise


def model(name, size, key=None, **options):
    @architecture(name=key or name)
    def build():
        return timm.create_model(name, pretrained=False, **options), noise(1, 3, size, size)


model("mobilenetv4_conv_small", 64)
model("efficientnet_lite0", 64)
model("ghostnet_100", 64)
model("repvgg_a0", 64)
model("fastvit_t8", 64)
model("efficientvit_b0", 64)
model("deit_tiny_patch16_224", 64, "deit", img_size=64, depth=3)
model("levit_128s", 64, "levit", img_size=64)
model("poolformer_s12", 64)
model("edgenext_xx_small", 64)
model("mobilevit_xxs", 64)
model("convnextv2_atto", 64)
model("repvit_m0_9", 64)
model("tiny_vit_5m_224", 64, "tiny_vit")
model("eva02_tiny_patch14_224", 56, "eva02", img_size=56, depth=3)
model("nfnet_l0", 64)
model("xcit_nano_12_p8_224", 64, "xcit")
model("mobileone_s0", 64)
model("starnet_s1", 64)
model("mobilevitv2_050", 64)
model("skresnet18", 64)
model("deit_tiny_patch16_224", 96, "deit_resized", img_size=96, depth=2, dynamic_img_size=True)


@architecture
def mixer():
    return MlpMixer(img_size=64, patch_size=16, num_blocks=3, embed_dim=96, num_classes=100), noise(1, 3, 64, 64)


@architecture
def gmlp():
    net = MlpMixer(
        img_size=64, patch_size=16, num_blocks=3, embed_dim=96, mlp_ratio=4, block_layer=SpatialGatingBlock, mlp_layer=GatedMlp,
        num_classes=100,
    )
    return net, noise(1, 3, 64, 64)


@architecture
def volo():
    net = VOLO(
        layers=(1, 1), img_size=64, patch_size=8, embed_dims=(32, 48), num_heads=(2, 4), downsamples=(True, False),
        outlook_attention=(True, False), num_classes=20,
    )
    return net, noise(1, 3, 64, 64)
