# MetScope's image; targets: cpu (the default) and cuda. One image serves the API, the worker and the set-up.
FROM python:3.11-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    MPLCONFIGDIR=/tmp/matplotlib
# A name for the user: some packages ask for it when they are imported.
RUN useradd --uid 1000 --home-dir /tmp metscope
WORKDIR /metscope
COPY requirements.txt ./

FROM base AS cuda
RUN pip install "$(grep '^torch==' requirements.txt)" --index-url https://download.pytorch.org/whl/cu130 \
    && pip install -r requirements.txt
COPY . .
RUN chmod -R a+rX .
USER 1000:1000

FROM base AS cpu
RUN pip install "$(grep '^torch==' requirements.txt)" --index-url https://download.pytorch.org/whl/cpu \
    && pip install -r requirements.txt
COPY . .
RUN chmod -R a+rX .
USER 1000:1000
