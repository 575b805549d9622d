"""Schematic frontal chest films, drawn by code: a demonstration needs no patient's film.

The drawing adds up how much soft tissue and bone each ray meets, takes away what is air, and turns
the sum into grey as film does: black air, white bone. Proportions vary from film to film. It is a
schema to rehearse a pipeline on and to look at, not a simulation of radiography.

Positions are in half widths of the film: x from -1 (the film's left, which is the patient's right)
to 1, y from -1 (top) to 1; sides are -1 and 1. Thicknesses are relative to the trunk's.

One file, although a long one: every part of the anatomy is drawn by the same few profiles, in an
order on which the random numbers of all later parts depend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

#: What can be drawn; the names are those of `cft.labels`.
PHANTOM_FINDINGS = (
    "Cardiomegaly",
    "Consolidation",
    "Mass",
    "Nodule",
    "Pleural Effusion",
    "Pneumothorax",
    "Support Devices",
)

_SIDES = (-1, 1)
_CHEST = 0.76  # half the inner width of the chest where it is widest
_CHEST_CENTRE, _CHEST_HEIGHT = 0.22, 1.08  # of the ellipse that bounds the lungs at their sides


def draw_phantom(
    findings: Collection[str], size: int, generator: np.random.Generator
) -> np.ndarray:
    """Draw one film.

    Parameters
    ----------
    findings
        Any of `PHANTOM_FINDINGS`.
    size
        Side of the film in pixels, at least 16.
    generator
        Decides everything else. From the same state it draws the same patient at every size, and
        with any findings: two films can differ in one finding alone.

    Returns
    -------
    np.ndarray
        (size, size) uint8.

    Raises
    ------
    ValueError
        For an unknown finding or a size below 16.
    """
    unknown = sorted(set(findings) - set(PHANTOM_FINDINGS))
    if unknown:
        raise ValueError(f"cannot draw {unknown[0]!r}; choose from {', '.join(PHANTOM_FINDINGS)}")
    if size < 16:
        raise ValueError(f"a film of {size} pixels is too small; draw at least 16 x 16")
    film = _Film(frozenset(findings), size, generator)
    film.draw()
    return film.develop()


# --- Profiles ---------------------------------------------------------------------------------


def _clip(value: np.ndarray) -> np.ndarray:
    """To [0, 1]; at these sizes `np.clip` takes four times as long."""
    return np.minimum(np.maximum(value, 0), 1)


def _dome(depth: np.ndarray) -> np.ndarray:
    """Thickness of a rounded body, from 0 at its edge to 1 where ``depth`` is 1 or more."""
    depth = _clip(depth)
    return np.sqrt(depth * (2 - depth))


def _step(value: np.ndarray) -> np.ndarray:
    """A smooth step from 0 (at 0 and below) to 1 (at 1 and above)."""
    value = _clip(value)
    return value * value * (3 - 2 * value)


def _between(low: float, high: float, first: float, step: float) -> slice:
    """The indices of first, first + step, ... that lie from ``low`` to ``high``."""
    return slice(*(max(0, math.ceil((limit - first) / step)) for limit in (low, high)))


def _turned(x: np.ndarray, y: np.ndarray, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along and across an axis that is ``turn`` radians clockwise of x."""
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    return x * cos + y * sin, y * cos - x * sin


def _chest_wall(y: np.ndarray) -> np.ndarray:
    """Half the inner width of the chest at height y."""
    return _CHEST * np.sqrt(np.clip(1 - ((y - _CHEST_CENTRE) / _CHEST_HEIGHT) ** 2, 0.02, 1))


@dataclass
class _Lung:
    """One lung's part of the film; arrays of (h, w), ``u`` being the distance from the midline."""

    side: int
    part: tuple[slice, slice]
    y: np.ndarray
    u: np.ndarray
    from_wall: np.ndarray  # distances from the borders, positive inside
    from_roof: np.ndarray
    air: np.ndarray  # share of the trunk's thickness that is air
    tissue: np.ndarray  # 1 where the lung's vessels are
    solid: np.ndarray  # what is to be added to the attenuation


class _Film:
    """One film while it is drawn: attenuation (H, W) on the grid of ``y`` (H, 1) and ``x`` (1, W).

    Every random number is drawn whether or not it is needed, so that the patient stays the same
    whatever is found.
    """

    def __init__(self, findings: frozenset[str], size: int, generator: np.random.Generator):
        self.findings = findings
        self.uniform = generator.uniform
        self.generator = generator
        centres = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
        self.scale = self.uniform(0.90, 0.97)  # the frame cuts the shoulders, as films do
        self.width = self.uniform(0.96, 1.05)
        self.x = ((centres - self.uniform(-0.03, 0.03)) * self.scale / self.width)[None, :]
        self.y = ((centres - self.uniform(-0.03, 0.03)) * self.scale)[:, None]
        self.top, self.left = float(self.y[0, 0]), float(self.x[0, 0])
        self.pixel = 2 / size * self.scale
        self.attenuation = np.zeros((size, size), np.float32)

    def draw(self) -> None:
        """Everything, from the trunk outwards."""
        self.draw_trunk()
        self.draw_lungs()
        self.draw_vessels()
        self.draw_airways()
        self.draw_bones()
        self.draw_lesions()
        self.draw_devices()

    def develop(self) -> np.ndarray:
        """Attenuation to grey, with the grain of a film: (H, W) uint8."""
        exposure, white = self.uniform(1.15, 1.35), self.uniform(0.90, 0.95)
        grey = (1 - np.exp(-exposure * np.clip(self.attenuation, 0.02, None))) / white
        grey += self.generator.normal(0, 0.011, grey.shape).astype(np.float32)
        return (_clip(grey) * 255).astype(np.uint8)

    # --- Ways to draw -------------------------------------------------------------------------

    def box(self, left: float, right: float, top: float, bottom: float):
        """The part of the film within these limits: index, y (h, 1) and x (1, w)."""
        rows = _between(top, bottom, self.top, self.pixel)
        columns = _between(left, right, self.left, self.pixel / self.width)
        return (rows, columns), self.y[rows], self.x[:, columns]

    def add_ellipse(
        self,
        centre: tuple[float, float],
        radii: tuple[float, float],
        amount: float,
        turn: float = 0.0,
        edge: float = 1.0,
    ) -> None:
        """A rounded body; ``turn`` in radians clockwise, ``edge`` its share that is not flat."""
        reach = max(radii)
        (cx, cy), (rx, ry) = centre, radii
        part, y, x = self.box(cx - reach, cx + reach, cy - reach, cy + reach)
        along, across = _turned(x - cx, y - cy, turn)
        radius = np.sqrt((along / rx) ** 2 + (across / ry) ** 2)
        self.attenuation[part] += amount * _dome((1 - radius) / edge)

    def add_bones(
        self,
        limits: tuple[float, float],
        course: Callable[[np.ndarray], np.ndarray],
        half_width: float,
        amount: float,
        fade: float = 0.03,
    ) -> None:
        """A pair of tubular bones: their height y as ``course`` of |x| between ``limits``."""
        inner, outer = limits
        _, _, x = self.box(-outer, outer, -1, 1)
        distance = np.abs(x)
        middle = course(distance)
        margin = 2.2 * half_width
        low, high = float(middle.min()) - margin, float(middle.max()) + margin
        part, y, _ = self.box(-outer, outer, low, high)
        off = np.abs(y - middle) / half_width
        cortex = max(0.30, 0.8 * self.pixel / half_width)  # brighter: the ray runs within the wall
        profile = 0.6 * np.exp(-(off**4)) + 0.5 * (0.3 / cortex) * np.exp(
            -(((off - 0.95) / cortex) ** 2)
        )
        ends = amount * _step((distance - inner) / fade) * _step((outer - distance) / fade)
        self.attenuation[part] += profile * ends

    def add_line(self, points: np.ndarray, half_width: float, amount: float) -> None:
        """A wire or tube through ``points`` (P, 2) of x and y; never thinner than a pixel."""
        thick = max(half_width, 0.7 * self.pixel)
        margin = 3 * thick
        low, high = points.min(0) - margin, points.max(0) + margin
        part, y, x = self.box(low[0], high[0], low[1], high[1])
        nearest = np.full((len(y), x.shape[1]), np.inf, np.float32)
        for (x0, y0), (x1, y1) in zip(points[:-1].tolist(), points[1:].tolist(), strict=True):
            dx, dy = x1 - x0, y1 - y0
            at = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
            np.minimum(nearest, (x - x0 - at * dx) ** 2 + (y - y0 - at * dy) ** 2, out=nearest)
        strength = amount * half_width / thick
        self.attenuation[part] += strength * np.exp(-nearest / thick**2)

    # --- Anatomy ------------------------------------------------------------------------------

    def draw_trunk(self) -> None:
        """Neck, shoulders, chest and abdomen, with air beside them."""
        shoulders, armpits = _step((self.y + 1.02) / 0.5), _step((self.y + 0.45) / 0.5)
        half_width = 0.20 + 0.95 * shoulders**0.8 - 0.17 * armpits
        thickness = 0.80 + 0.28 * _step((self.y + 0.9) / 1.5)
        self.attenuation += thickness * _dome((half_width - np.abs(self.x)) / (0.8 * half_width))
        for side in _SIDES:  # the heads of the arm bones
            self.add_ellipse((side * 1.0, -0.62), (0.16, 0.17), 0.12)

    def draw_lungs(self) -> None:
        """Air in the chest, and what takes its place."""
        floor, higher = self.uniform(0.46, 0.54), self.uniform(0.03, 0.08)  # the liver's side
        aeration = self.uniform(0.78, 0.86)
        self.lungs = {side: self.lung(side, floor - higher * (side < 0)) for side in _SIDES}
        self.collapse()
        self.consolidate()
        self.flood()
        self.place_heart()
        for lung in self.lungs.values():
            self.attenuation[lung.part] *= 1 - aeration * lung.air
            self.attenuation[lung.part] += lung.solid
        self.add_ellipse((0.38, floor + 0.20), (0.15, 0.07), -0.30, turn=-0.2, edge=0.6)  # stomach

    def lung(self, side: int, floor: float) -> _Lung:
        """A healthy lung above the dome of the diaphragm, whose top is at ``floor``."""
        left, right = sorted((0.02 * side, 0.85 * side))
        part, y, x = self.box(left, right, -0.9, 0.95)
        u = side * x
        wall = _chest_wall(y) - u
        root = u - 0.10 - 0.05 * np.exp(-(((y + 0.02) / 0.25) ** 2))
        base = floor + np.where(u > 0.36, 1.0, 0.55) * (u - 0.36) ** 2 - y
        roof = y + 0.80 - 1.7 * (u - 0.33) ** 2
        air = _dome(wall / 0.36) * _dome(root / 0.22) * _dome(base / 0.10) * _dome(roof / 0.28)
        tissue = _clip(1.5 * air)
        return _Lung(side, part, y, u, wall, roof, air, tissue, np.zeros_like(air))

    def collapse(self) -> None:
        """Pneumothorax: free air under the ribs, no vessels in it, a line along the lung."""
        lung, gap = self.lungs[self.either_side()], self.uniform(0.16, 0.30)
        if "Pneumothorax" not in self.findings:
            return
        gap_here = gap * (1 - 0.8 * _step((lung.y + 0.5) / 1.0))  # air rises: wider at the top
        depth = np.minimum(lung.from_wall - gap_here, lung.from_roof - gap)
        inside = _step(depth / 0.012 + 0.5)
        thick = max(0.007, 0.7 * self.pixel)
        lung.solid += 0.16 * (0.007 / thick) ** 0.5 * np.exp(-((depth / thick) ** 2)) * lung.tissue
        lung.air *= np.where(lung.tissue > 0, 1.17 - 0.27 * inside, 1)
        lung.tissue *= inside

    def flood(self) -> None:
        """Pleural effusion: fluid from the base up, higher at the chest wall."""
        both, first = self.uniform() < 0.3, self.either_side()
        levels = {first: self.uniform(0.05, 0.36), -first: self.uniform(0.15, 0.36)}
        if "Pleural Effusion" not in self.findings:
            return
        for side in _SIDES if both else (first,):
            lung = self.lungs[side]
            level = levels[side] - 0.22 * np.exp(-np.clip(lung.from_wall, 0, None) / 0.09)
            lung.air *= 1 - 0.95 * _step((lung.y - level) / 0.07)
            lung.tissue *= 1 - _step((lung.y - level) / 0.07)

    def consolidate(self) -> None:
        """Consolidation: a cloud in one lung."""
        lung = self.lungs[self.either_side()]
        centre = self.uniform(0.32, 0.50), self.uniform(-0.35, 0.25)
        radii = self.uniform(0.16, 0.26), self.uniform(0.14, 0.24)
        waves = self.uniform(-22, 22, (7, 2)), self.uniform(0, 2 * np.pi, 7)
        if "Consolidation" not in self.findings:
            return
        radius = ((lung.u - centre[0]) / radii[0]) ** 2 + ((lung.y - centre[1]) / radii[1]) ** 2
        texture = sum(
            np.cos(kx * lung.u + ky * lung.y + phase)
            for (kx, ky), phase in zip(waves[0].tolist(), waves[1].tolist(), strict=True)
        )
        lung.air *= 1 - 0.8 * _step((1.3 - radius + 0.2 * texture) / 1.6)

    def place_heart(self) -> None:
        """Heart and great vessels; in cardiomegaly more than half as wide as the chest."""
        small, large = self.uniform(0.40, 0.47), self.uniform(0.56, 0.66)
        ratio = large if "Cardiomegaly" in self.findings else small
        knob = self.uniform(0.08, 0.11)
        half = ratio * _CHEST
        right = -0.15 - 0.35 * (ratio - 0.40)
        self.add_organ((right + half, 0.29), (1.06 * half, 0.84 * half), turn=0.5)
        self.add_organ((right + 0.17, 0.24), (0.19, 0.28))  # right atrium
        self.add_organ((0.11, -0.30), (knob, 1.2 * knob))  # aortic knob
        self.add_organ((0.03, -0.25), (0.16, 0.55))  # great vessels
        self.add_organ((0.15, -0.06), (0.075, 0.16), turn=-0.2)  # pulmonary trunk
        self.add_organ((-0.15, 0.0), (0.065, 0.17), turn=0.25)  # root of the right lung

    def add_organ(
        self, centre: tuple[float, float], radii: tuple[float, float], turn: float = 0.0
    ) -> None:
        """A body of water's density in place of the lungs' air."""
        self.add_ellipse(centre, radii, 0.07, turn)
        for lung in self.lungs.values():
            along, across = _turned(lung.side * lung.u - centre[0], lung.y - centre[1], turn)
            depth = 1 - np.sqrt((along / radii[0]) ** 2 + (across / radii[1]) ** 2)
            body = _dome(depth / 0.45)
            lung.air *= 1 - 0.93 * body
            lung.tissue *= 1 - 0.8 * body

    def draw_vessels(self) -> None:
        """Branches from the root of each lung, thinner outwards, and further ones beyond."""
        main = np.linspace(-1.3, 1.4, 9)
        for lung in self.lungs.values():
            angles = np.concatenate(
                [main + self.uniform(-0.1, 0.1, 9), main + self.uniform(-0.5, 0.5, 9)]
            )
            self.add_vessels(lung, angles, np.repeat([0.0, 0.16], 9))

    def add_vessels(self, lung: _Lung, angles: np.ndarray, starts: np.ndarray) -> None:
        """Branches that leave the root, or ``starts`` further out, at angles to the side."""

        def each(values: np.ndarray) -> np.ndarray:  # (V,) -> (V, 1, 1)
            return values.astype(np.float32)[:, None, None]

        number = len(angles)
        length = each(self.uniform(0.30, 0.50, number))
        bend = each(self.uniform(-0.9, 0.9, number))
        width = each(self.uniform(0.010, 0.017, number) * (1 - 2 * starts))
        scatter = self.uniform(-0.04, 0.04, number)
        cos, sin = each(np.cos(angles)), each(np.sin(angles))
        u = lung.u - each(0.14 + starts * np.cos(angles))
        y = lung.y - each((0.10 + starts) * np.sin(angles) - 0.01 - scatter)
        along = (u * cos + y * sin) / length
        off = y * cos - u * sin - bend * (along * length) ** 2
        taper = width * (1 - 0.75 * _clip(along))
        thick = np.maximum(taper, 0.7 * self.pixel)
        ends = _step(along / 0.2) * (1 - _step((along - 0.3) / 0.7))
        lines = 0.16 * taper / thick * np.exp(-((off / thick) ** 2)) * ends
        self.attenuation[lung.part] += lines.sum(0) * lung.tissue

    def draw_airways(self) -> None:
        """Windpipe and main bronchi: air within the mediastinum."""
        lean = self.uniform(-0.02, 0.01)
        fork = np.array([lean, -0.26])
        part, y, x = self.box(-0.1, 0.1, -1.1, -0.2)
        tube = _dome((0.040 - np.abs(x - lean)) / 0.040)
        self.attenuation[part] -= 0.26 * tube * (1 - _step((y + 0.30) / 0.08))
        for side, reach in ((-1, (0.13, 0.13)), (1, (0.17, 0.12))):
            end = fork + np.array((side * reach[0], reach[1]))
            self.add_line(np.stack([fork, end]), 0.026, -0.15)

    def draw_bones(self) -> None:
        """Spine, ribs, collar bones, shoulder blades."""
        part, y, x = self.box(-0.12, 0.12, -1.1, 1.1)
        body = 0.80 + 0.20 * np.cos(y * (2 * np.pi / 0.135) + self.uniform(0, 6))
        self.attenuation[part] += 0.15 * _dome((0.088 - np.abs(x)) / 0.06) * body
        first, space = self.uniform(-0.80, -0.76), self.uniform(0.122, 0.132)
        slope, strength = self.uniform(0.22, 0.30), self.uniform(0.12, 0.16)
        for number in range(10):
            self.draw_rib(first + space * number, slope, strength, front=number < 7)
        height, sweep = self.uniform(-0.63, -0.58), self.uniform(0.06, 0.12)

        def collar(u: np.ndarray) -> np.ndarray:
            t = (u - 0.06) / 0.74
            return height - sweep * t - 0.03 * np.sin(2 * np.pi * t)

        self.add_bones((0.06, 0.84), collar, 0.030, 0.20)
        for side in _SIDES:
            blade = np.array([(0.80, -0.62), (0.69, -0.35), (0.67, -0.10), (0.76, 0.06)])
            self.add_line(blade * (side, 1), 0.020, 0.07)

    def draw_rib(self, height: float, slope: float, strength: float, front: bool) -> None:
        """One pair: from the spine back and down to the side, then, fainter, forward and down."""
        wall = float(_chest_wall(np.float32(height + 0.15))) + 0.025

        def back_part(u: np.ndarray) -> np.ndarray:
            t = u / wall
            return height - 0.05 * np.sin(2.5 * t) + slope * t**2.4

        def front_part(u: np.ndarray) -> np.ndarray:
            return height + slope - 0.03 + 0.42 * (1 - u / wall) ** 1.1

        self.add_bones((0.06, wall), back_part, 0.023, strength)
        if front:
            self.add_bones((0.30, wall), front_part, 0.029, 0.5 * strength, fade=0.15)

    # --- Findings that are things -------------------------------------------------------------

    def draw_lesions(self) -> None:
        """A mass, and one to three nodules, in the lungs."""
        place, radius, turn = self.place_in_lung(), self.uniform(0.10, 0.16), self.uniform(0, 3)
        if "Mass" in self.findings:
            self.add_ellipse(place, (radius, 0.85 * radius), 0.42, turn, edge=0.9)
        for _ in range(int(self.uniform(1, 4))):
            place, radius = self.place_in_lung(), self.uniform(0.032, 0.050)
            if "Nodule" in self.findings:
                self.add_ellipse(place, (radius, radius), 0.34, edge=0.8)

    def place_in_lung(self) -> tuple[float, float]:
        return self.either_side() * self.uniform(0.28, 0.55), self.uniform(-0.45, 0.28)

    def either_side(self) -> int:
        return -1 if self.uniform() < 0.5 else 1

    def draw_devices(self) -> None:
        """A central venous line, a pacemaker, or a tube in the windpipe and one to the stomach."""
        kind, shift = self.uniform(), self.uniform(-0.03, 0.03)
        if "Support Devices" not in self.findings:
            return
        if kind < 0.4:
            line = [(-0.34, -1.0), (-0.27, -0.78), (-0.16, -0.60), (-0.115, -0.35), (-0.105, 0.02)]
            self.add_line(_smoothed(line) + np.array((0, shift)), 0.009, 0.50)
        elif kind < 0.7:
            self.draw_pacemaker(shift)
        else:
            self.add_line(np.array([(0.0, -1.0), (-0.008, -0.42 + shift)]), 0.016, 0.35)
            tube = [(0.02, -1.0), (0.02, -0.3), (0.04, 0.3), (0.12, 0.52), (0.30, 0.68 + shift)]
            self.add_line(_smoothed(tube), 0.010, 0.45)

    def draw_pacemaker(self, shift: float) -> None:
        """The box below the left collar bone, and a lead to the tip of the right ventricle."""
        part, y, x = self.box(0.40, 0.80, -0.65, -0.20)
        off = ((x - 0.60) / 0.105) ** 4 + ((y + 0.43 - shift) / 0.095) ** 4
        self.attenuation[part] += 1.1 * _step((1 - off) / 0.25)
        lead = [
            (0.53, -0.46),
            (0.40, -0.60),
            (0.12, -0.56),
            (-0.10, -0.42),
            (-0.12, 0.05),
            (-0.05, 0.30),
            (0.20, 0.44),
        ]
        self.add_line(_smoothed(lead), 0.009, 0.55)


def _smoothed(points: list[tuple[float, float]]) -> np.ndarray:
    """A curve near a few points: their cubic B-spline, (P, 2)."""
    knots = np.array([points[0], points[0], *points, points[-1], points[-1]])
    t = np.linspace(0, 1, 5)[:-1, None]
    weights = (1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3
    pieces = [
        sum(w * k for w, k in zip(weights, knots[start : start + 4], strict=True)) / 6
        for start in range(len(knots) - 3)
    ]
    return np.concatenate([*pieces, knots[-1:]])
