"""PyTorch, eager or through torch.compile, with torchvision's network, transforms and loaders."""

import importlib.metadata
import itertools
import time
from collections import OrderedDict

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2

from benchmarks import folders, tasks
from benchmarks.measures import images_per_second, paced


def open_peer(settings: tasks.Settings, name: str) -> "Torch":
    return Torch(settings, compiled=name == "torch-compile")


def convnet(settings: tasks.Settings, dropout: bool) -> nn.Sequential:
    made: OrderedDict[str, nn.Module] = OrderedDict()
    for i, layer in enumerate(tasks.layers(settings)):
        name = layer.name or f"{layer.kind}{i}"
        if layer.kind == "conv":
            made[name] = nn.Conv2d(*layer.shape[2:], 3, padding=layer.padding)
        elif layer.kind == "pool":
            made[name] = nn.MaxPool2d(2, settings.spec.pool_stride)
        elif layer.kind == "flatten":
            made[name] = nn.Flatten()
        elif layer.kind == "dense":
            made[name] = nn.Linear(*layer.shape)
        elif dropout:
            made[name] = nn.Dropout(layer.rate)
        if layer.kind in ("conv", "dense") and layer.relu:
            made[f"relu{i}"] = nn.ReLU(inplace=True)
    return nn.Sequential(made)


def state_dict(settings: tasks.Settings) -> dict[str, torch.Tensor]:
    """The weights that all sides share under torch's names, kernels as [out, in, height, width]."""
    flattened = next((layer.shape for layer in tasks.layers(settings) if layer.kind == "flatten"), None)
    leaves = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    found = {}
    for name, value in tasks.weights(settings).items():
        layer, _, leaf = name.rpartition("/")
        if leaf == "kernel" and value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif leaf == "kernel":
            if flattened and len(value) == np.prod(flattened):  # torch flattens [channels, height, width]
                value = value.reshape(*flattened, -1).transpose(2, 0, 1, 3).reshape(value.shape)
            value = value.T
        if settings.spec.depths:
            block, _, inner = layer.rpartition("/")
            inner = {"projection": "downsample.0", "norm_projection": "downsample.1", "outputs": "fc"}.get(
                inner, inner.replace("norm", "bn"))  # fmt: skip
            layer = f"layer{block[5]}.{int(block[7]) - 1}.{inner}" if block else inner
        found[f"{layer}.{leaves[leaf]}"] = torch.from_numpy(np.ascontiguousarray(value))
    return found


class Torch:
    def __init__(self, settings: tasks.Settings, compiled: bool):
        self.settings, self.compiled = settings, compiled
        torch.set_num_threads(settings.threads)
        torch.manual_seed(settings.seed)
        torch.set_float32_matmul_precision("high")  # as JAX and TensorFlow do of themselves on a GPU
        torch.backends.cudnn.benchmark = True
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def about(self) -> dict:
        gpu = self.device.type == "cuda"
        versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "numpy")}
        return {"platform": "gpu" if gpu else "cpu", "device": torch.cuda.get_device_name() if gpu else "cpu",
                "versions": versions}  # fmt: skip

    def device_memory(self) -> int:
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16")

    def _model(self, dropout: bool = True, weights: bool = True) -> nn.Module:
        settings = self.settings
        if settings.spec.depths:
            model = getattr(torchvision.models, settings.task)(num_classes=tasks.outputs(settings.classes))
        else:
            model = convnet(settings, dropout)
        if weights:
            missing, unexpected = model.load_state_dict(state_dict(settings), strict=False)
            assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing), (missing, unexpected)
        return model.to(self.device, memory_format=torch.channels_last)

    def _images(self, images) -> torch.Tensor:
        """uint8 [b, size, size, 3] -> uint8 [b, 3, size, size] on the device, channels last."""
        return torch.as_tensor(images).to(self.device).permute(0, 3, 1, 2)

    def _loss(self, logits, labels):
        logits = logits.float()
        if logits.shape[1] == 1:
            return F.binary_cross_entropy_with_logits(logits[:, 0], labels.float()), ((logits[:, 0] > 0) == labels).sum()
        return F.cross_entropy(logits, labels), (logits.argmax(1) == labels).sum()

    def _start(self, model: nn.Module, prepare=lambda images: images):
        """A step: uint8 or float images, labels -> loss and number of correct ones, on the device."""
        model.train()
        optimizer = torch.optim.Adam(model.parameters(), tasks.RATE, eps=tasks.EPSILON, fused=True)

        def forward(images, labels):
            with self._autocast():
                logits = model(images.float() / 255)
            return self._loss(logits, labels)

        if self.compiled:
            forward = torch.compile(forward)

        def step(images, labels):
            optimizer.zero_grad(set_to_none=True)
            loss, correct = forward(prepare(images), labels)
            loss.backward()
            optimizer.step()
            return loss.detach(), correct

        return step

    def _batch(self):
        images, labels = tasks.batch(self.settings)
        return self._images(images), torch.as_tensor(labels, dtype=torch.long, device=self.device)

    def losses(self, steps: int) -> dict:
        images, labels = self._batch()
        model = self._model(dropout=False).eval()
        with torch.inference_mode(), self._autocast():
            logits = model(images.float() / 255)
        loss = float(self._loss(logits, labels)[0])
        step = self._start(model)
        return {"inference": loss, "training": [float(step(images, labels)[0]) for _ in range(steps)]}

    def _stepper(self, weights: bool = True):
        images, labels = self._batch()
        step = self._start(self._model(weights=weights))
        return lambda: step(images, labels), self._wait

    def first_step(self) -> None:
        call, finish = self._stepper(weights=False)
        call()
        finish()

    def make_step(self):
        turn = paced(*self._stepper(), self.settings.seconds)
        return lambda: {"step": turn()}

    def make_epoch(self):
        images, labels, train, val = folders.decoded_split(self.settings)
        images, labels = self._images(images), torch.as_tensor(labels, dtype=torch.long, device=self.device)
        transform = v2.Compose(
            [v2.RandomHorizontalFlip(), v2.RandomAffine(36, scale=(0.9, 1.1), interpolation=v2.InterpolationMode.BILINEAR)]
        )
        model, b = self._model(), self.settings.batch
        step = self._start(model, lambda images: transform(images.float()))
        infer = torch.compile(model) if self.compiled else model
        val = torch.as_tensor(val, device=self.device)

        def epoch():
            start = time.perf_counter()
            order = torch.as_tensor(train)[torch.randperm(len(train))].to(self.device)
            model.train()
            total = sum(step(images[rows], labels[rows])[0] for rows in order.split(b))
            model.eval()
            with torch.inference_mode(), self._autocast():
                losses = [self._loss(infer(images[rows].float() / 255), labels[rows]) for rows in val.split(b)]
            float(total), float(sum(loss for loss, _ in losses)), int(sum(correct for _, correct in losses))
            return {"epoch with evaluation": time.perf_counter() - start}

        epoch()
        return epoch

    def _loader(self, batch: int):
        size = (self.settings.size, self.settings.size)
        transform = v2.Compose([v2.PILToTensor(), v2.Resize(size, antialias=True)])
        dataset = torchvision.datasets.ImageFolder(self.settings.data, transform)
        return torch.utils.data.DataLoader(dataset, batch, num_workers=self.settings.threads)

    def make_decode(self):
        turn = lambda: {"decode a folder": images_per_second(lambda: sum(len(x) for x, _ in self._loader(64)))}  # noqa: E731
        turn()
        return turn

    def make_predict(self):
        model, size = self._model().eval(), (self.settings.size, self.settings.size)
        model = torch.compile(model, dynamic=False) if self.compiled else model
        names = itertools.cycle(folders.listed(self.settings.data)[0])

        def probabilities(images: torch.Tensor) -> np.ndarray:
            with torch.inference_mode(), self._autocast():
                logits = model(images.to(self.device).float() / 255).float()
            return (logits.softmax(1) if logits.shape[1] > 1 else logits.sigmoid()).cpu().numpy()

        def folder() -> int:
            return sum(len(probabilities(images)) for images, _ in self._loader(64))

        one = paced(lambda: probabilities(self._images(folders.read(next(names), size[0])[None])), lambda: None,
                    self.settings.seconds / 2)  # fmt: skip
        folder()
        return lambda: {"predict one file": one(), "predict a folder": images_per_second(folder)}

    def make_augment(self):
        images, size = self._batch()[0].float(), self.settings.size
        bilinear = v2.InterpolationMode.BILINEAR
        shared = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(),
                             v2.RandomAffine(36, (0.1, 0.1), (0.9, 1.1), 5.7, bilinear)])  # fmt: skip

        def each(images):
            """A matrix for each image and one sampling: torchvision draws once for the whole batch."""
            n = len(images)
            uniform = lambda most, *shape: (torch.rand(n, *shape, device=self.device) * 2 - 1) * most  # noqa: E731
            angle, slant = torch.deg2rad(uniform(36)), torch.tan(torch.deg2rad(uniform(5.7)))
            zero, one = torch.zeros(n, device=self.device), torch.ones(n, device=self.device)
            turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(n, 2, 2)
            slide = torch.stack([one, slant, zero, one], 1).view(n, 2, 2)
            flips = torch.randint(0, 2, (n, 1, 2), device=self.device) * 2.0 - 1
            matrix = (1 + uniform(0.1)).view(n, 1, 1) * turn @ slide * flips
            grid = F.affine_grid(torch.cat([matrix, uniform(0.2, 2, 1)], 2), (n, 3, size, size), align_corners=False)
            return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

        each = torch.compile(each) if self.compiled else each
        turns = {
            "augment": paced(lambda: each(images), self._wait, self.settings.seconds / 2),
            "augment, one draw for the batch": paced(lambda: shared(images), self._wait, self.settings.seconds / 2),
        }
        return lambda: {measure: turn() for measure, turn in turns.items()}
