"""The sections of the config: each key with its type, default, note, bounds and choices.

"Not set" is an empty string, 0 or (). Choices such as "cnnjax.models:MODELS" are the registry that implements them.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from cnnjax.config.keys import AUTO, Key, key

# fmt: off
# One line a key: a formatter would break most of them into four.


class Section(Mapping):
    """A part of the config: a frozen dataclass that can also be read as a mapping, its keys sorted."""

    def __getitem__(self, name: str) -> Any:
        if name not in self.__dataclass_fields__:
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.__dataclass_fields__)

    def to_dict(self) -> dict[str, Any]:
        """Returns the values as a plain dict; those of sections are dicts, too."""
        return {name: value.to_dict() if isinstance(value, Section) else value for name, value in self.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(Section):
    """Source of the images and of their labels."""

    source: str = key("files", "files: folder or archive; demo: drawn cells; digits: scikit-learn's; tfds: by name",
                      choices="cnnjax.data:SOURCES")
    path: str = key("", "folder, .zip, .tar or .tgz with one folder per class, here or at gs://, s3://, or a table of labels (.csv, .tsv, "
                    '.parquet); "": download data.url')
    root: str = key("", 'of a table: folder or archive of its files; "": the folder of the table')
    columns: tuple[str, ...] = key((), "of a table: file=NAME, label=NAME, group=NAME, split=NAME, those that are not found by themselves")
    url: str = key("", "archive to download when data.path is empty")
    sha256: str = key("", "of that archive, 64 hex digits")
    tfds: str = key("", "name in TensorFlow Datasets, such as cifar10 or cifar10:3.0.2")
    cache: str = key("decoded", "what is kept of the files: decoded: pixels of image.size; encoded: the files themselves, decoded at each step, where "
                     "decoded ones do not fit on the disk; augment.crop_area then crops before the resize", choices=("decoded", "encoded"))
    cache_dir: str = key("~/.cache/cnnjax", "downloads and decoded images, shared between runs")
    classes: tuple[str, ...] = key((), "names in label order; (): the folders' names, sorted")
    names: str = key("", 'code page of the names in a .zip of another system, such as cp949; "": UTF-8, or as the format has it',
                     choices=("", "cp949", "cp932", "gb18030", "big5", "cp1251"))
    positive: str = key("", 'the positive class of a two-class task; "": the second class')
    label: str = key("", "regular expression; what it matches in a file's path is the class, as '^[a-z]+' in cat.1.jpg; \"\": the class folder")
    class_level: int = key(0, "level of the class folders below data.path, 1 being the first; folders above are the group; 0: it is found",
                           least=0)
    group: str = key("", "regular expression; what it matches in a file's name is the group; (?P<patient>...) is the word for one in reports; \"\": no groups")
    max_bad_fraction: float = key(0.01, "fraction of unreadable files, but more than one file, above which a run is refused; 0: any", least=0, most=1)
    partial: bool = key(False, "use the whole files of a .tar that ends early or is damaged; else it is refused")
    sampling: str = key("shuffled", "of the training images: shuffled, each once in an epoch; balanced, each class as often as any other",
                        choices=("shuffled", "balanced"))
    batch_size: int = key(32, "images per training step, over all devices together; auto: what fits an accelerator, 32 on a CPU", least=1, most=2**24,
                          words={"auto": AUTO})
    placement: str = key("auto", "of the training images while training: host, device, or auto: on an accelerator if they fit",
                         choices=("auto", "host", "device"))
    metadata: str = key("", "table (.csv, .tsv, .parquet) with a column of files or ids and others such as site or device, whose values are "
                        "subgroups in the report")
    demo_cells: int = key(3000, "images that the demo source draws")
    demo_patients: int = key(40, "patients among whom they are divided", least=3)

    @property
    def auto_batch(self) -> bool:
        """Whether the batch size is auto, for which training is still to find a number."""
        return self.batch_size == AUTO


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image(Section):
    """The network's input; `Preprocessing` is made of it."""

    size: int = key(64, "pixels, height and width that the network sees; HEIGHT,WIDTH sets both; auto: as model.weights want, else 64", least=4,
                    most=4096, unit="pixels", words={"auto": AUTO})
    width: int = key(0, "pixels, where the width differs from the height; 0: it does not", least=0, most=4096, unit="pixels")
    resize: str = key("bilinear", "bilinear: antialiased; bicubic: likewise; nearest; pad: bilinear, aspect kept, black margins; auto: as "
                      "model.weights want, else bilinear", choices="cnnjax.data:RESIZES", words={"auto": "auto"})
    mean: tuple[float, ...] = key((), "of red, green and blue in [0, 1], subtracted from each image, such as 0.485,0.456,0.406; (): as "
                                  "model.weights want, else 0", least=0, most=1, element=float)
    deviation: tuple[float, ...] = key((), "by which each of them is divided then, such as 0.229,0.224,0.225; (): as model.weights want, else 1",
                                       above=0, element=float)
    range: tuple[float, ...] = key((), "of grey files with more than 8 bits, the levels that become black and white, such as 0,4095; (): as the "
                                   "training images have them", element=float)
    views: str = key("plain", "of an image, whose logits are averaged in evaluation and prediction: plain: as it is; mirrored: and its mirror image; "
                     "turned: in its four quarter turns and their mirror images; the validation of each epoch sees it as it is",
                     choices="cnnjax.models:VIEWS")
    zca: bool = key(False, "ZCA whitening, fitted on the training images, stored with the network; up to 48 pixels")
    zca_epsilon: float = key(1e-6, "added to the variances, of pixels in [0, 1], before their root is divided by (Keras')", above=0)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.size, self.width or self.size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split(Section):
    """Division of the images into train, val and test."""

    method: str = key("auto", "auto: official where the set brings parts, grouped where data.group is set, else stratified; "
                      "stratified by class; grouped: no group on two sides; tutorial: first names of each class are validation; "
                      "tutorial_shuffled: all names shuffled; official: what the data set brings",
                      choices="cnnjax.data:SPLIT_METHODS")
    file: str = key("", "table with the columns id and split, such as splits.csv of another run, that divides the images; \"\": split.method does")
    train: float = key(0.70, "fraction of the images", least=0, most=1)
    val: float = key(0.15, "fraction; chooses the best epoch", least=0, most=1)
    test: float = key(0.15, "fraction; only read at the end", least=0, most=1)
    seed: int = key(0, "integer; kept apart from `seed`, so that runs of several seeds share one split", least=0)
    keep_duplicates_together: bool = key(True, "the same picture twice, as a copy, re-encoded or brightened, stays on one side")
    folds: int = key(5, "of --mode=crossvalidate: parts, each of which is the test part of one fold", least=3, most=100)
    repeats: int = key(1, "of --mode=crossvalidate: times that the images are divided anew into folds", least=1, most=100)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model(Section):
    """The network. Each network says in `reads` which of these keys it uses."""

    name: str = key("convnet", "convnet: blocks of 3x3 convolutions + ReLU, each closed by a 2x2 max-pool, then dense layers; a "
                    "residual network such as resnet18; efficientnet_lite0, mobilenetv3_large, convnext_nano, densenet121, vit_small and others "
                    "of docs/networks.md; or FILE.py:NAME, a network of your own",
                    choices="cnnjax.models:MODELS", own=True)
    weights: str = key("", "with which training begins: FILE.safetensors of torchvision's or timm's names; hf:OWNER/NAME[@REVISION][:FILE] of the "
                       'Hugging Face Hub; run:DIR, the best of another run; with another last layer where classes differ; "": drawn anew')
    channels: tuple[int, ...] = key((16, 32, 64), "filters in each block", least=1)
    convs: tuple[int, ...] = key((1,), "convolutions in each block; one entry holds for all blocks", least=1)
    padding: tuple[str, ...] = key(("same",), "same or valid, in each block; one entry holds for all blocks", choices=("same", "valid"))
    pool_stride: int = key(2, "pixels, stride of the 2x2 max-pools: 1 or 2", choices=(1, 2))
    norm: str = key("none", "none, or batch: batch normalisation after each convolution", choices=("none", "batch"))
    dropout_features: float = key(0.0, "fraction dropped before the flatten", least=0, below=1)
    dense: tuple[int, ...] = key((128,), "units of the hidden dense layers", least=1)
    dropout_dense: float = key(0.0, "fraction dropped after each hidden dense layer; of a resnet, before the last one",
                               least=0, below=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment(Section):
    """Random changes of the training images only; a whole preset is set with --config.augment=NAME."""

    # Geometry: one matrix and one sampling per image. Numbers are drawn uniformly for each image.
    flip_horizontal: bool = key(False, "mirror left-right with probability 1/2")
    flip_vertical: bool = key(False, "mirror top-bottom with probability 1/2")
    turns: bool = key(False, "turn by 0, 90, 180 or 270 degrees")
    rotation: float = key(0.0, "degrees; drawn from [-rotation, rotation]", least=0)
    zoom: float = key(0.0, "fraction; the side of the visible window is scaled by a factor from [1 - zoom, 1 + zoom]", least=0, below=1)
    stretch: float = key(0.0, "fraction; as zoom, height and width each by a factor of its own", least=0, below=1)
    shear: float = key(0.0, "degrees; rows slide sideways, drawn from [-shear, shear]", least=0, most=60, unit="degrees")
    shift: float = key(0.0, "fraction of the side; drawn from [-shift, shift] in both directions", least=0, below=1)
    crop_area: float = key(1.0, "fraction; a window of an area from [crop_area, 1] is enlarged to the whole; 1: off", above=0, most=1)
    crop_ratio: float = key(4 / 3, "largest width / height of that window, and height / width", least=1)
    pad_crop: int = key(0, "pixels; padded on every side, then cut back at random: whole-pixel shifts", least=0)
    interpolation: str = key("bilinear", "bilinear or nearest", choices="cnnjax.augmentation:INTERPOLATIONS")
    fill: str = key("reflect", "outside the image: reflect, nearest, constant (black) or wrap", choices="cnnjax.augmentation:FILLS")
    # Pixels, in this order.
    brightness: float = key(0.0, "fraction; values times a factor from [1 - brightness, 1 + brightness]", least=0, below=1)
    contrast: float = key(0.0, "fraction; distances from the image's mean grey, times such a factor", least=0, below=1)
    saturation: float = key(0.0, "fraction; distances from each pixel's grey, times such a factor", least=0, below=1)
    grey: float = key(0.0, "probability of losing all colour", least=0, most=1)
    hue: float = key(0.0, "turns of the colour circle, at most 0.5; drawn from [-hue, hue]", least=0, most=0.5, unit="turns")
    gamma: float = key(0.0, "fraction; exponent from [1 / (1 + gamma), 1 + gamma], uniform in its logarithm", least=0)
    stain: float = key(0.0, "density of haematoxylin, eosin and DAB: each times [1 - stain, 1 + stain], plus [-stain, stain]",
                       least=0, below=1)
    channel_shift: float = key(0.0, "levels of 255; added to each channel, from [-channel_shift, channel_shift]", least=0)
    blur: float = key(0.0, "pixels; standard deviation of a Gaussian, drawn from [0, blur]", least=0)
    noise: float = key(0.0, "levels of 255; standard deviation of normal noise, drawn from [0, noise]", least=0)
    # Parts and pairs of images.
    erase: float = key(0.0, "probability of losing a box of 2 to 33 % of the area (random erasing)", least=0, most=1)
    cutout: float = key(0.0, "fraction of the side; one square hole, its centre anywhere", least=0, most=1)
    mixup: float = key(0.0, "alpha of Beta(alpha, alpha), the share of the image in a blend with another; 0: off", least=0)
    cutmix: float = key(0.0, "alpha likewise; the share is given up to a box of another image; 0: off", least=0)
    # Policies over rotation, shear, shift, zoom, brightness, contrast, saturation, hue, gamma and blur.
    rand_augment: int = key(0, "operations drawn for each image (RandAugment's N); 0: off", least=0)
    rand_augment_magnitude: float = key(0.3, "fraction of their widest range (RandAugment's M / 30)", least=0, most=1)
    trivial_augment: bool = key(False, "one operation for each image, of any magnitude")
    custom: str = key("", 'FILE.py:NAME, an augmentation of your own, after the others; "": none; see docs/own-code.md', own=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Section):
    """Length of the training, its loss and its precision."""

    method: str = key("gradient", "gradient: all weights, by steps of the optimizer; probe: the last layer alone, as a logistic regression of what the "
                      "frozen network gives it", choices=("gradient", "probe"))
    epochs: int = key(30, "at most; one epoch is ceil(training images / batch size) steps; auto: train.shown / training images, 5 to 300", least=1,
                      words={"auto": AUTO})
    shown: int = key(100_000, "training images that train.epochs=auto shows in all, each of them augmented anew", least=1)
    scales: tuple[float, ...] = key((), "of training images to image.size, the first of these in the first epochs and so on, each in as many, such as "
                                    "0.5,0.75,0.9; evaluation and prediction see image.size; (): 1", above=0, most=1, element=float)
    evaluate_every: int = key(1, "epochs from one evaluation on validation to the next, each of which is saved and may be the best; the last epoch is "
                                 "always evaluated; auto: so many that there are 50 evaluations at most", least=1, words={"auto": AUTO})
    patience: int = key(10, "epochs, of 8 steps at least, without a better train.monitor before stopping early; 0: never stop early", least=0)
    monitor: str = key("val_loss", "chooses the best epoch, ends patience, drops the learning rate on a plateau: val_loss, val_accuracy, "
                       "val_balanced_accuracy, or of two classes val_auc, val_sensitivity, val_specificity; last: the last epoch is the best, whatever "
                       "validation says, and nothing stops early", choices="cnnjax.training:MONITORS")
    freeze: str = key("", 'parameters that training leaves as they are: backbone, all but the last layer; or a regular expression of dotted names, '
                      "as 'conv1|block[12]_.*'; \"\": none")
    unfreeze_epoch: int = key(0, "first epoch, from 2 on, that trains the frozen parameters too: with train.freeze=backbone the epochs before warm up "
                              "the last layer; 0: they stay frozen", least=0)
    frozen_statistics: bool = key(False, "batch normalisation uses the averages it begins with, and keeps them, in training too; where its "
                                  "parameters are frozen it always does")
    loss: str = key("cross_entropy", "cross_entropy; focal; or FILE.py:NAME, a loss of your own; see docs/own-code.md",
                    choices="cnnjax.training:LOSSES", own=True)
    focal_gamma: float = key(2.0, "of the focal loss: how much less images count that are right already", least=0)
    class_weights: tuple[str, ...] = key((), "of the losses: balanced, every class with the same sum; or NAME=WEIGHT for each class; (): none")
    label_smoothing: float = key(0.0, "fraction of each training label that is spread evenly over all classes", least=0, below=1)
    ema_decay: float = key(0.0, "of a moving average of the weights, which then is what is evaluated; 0.999, say; 0: none",
                           least=0, below=1)
    ema_statistics: bool = key(True, "the statistics of batch normalisation are averaged with the weights; false: as runs of older versions, "
                               "those of the weights that are not averaged")
    accumulate: int = key(1, "parts into which each batch is divided, one after the other, where memory is short", least=1)
    checkpoint_every: str = key("10 min", '"500 steps", "600 s" or "10 min", beside each epoch and each stop; "": only these')
    precision: str = key("float32", "of the computation: float32 or bfloat16; weights are float32 always, and so is all of a network "
                         "with normalisation where cnnjax's own kernels compute", choices=("float32", "bfloat16"))

    @property
    def auto_epochs(self) -> bool:
        """Whether the number of epochs is auto, for which training is still to count its images."""
        return self.epochs == AUTO


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe(Section):
    """The logistic regression of train.method=probe."""

    views: int = key(1, "of each training image: 1: as it is; more: also views of it by the augment section", least=1, most=100)
    penalties: tuple[float, ...] = key((1e5, 3e4, 1e4, 3e3, 1e3, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0), "on half the squares of coefficients, beside the sum "
                                       "of losses (1 / C of scikit-learn), of which train.monitor chooses one", above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer(Section):
    """The optimizer and its learning rate over time."""

    name: str = key("adam", "adam, adamw, sgd or muon: kernels by momentum whose singular values are near 1, the last layer and the rest by adam", choices="cnnjax.training:OPTIMIZERS")
    learning_rate: float = key(1e-3, "per step, at its highest", above=0)
    beta1: float = key(0.9, "decay of adam's first moment; sgd, muon: Nesterov momentum", least=0, below=1)
    beta2: float = key(0.999, "decay of adam's second moment", least=0, below=1)
    epsilon: float = key(1e-7, "added to adam's denominator (Keras' default)", above=0)
    weight_decay: float = key(0.0, "adamw, muon: per step, times the learning rate; kernels only", least=0)
    layer_decay: float = key(1.0, "factor on the learning rate from each layer to the one before; the last has learning_rate; 1: all have it",
                             above=0, most=1)
    clip_norm: float = key(0.0, "largest global gradient norm; 0: no clipping", least=0)
    schedule: str = key("constant", "constant, cosine, step or plateau", choices="cnnjax.training:SCHEDULES")
    warmup_epochs: float = key(0.0, "epochs of linear rise from 0 to learning_rate, with any schedule", least=0)
    decay_epochs: float = key(10.0, "step: epochs between drops", above=0)
    decay_factor: float = key(0.1, "step, plateau: factor of each drop", above=0)
    plateau_patience: int = key(3, "plateau: epochs, of 8 steps at least, without a better train.monitor that are tolerated; the next one drops", least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence(Section):
    """Statistics of evaluations: how sure, how calibrated, at which threshold."""

    level: float = key(0.95, "confidence of every interval", above=0.5, below=1)
    prevalence: float = key(0.0, "share of the positive class where the network will be used, for PPV and NPV; 0: not stated", least=0, below=1)
    calibration: str = key("temperature", "of probabilities, fitted on validation: temperature; platt, of two classes; or none",
                           choices=("temperature", "platt", "none"))
    threshold: str = key("0.5", "of two classes, chosen on validation: a number; youden; sensitivity:0.95; specificity:0.99; or cost:FN,FP, the "
                         "costs of a missed and of a false positive")
    bootstrap: int = key(0, "resamples of whole groups for intervals beside the default ones, such as 2000; 0: none", least=0, most=100_000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit(Section):
    """The look for leaks before a training, and --mode=audit."""

    stop: bool = key(False, "refuse to train where the same picture, or a group, is on two sides of the split")
    turns: bool = key(False, "find mirrored and turned copies too, which takes eight times as long")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Log(Section):
    """Records of a run beside its history."""

    every: int = key(20, "steps between rows of metrics.jsonl", least=1)
    tensorboard: bool = key(False, "also write TensorBoard event files to <workdir>/tensorboard")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh(Section):
    """Division of one network among devices."""

    fsdp: int = key(1, "devices among which weights and optimizer state are divided; 1: every device holds all of them", least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runtime(Section):
    """Use of this machine; nothing here changes a number beyond rounding."""

    devices: int = key(0, "devices to use of each process; 0: all", least=0)
    kernels: str = key("auto", "native: cnnjax's own for CPUs; xla: XLA's; auto: native on a CPU where they are compiled",
                       choices=("auto", "native", "xla"))
    keep_memory: bool = key(True, "keep freed memory for the next step, on huge pages: faster on a CPU (Linux, glibc)")
    workers: int = key(0, "threads that decode images; 0: one for each processor that the process may use", least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Section):
    """The settings of a run."""

    name: str = key("", "of the run; set from the config file's name and variant; names the default workdir runs/<name>")
    seed: int = key(0, "integer; initial weights, order of the training images, augmentation and dropout", least=0)
    data: Data = dataclasses.field(default_factory=Data)
    image: Image = dataclasses.field(default_factory=Image)
    split: Split = dataclasses.field(default_factory=Split)
    model: Model = dataclasses.field(default_factory=Model)
    augment: Augment = dataclasses.field(default_factory=Augment)
    train: Train = dataclasses.field(default_factory=Train)
    probe: Probe = dataclasses.field(default_factory=Probe)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    evidence: Evidence = dataclasses.field(default_factory=Evidence)
    audit: Audit = dataclasses.field(default_factory=Audit)
    log: Log = dataclasses.field(default_factory=Log)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    runtime: Runtime = dataclasses.field(default_factory=Runtime)


SECTIONS: dict[str, type[Section]] = {f.name: f.type for f in dataclasses.fields(Config) if "key" not in f.metadata}


def _keys() -> dict[str, Key]:
    found = {f.name: f.metadata["key"] for f in dataclasses.fields(Config) if "key" in f.metadata}
    for name, section in SECTIONS.items():
        found |= {f"{name}.{f.name}": f.metadata["key"] for f in dataclasses.fields(section)}
    return {name: found[name] for name, _ in flatten(Config())}


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields ("section.key", value) for every key of a config, a section or a nested dict, in its order."""
    for name in config:
        value = config[name]
        if isinstance(value, Mapping) or hasattr(value, "to_dict"):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


KEYS: dict[str, Key] = _keys()  # by "section.key", sorted
