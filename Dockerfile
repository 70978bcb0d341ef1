# syntax=docker/dockerfile:1
# coadvise in a container, for the CPU or for NVIDIA's GPUs:
#
#   docker build -t coadvise .                                      # runs on either
#   docker build -t coadvise:cpu --build-arg TORCH_INDEX=URL .       # a tenth of its size, for the CPU alone
#
# URL is the index of PyTorch's builds for the CPU, as its installation page names it.
#
# The folder in which one stands is /work inside; what is written there belongs to whoever runs it:
#
#   docker run --rm --shm-size=8g --user "$(id -u):$(id -g)" -v "$PWD:/work" coadvise train photographs.yaml
#   docker run --rm --shm-size=8g --user "$(id -u):$(id -g)" -v "$PWD:/work" --gpus all coadvise train photographs.yaml
#
# EXTRAS are those of pyproject.toml, such as report,export; all of them by default. The page of `coadvise view` needs a
# port: -p 127.0.0.1:8000:8000 before the image's name, and view RUN --host 0.0.0.0 --port 8000 behind it.

# The versions in constraints.txt are those of this Python.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
ARG TORCH_INDEX=
ARG EXTRAS=all
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CACHE_DIR=/var/cache/pip
WORKDIR /build
RUN python -m venv /opt/coadvise
ENV PATH=/opt/coadvise/bin:${PATH}
COPY constraints.txt ./
# First what changes seldom.
RUN --mount=type=cache,target=/var/cache/pip pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} torch torchvision
COPY pyproject.toml MANIFEST.in README.md LICENSE ./
COPY src src
RUN --mount=type=cache,target=/var/cache/pip pip install --constraint constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim-bookworm
# Parts of coadvise, and PyTorch's compiler, are compiled where they run.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
# A home that any user may write to, since `--user` gives one that the image does not know.
RUN useradd --create-home --user-group --uid 1000 coadvise && chmod 1777 /home/coadvise && install -d -o coadvise -m 1777 /work
COPY --from=build /opt/coadvise /opt/coadvise
ENV PATH=/opt/coadvise/bin:${PATH} HOME=/home/coadvise USER=coadvise PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["coadvise"]
CMD ["--help"]
