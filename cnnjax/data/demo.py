"""The built-in demo data set: drawn blood-smear cells with and without malaria parasites.

It needs no download. Names, sizes and the black surround follow the NLM malaria cell images, and every
patient has a stain, a cell size and a focus of its own, so that keeping patients apart matters as it does
with the real cells. Stain debris, platelets, dirt, folds and vacuoles occur with and without parasites: a
linear classifier on the pixels reaches an accuracy of about 0.79, the network of configs/malaria.py 0.95 and more.
"""

import hashlib
import io
import math
import re
import zlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("Parasitized", "Uninfected")

INFECTED_SHARE = 0.85  # of the patients; the others have only Uninfected cells
CELLS_PER_FIELD = 12  # cells cut from one microscope field, which share a time stamp
SIDE_RANGE = (46, 200)  # px, shortest and longest image side
ANGLES = np.linspace(0, 2 * np.pi, 72, endpoint=False)

# Mean colours of Giemsa-stained red cells: salmon, tan, orange, mauve, violet, blue, lilac, magenta.
STAINS = np.array(
    [(208, 150, 147), (200, 158, 146), (222, 158, 136), (172, 114, 146),
     (172, 142, 204), (146, 146, 192), (188, 180, 200), (218, 118, 172)], np.float32)  # fmt: skip
STAIN_SHARES = np.array([0.3, 0.16, 0.1, 0.1, 0.12, 0.1, 0.06, 0.06])

# Optical depth per channel (R, G, B) of one unit of dye.
CHROMATIN = np.array([0.42, 1.15, 0.40], np.float32)
CYTOPLASM = np.array([0.50, 0.78, 0.28], np.float32)
DIRT = np.array([0.65, 0.80, 1.15], np.float32)
HAEMOGLOBIN = np.array([0.15, 0.35, 0.35], np.float32)


class Patient(NamedTuple):
    """Colours and shapes that the cells of one patient's smear share."""

    colour: np.ndarray  # (3,) float32, mean RGB of a cell, 0..255
    chromatin: np.ndarray  # (3,) float32, optical depth of the parasite's nucleus
    cytoplasm: np.ndarray  # (3,) float32, optical depth of the parasite's body
    diameter: float  # px, median over the cells
    diameter_spread: float  # standard deviation of the logarithm of the diameter
    blur: float  # px, standard deviation of the focus blur
    roughness: float  # relative amplitude of the outline's irregularity
    pallor: float  # optical depth missing at the centre of the cell
    rim: float  # relative brightness of the refracting rim
    noise: int  # grey levels, half range of the sensor noise


def _generator(*key: object) -> np.random.Generator:
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _split(rng: np.random.Generator, total: int, weights: np.ndarray) -> np.ndarray:
    """Split `total` cells over patients by `weights` (n,), at least one each while they last; int64 (n,)."""
    first = np.arange(len(weights)) < total
    return first + rng.multinomial(total - first.sum(), weights / weights.sum())


def ids(seed: int, cells: int, patients: int = 40) -> list[str]:
    """Name the cells of a demo data set.

    Args:
        seed: selects the data set.
        cells: number of ids; half are Parasitized, an odd one out is Uninfected.
        patients: number of patients, all present when cells >= 2 * patients.

    Returns:
        Sorted ids such as "Parasitized/C101P62ThinF_IMG_20150918_151006_cell_79.png".
    """
    if cells < 0 or patients < 1:
        raise ValueError(f"need cells >= 0 and patients >= 1, got {cells} and {patients}")
    rng = _generator(seed, "ids")
    infected = max(1, round(INFECTED_SHARE * patients))
    parasitized = np.zeros(patients, np.int64)
    parasitized[:infected] = _split(rng, cells // 2, rng.lognormal(0, 0.9, infected))
    uninfected = _split(rng, cells - cells // 2, rng.lognormal(0, 0.4, patients))
    numbers = rng.permutation(patients)

    names = []
    for number, positive, negative in zip(numbers, parasitized, uninfected, strict=True):
        start = int(rng.integers(9 * 3600, 15 * 3600))
        labels = rng.permutation(np.repeat([0, 1], [positive, negative]))
        for cell, label in enumerate(labels):
            second = start + 37 * (cell // CELLS_PER_FIELD)
            stamp = f"20150918_{second // 3600 % 24:02}{second // 60 % 60:02}{second % 60:02}"
            name = f"C{101 + number}P{62 + number}ThinF_IMG_{stamp}_cell_{cell + 1}.png"
            names.append(f"{CLASSES[label]}/{name}")
    return sorted(names)


@lru_cache(maxsize=1024)
def _patient(seed: int, name: str) -> Patient:
    rng = _generator(seed, name)
    stain = STAINS[rng.choice(len(STAINS), p=STAIN_SHARES)]
    tint = rng.normal(0, 6, 3) + rng.normal(0, 6)
    return Patient(
        colour=np.clip(stain + tint, 90, 235).astype(np.float32),
        chromatin=(CHROMATIN * rng.uniform(0.9, 1.15, 3)).astype(np.float32),
        cytoplasm=(CYTOPLASM * rng.uniform(0.85, 1.15, 3)).astype(np.float32),
        diameter=min(max(rng.normal(118, 14), 80), 150),
        diameter_spread=rng.uniform(0.06, 0.16),
        blur=rng.uniform(0.5, 2.2),
        roughness=rng.uniform(0.015, 0.06),
        pallor=rng.uniform(0, 0.2),
        rim=rng.uniform(0, 0.14),
        noise=int(rng.integers(1, 3)),
    )


def _outline(rng: np.random.Generator, patient: Patient) -> np.ndarray:
    """The cell's edge around its centre, px, as a float64 (72, 2) polygon of (x, y)."""
    waves = np.arange(2, 18 if rng.random() < 0.25 else 6)[:, None]
    amplitudes = rng.normal(0, patient.roughness, waves.shape) / waves**0.8
    radius = 1 + np.sum(amplitudes * np.cos(waves * ANGLES + rng.uniform(0, 6.3, waves.shape)), 0)
    if rng.random() < 0.3:  # a neighbour's dent or a tail pulled out by smearing
        bump = rng.choice([-0.35, -0.2, 0.25, 0.45]) * rng.uniform(0.6, 1.1)
        radius += bump * np.exp(-(((ANGLES - rng.uniform(1, 5.3)) / rng.uniform(0.15, 0.4)) ** 2))
    aspect = math.exp(rng.normal(0, 0.08))
    scale = patient.diameter / 2 * math.exp(rng.normal(0, patient.diameter_spread))
    points = scale * radius[:, None] * np.stack([aspect * np.cos(ANGLES), np.sin(ANGLES) / aspect], 1)
    side = np.ptp(points, 0)
    low, high = SIDE_RANGE
    return points * np.clip(1, (low + 1) / side, (high - 2) / side)


class Cell:
    """The optical depth of one cell while it is being drawn.

    Lengths and positions of what is added are relative to the cell's radius, around its centre.
    """

    def __init__(self, outline: np.ndarray, blur: float):
        self.left, self.top = outline.min(0)
        width, height = np.ceil(np.ptp(outline, 0)).astype(int) + 1
        self.outline = outline - (self.left, self.top)
        self.radius = math.sqrt(width * height) / 2
        self.blur = blur
        self.depth = np.zeros((3, height, width), np.float32)

    def add(self, dye, amount, x, y, size, ring=0.0, stretch=1.0, angle=0.0):
        """Add `amount` of `dye` (3,) as a Gaussian spot or an annulus of radius `ring`.

        The shape is `stretch` times as long along `angle`, in radians.
        """
        size = math.hypot(size * self.radius, self.blur)
        ring *= self.radius
        column, row = x * self.radius - self.left, y * self.radius - self.top
        reach = (ring + 2.2 * size) * stretch
        rows = slice(max(0, int(row - reach)), max(0, int(row + reach) + 2))
        columns = slice(max(0, int(column - reach)), max(0, int(column + reach) + 2))
        window = self.depth[:, rows, columns]
        dy = np.arange(window.shape[1], dtype=np.float32)[:, None] + np.float32(rows.start - row)
        dx = np.arange(window.shape[2], dtype=np.float32) + np.float32(columns.start - column)
        cos, sin = math.cos(angle), math.sin(angle)
        along, across = (dx * cos + dy * sin) / stretch, dy * cos - dx * sin
        distance = np.sqrt(along * along + across * across)
        window += np.exp(-(((distance - ring) / size) ** 2)) * (amount * dye)[:, None, None]

    def regions(self, rim: float) -> np.ndarray:
        """0 outside the cell, 1 in its rim, which is about `rim` px wide, 2 within; uint8 (height, width)."""
        height, width = self.depth.shape[1:]
        image = Image.new("L", (width, height))
        centre = np.array((-self.left, -self.top))
        inner = centre + (self.outline - centre) * (1 - rim / self.radius)
        for region, points in enumerate((self.outline, inner), start=1):
            ImageDraw.Draw(image).polygon(points.ravel().tolist(), fill=region)
        return np.asarray(image)


def _place(rng: np.random.Generator, nearest: float, farthest: float) -> tuple[float, float]:
    angle, distance = rng.uniform(0, 2 * math.pi), rng.uniform(nearest, farthest)
    return distance * math.cos(angle), distance * math.sin(angle)


def _add_parasite(rng: np.random.Generator, cell: Cell, patient: Patient) -> None:
    x, y = _place(rng, 0.05, 0.75)
    angle = rng.uniform(0, 2 * math.pi)
    strength = rng.uniform(0.4, 0.6) if rng.random() < 0.1 else rng.uniform(0.9, 1.4)
    chromatin, cytoplasm = strength * patient.chromatin, strength * patient.cytoplasm
    stage = rng.choice(["ring", "trophozoite", "schizont", "gametocyte"], p=[0.55, 0.27, 0.08, 0.1])
    if stage == "ring":
        ring = rng.uniform(0.15, 0.24)
        cell.add(cytoplasm, 0.9, x, y, 0.08, ring=ring)
        cell.add(HAEMOGLOBIN, -0.4, x, y, 0.8 * ring)
        for turn in (0, math.pi / 2)[: 1 + (rng.random() < 0.25)]:
            dot_x, dot_y = x + ring * math.cos(angle + turn), y + ring * math.sin(angle + turn)
            cell.add(chromatin, 1.3, dot_x, dot_y, rng.uniform(0.09, 0.13))
    elif stage == "trophozoite":
        for _ in range(3):
            dx, dy = rng.normal(0, 0.1, 2)
            cell.add(cytoplasm, 0.35, x + dx, y + dy, 0.17, stretch=rng.uniform(1, 1.7), angle=angle)
        cell.add(chromatin, 1.1, x + dx, y + dy, rng.uniform(0.12, 0.17))
    elif stage == "schizont":
        cell.add(cytoplasm, 0.5, x, y, 0.28)
        for dx, dy in rng.normal(0, 0.17, (rng.integers(6, 10), 2)):
            cell.add(chromatin, 0.9, x + dx, y + dy, 0.08)
    else:
        cell.add(cytoplasm, 0.6, x, y, 0.15, stretch=2.4, angle=angle)
        cell.add(chromatin, 1.0, x, y, 0.12, stretch=1.4, angle=angle)


def _add_confounder(rng: np.random.Generator, cell: Cell, patient: Patient) -> None:
    angle = rng.uniform(0, 2 * math.pi)
    kind = rng.choice(["debris", "blush", "platelet", "dirt", "fold", "vacuole"],
                      p=[0.31, 0.13, 0.13, 0.28, 0.08, 0.07])  # fmt: skip
    if kind == "debris":
        x, y = _place(rng, 0.95, 1.04)
        amount, size, stretch = rng.uniform((1.2, 0.1, 1), (2.4, 0.16, 3))
        cell.add(patient.chromatin, amount, x, y, size, stretch=stretch, angle=math.atan2(x, -y))
    elif kind == "blush":
        x, y = _place(rng, 0.0, 0.7)
        cell.add(patient.chromatin, rng.uniform(0.15, 0.35), x, y, rng.uniform(0.4, 0.6))
    elif kind == "platelet":
        x, y = _place(rng, 0.6, 0.95)
        cell.add(HAEMOGLOBIN, -0.4, x, y, 0.1, ring=0.3)
        cell.add(patient.cytoplasm, rng.uniform(0.3, 0.55), x, y, 0.22)
        for dx, dy in rng.normal(0, 0.08, (4, 2)):
            cell.add(patient.cytoplasm, 0.3, x + dx, y + dy, 0.05)
    elif kind == "dirt":
        x, y = _place(rng, 0.0, 0.7)
        cell.add(DIRT, rng.uniform(1.0, 2.4), x, y, rng.uniform(0.06, 0.13))
    elif kind == "fold":
        x, y = _place(rng, 0.2, 0.7)
        amount, stretch = rng.uniform((0.2, 6), (0.45, 10))
        cell.add(patient.chromatin, amount, x, y, 0.06, stretch=stretch, angle=angle)
    else:
        x, y = _place(rng, 0.0, 0.6)
        cell.add(HAEMOGLOBIN, rng.uniform(-0.8, -0.4), x, y, rng.uniform(0.12, 0.22))


def draw(seed: int, id: str) -> bytes:
    """Draw one cell as an RGB PNG whose pixels depend on nothing but `seed` and `id`.

    Args:
        seed: the seed of the data set.
        id: "<class>/<file name>" as `ids` gives it; the file name starts with the patient, C and digits.
    """
    label, _, name = id.partition("/")
    patient_name = re.match(r"C\d+", name)
    if label not in CLASSES or patient_name is None:
        raise ValueError(f"not a demo id: {id!r}")
    rng = _generator(seed, id)
    patient = _patient(seed, patient_name[0])
    cell = Cell(_outline(rng, patient), patient.blur)
    infected = label == CLASSES[0]

    cell.add(HAEMOGLOBIN, -patient.pallor * rng.uniform(0.3, 1.5), *rng.normal(0, 0.06, 2), 0.5)
    for _ in range(rng.choice(3, p=[0.55, 0.35, 0.1] if infected else [0.2, 0.5, 0.3])):
        _add_confounder(rng, cell, patient)
    if infected:
        for _ in range(1 + (rng.random() < 0.3)):
            _add_parasite(rng, cell, patient)

    height, width = cell.depth.shape[1:]
    grid = np.linspace(-1, 1, 8, dtype=np.float32)
    tilt_x, tilt_y = rng.normal(0, 0.03, 2).astype(np.float32)
    coarse = 1 + tilt_x * grid + tilt_y * grid[:, None] + rng.normal(0, 0.012, (8, 8)).astype(np.float32)
    light = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    regions = cell.regions(rim=2.5)
    light[regions == 1] *= 1 + patient.rim
    grain = rng.integers(-patient.noise, patient.noise, (height, width), np.int8, endpoint=True)
    colour = patient.colour * np.float32(math.exp(rng.normal(0, 0.025)))
    pixels = np.exp(-cell.depth) * light * colour[:, None, None] + grain
    pixels = (np.clip(pixels, 1, 255) * (regions > 0)).astype(np.uint8).transpose(1, 2, 0)

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return buffer.getvalue()
