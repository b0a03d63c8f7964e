"""torchvision: as they are at a low resolution where they are small, with fewer and thinner blocks where not."""

import torch
from torch import nn
from torchvision import models
from torchvision.models import convnext, detection, maxvit, optical_flow, segmentation, swin_transformer, vision_transformer

from . import architecture, noise


def plain(name, size, core=False, dynamic=None, **options):
    @architecture(name=name, core=core, dynamic=dynamic)
    def build():
        return getattr(models, name)(weights=None, **options), noise(1, 3, size, size)


plain("mobilenet_v2", 96, core=True)
plain("mobilenet_v3_small", 96, core=True)
plain("mobilenet_v3_large", 64)
plain("resnet18", 64, core=True)
plain("resnet50", 64)
plain("squeezenet1_1", 96)
plain("shufflenet_v2_x0_5", 64, core=True)
plain("efficientnet_b0", 64, core=True)
plain("densenet121", 64)
plain("mnasnet0_5", 64)
plain("regnet_y_400mf", 64)
plain("regnet_x_400mf", 64)
plain("googlenet", 64, init_weights=False, aux_logits=False)
plain("inception_v3", 96, init_weights=False, aux_logits=False)


@architecture(dynamic=({0: torch.export.Dim("batch", min=1, max=16)},))
def mobilenet_v2_dynamic_batch():
    return models.mobilenet_v2(weights=None, width_mult=0.5), noise(2, 3, 64, 64)


@architecture(dynamic=({0: torch.export.Dim("batch", min=1, max=16)},))
def resnet_dynamic_batch():
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10), noise(2, 3, 32, 32)


@architecture
def efficientnet_v2():
    settings, _ = models.efficientnet._efficientnet_conf("efficientnet_v2_s")
    for block in settings:
        block.num_layers = 1
    return models.EfficientNet(settings[:4], dropout=0.2, last_channel=256), noise(1, 3, 64, 64)


@architecture(core=True)
def convnext_small():
    block = convnext.CNBlockConfig
    settings = [block(24, 48, 1), block(48, 64, 1), block(64, 96, 2), block(96, None, 1)]
    net = models.ConvNeXt(settings, stochastic_depth_prob=0.1, layer_scale=0.1)
    return net, noise(1, 3, 64, 64)


@architecture(core=True)
def vit():
    net = vision_transformer.VisionTransformer(
        image_size=64, patch_size=16, num_layers=3, num_heads=4, hidden_dim=64, mlp_dim=128
    )
    nn.init.normal_(net.heads.head.weight, std=0.1)
    return net, noise(1, 3, 64, 64)


@architecture(core=True)
def swin():
    net = swin_transformer.SwinTransformer([4, 4], 32, [2, 2], [2, 4], [4, 4], stochastic_depth_prob=0.1)
    return net, noise(1, 3, 32, 32)


@architecture
def swin_v2():
    net = swin_transformer.SwinTransformer(
        [4, 4], 32, [2, 2], [2, 4], [4, 4], stochastic_depth_prob=0.1,
        block=swin_transformer.SwinTransformerBlockV2, downsample_layer=swin_transformer.PatchMergingV2,
    )
    return net, noise(1, 3, 32, 32)


@architecture
def max_vit():
    net = maxvit.MaxVit(
        input_size=(32, 32), stem_channels=16, partition_size=4, block_channels=[16, 32], block_layers=[1, 1], head_dim=16,
        stochastic_depth_prob=0.1,
    )
    return net, noise(1, 3, 32, 32)


@architecture
def alexnet():
    net = models.AlexNet()
    net.classifier[1], net.classifier[4], net.classifier[6] = nn.Linear(9216, 64), nn.Linear(64, 64), nn.Linear(64, 10)
    return net, noise(1, 3, 96, 96)


@architecture
def vgg_bn():
    features = models.vgg.make_layers([16, "M", 32, "M", 32, 32, "M"], batch_norm=True)
    net = models.VGG(features)
    net.classifier[0], net.classifier[3], net.classifier[6] = nn.Linear(32 * 49, 64), nn.Linear(64, 64), nn.Linear(64, 10)
    return net, noise(1, 3, 32, 32)


class Out(nn.Module):
    """Segmentation networks return a dictionary: its "out"."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)["out"]


@architecture
def deeplabv3():
    net = segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    return Out(net), noise(1, 3, 64, 64)


@architecture
def lraspp():
    net = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    return Out(net), noise(1, 3, 64, 64)


@architecture
def fcn():
    backbone = models._utils.IntermediateLayerGetter(models.resnet18(weights=None), {"layer4": "out"})
    return Out(segmentation.FCN(backbone, segmentation.fcn.FCNHead(512, 4))), noise(1, 3, 64, 64)


@architecture
def video_r3d():
    net = models.video.r3d_18(weights=None)
    net.layer3, net.layer4, net.fc = nn.Identity(), nn.Identity(), nn.Linear(128, 10)
    return net, noise(1, 3, 4, 24, 24)


class Heads(nn.Module):
    """The raw heads of a detector: everything before boxes are picked."""

    def __init__(self, net):
        super().__init__()
        self.backbone, self.head = net.backbone, net.head

    def forward(self, x):
        found = self.head(list(self.backbone(x).values()))
        return found["cls_logits"], found["bbox_regression"]


@architecture
def ssdlite_heads():
    net = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    return Heads(net), noise(1, 3, 128, 128)


@architecture
def retinanet_heads():
    backbone = detection.backbone_utils.BackboneWithFPN(
        models.resnet18(weights=None), {"layer2": "0", "layer3": "1"}, [128, 256], 32
    )
    net = detection.RetinaNet(backbone, num_classes=4)
    for layer in net.head.modules():
        if isinstance(layer, nn.Conv2d):  # wide enough that the outputs depend on the picture
            nn.init.normal_(layer.weight, std=0.1)
    return Heads(net), noise(1, 3, 64, 64)


class LastFlow(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, a, b):
        return self.net(a, b, num_flow_updates=2)[-1]


@architecture
def raft():
    net = optical_flow.raft_small(weights=None)

    def inputs(seed):
        g = torch.Generator().manual_seed(seed)
        return torch.rand(1, 3, 128, 128, generator=g) * 2 - 1, torch.rand(1, 3, 128, 128, generator=g) * 2 - 1

    return LastFlow(net), inputs
