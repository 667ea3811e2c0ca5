"""Small real corpora, made on the spot: shapes with captions, tones with pictures. Equal seeds give equal files."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "cross")


def draw_shape(colour: str, shape: str, rng: np.random.Generator, side: int = 48) -> bytes:
    """Draw one shape at a random place and size; return it as PNG."""
    picture = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(picture)
    size = int(rng.integers(side // 3, side // 2))
    x, y = (int(value) for value in rng.integers(1, side - size - 1, size=2))
    box = (x, y, x + size, y + size)
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "square":
        draw.rectangle(box, fill=colour)
    elif shape == "triangle":
        draw.polygon([(x, y + size), (x + size, y + size), (x + size // 2, y)], fill=colour)
    else:
        draw.line(box, fill=colour, width=6)
        draw.line((x + size, y, x, y + size), fill=colour, width=6)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def make_image_text_table(num_pairs: int, seed: int = 0) -> pa.Table:
    """Make a table of id, image (PNG bytes), caption, shape: few shapes are frequent, many are rare."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(num_pairs):
        kind = min(int(rng.zipf(1.5)) - 1, len(COLOURS) * len(SHAPES) - 1)
        colour, shape = COLOURS[kind % len(COLOURS)], SHAPES[kind // len(COLOURS)]
        picture = draw_shape(colour, shape, rng)
        rows.append({"id": f"p{number:05d}", "image": picture, "caption": f"a {colour} {shape}", "shape": shape})
    return pa.Table.from_pylist(rows)


def break_pictures(table: pa.Table, every: int) -> pa.Table:
    """Replace every so-manieth picture by bytes that are none, the first one included."""
    pictures = [b"no picture" if i % every == 0 else value.as_py() for i, value in enumerate(table["image"])]
    return table.set_column(1, "image", pa.array(pictures))


def write_image_text_parquet(path: Path, num_pairs: int, seed: int = 0) -> Path:
    """Write `make_image_text_table` as Parquet."""
    pq.write_table(make_image_text_table(num_pairs, seed), path)
    return path


def write_video_folder(folder: Path, num_pairs: int, seed: int = 0) -> Path:
    """Write a folder of one-second tones (wav) and silent films of moving shapes (mp4), paired by stem."""
    import av

    write_clip_folder(folder, num_pairs, seed)
    rng = np.random.default_rng(seed)
    for picture in sorted(folder.rglob("*.png")):
        with av.open(str(picture.with_suffix(".mp4")), "w") as film:
            stream = film.add_stream("mpeg4", rate=8)
            stream.width = stream.height = 48
            stream.pix_fmt = "yuv420p"
            for _ in range(8):
                frame = Image.open(io.BytesIO(draw_shape("red", picture.parent.name, rng)))
                film.mux(stream.encode(av.VideoFrame.from_image(frame)))
            film.mux(stream.encode())
        picture.unlink()
    return folder


def write_clip_folder(folder: Path, num_pairs: int, seed: int = 0) -> Path:
    """Write a folder of one-second tones (wav) and pictures (png), paired by stem, in a sub-folder for each shape."""
    rng = np.random.default_rng(seed)
    times = np.arange(16_000) / 16_000
    for number in range(num_pairs):
        shape, colour = SHAPES[number % len(SHAPES)], COLOURS[number % len(COLOURS)]
        target = folder / shape / f"{number:03d}"
        target.parent.mkdir(parents=True, exist_ok=True)
        pitch = 220 * (1 + number % len(SHAPES)) * (1 + 0.05 * rng.standard_normal())
        tone = 0.3 * np.sin(2 * np.pi * pitch * times) + 0.01 * rng.standard_normal(times.size)
        soundfile.write(target.with_suffix(".wav"), tone.astype(np.float32), 16_000)
        target.with_suffix(".png").write_bytes(draw_shape(colour, shape, rng))
    return folder
